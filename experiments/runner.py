"""Runs an experiment's tasks: resumable, cached row by row under a hash of what they rest on, in parallel, with progress.

A task is a small JSON document. Its rows are stored under the SHA-256 of the experiment's name, the document and the program's
own sources, so an interrupted experiment goes on where it stopped, and a changed program recomputes what it must.
"""

import functools
import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import joblib
import pandas as pd

from scepsy import __version__
from scepsy.errors import InputError
from scepsy.files.atomic import atomic_path

Params = Mapping[str, Any]
Row = dict[str, Any]
Backend = Literal["joblib", "dask", "ray"]
SOURCES = ("scepsy", "sim", "experiments")
SECONDS_PER_TASK_S = 0.15
"""What a task costs beside its simulated calls: planning, tables."""


@dataclass(frozen=True)
class Scale:
    """How much is run: ``quick`` for minutes on two cores, ``full`` for hours."""

    name: str
    calls: int
    """Simulated calls per point."""
    seeds: tuple[int, ...]
    loads: tuple[float, ...]
    halvings: int
    full: bool


QUICK = Scale("quick", calls=1_500, seeds=(1,), loads=(0.2, 0.5, 0.8, 1.1), halvings=1, full=False)
FULL = Scale(
    "full",
    calls=40_000,
    seeds=(1, 2, 3, 4, 5),
    loads=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0),
    halvings=4,
    full=True,
)


@dataclass(frozen=True)
class Task:
    """One piece of work: parameters, and about how many calls it simulates."""

    params: Params
    calls: float = 0.0


@dataclass(frozen=True)
class Experiment:
    """One experiment: what it is for, its tasks at a scale, and what one task gives."""

    name: str
    title: str
    figure: str
    """The figure or table that reads its parquet."""
    tasks: Callable[[Scale], Sequence[Task]]
    run: Callable[[Params], list[Row]]
    """Pure in its parameters; runs in any process."""


@functools.cache
def code_hash() -> str:
    """Hash of the sources that rows depend on, data files included."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for package in SOURCES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in (".py", ".yaml") and not path.is_relative_to(root / "scepsy" / "cli"):
                digest.update(str(path.relative_to(root)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def commit() -> str:
    """The repository's commit, ``-dirty`` when files differ from it; empty outside a checkout."""
    root = Path(__file__).parent.parent
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        state = subprocess.run(["git", "status", "--porcelain", *SOURCES], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("-dirty" if state.stdout.strip() else "")


def row_key(experiment: str, params: Params) -> str:
    """The content hash of one task."""
    text = json.dumps([experiment, params, code_hash()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def run_task(experiment: Experiment, params: Params, path: Path) -> list[Row]:
    """One task's rows: read back where they are stored, else computed and stored."""
    if path.exists():
        stored: list[Row] = json.loads(path.read_text(encoding="utf-8"))
        return stored
    rows = experiment.run(params)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as aside:
        aside.write_text(json.dumps(rows), encoding="utf-8")
    return rows


def _numbered(number: int, experiment: Experiment, params: Params, path: Path) -> tuple[int, list[Row]]:
    return number, run_task(experiment, params, path)


@contextmanager
def parallel_backend(backend: Backend, jobs: int) -> Iterator[None]:
    """Where joblib's work goes: local processes, a Dask cluster, a Ray cluster. Raises ``InputError`` when it is not installed.

    Dask connects to ``$DASK_SCHEDULER_ADDRESS``, or starts a local cluster of ``jobs`` processes; Ray to ``$RAY_ADDRESS``
    or a local one.
    """
    if backend == "joblib":
        with joblib.parallel_config(backend="loky", n_jobs=jobs):
            yield
    elif backend == "dask":
        try:
            from distributed import Client
        except ImportError as error:
            raise InputError("--backend is 'dask': not installed here: pip install 'scepsy[cluster]'") from error
        import os

        address = os.environ.get("DASK_SCHEDULER_ADDRESS")
        client = (
            Client(address) if address else Client(n_workers=jobs, threads_per_worker=1, processes=True, dashboard_address=None)
        )
        with client, joblib.parallel_config(backend="dask"):
            yield
    else:
        try:
            from ray.util.joblib import register_ray  # type: ignore[import-not-found]
        except ImportError as error:
            raise InputError("--backend is 'ray': not installed here: pip install ray") from error
        register_ray()
        with joblib.parallel_config(backend="ray", n_jobs=jobs):
            yield


def run_experiment(
    experiment: Experiment,
    scale: Scale,
    *,
    folder: Path,
    jobs: int = 2,
    backend: Backend = "joblib",
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """All rows of an experiment, in the order of its tasks, with where they come from.

    ``folder`` holds the row cache; ``progress`` is called with (done, total).
    """
    tasks = experiment.tasks(scale)
    paths = [folder / "rows" / f"{row_key(experiment.name, task.params)}.json" for task in tasks]
    found: dict[int, list[Row]] = {
        n: run_task(experiment, task.params, path)
        for n, (task, path) in enumerate(zip(tasks, paths, strict=True))
        if path.exists()
    }
    if progress is not None:
        progress(len(found), len(tasks))
    missing = [n for n in range(len(tasks)) if n not in found]
    if missing:
        with parallel_backend(backend, jobs):
            work = (joblib.delayed(_numbered)(n, experiment, tasks[n].params, paths[n]) for n in missing)
            mode = "generator_unordered" if backend == "joblib" else "list"
            outcomes: Iterable[tuple[int, list[Row]]] = joblib.Parallel(return_as=mode)(work)
            for number, rows in outcomes:
                found[number] = rows
                if progress is not None:
                    progress(len(found), len(tasks))
    return tidy(experiment, scale, [row for n in range(len(tasks)) for row in found[n]])


def tidy(experiment: Experiment, scale: Scale, rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a table, each with the experiment, the scale and the version that made it."""
    frame = pd.DataFrame(rows)
    facts = {
        "experiment": experiment.name,
        "scale": scale.name,
        "version": __version__,
        "commit": commit(),
        "code": code_hash(),
    }
    for position, (name, value) in enumerate(facts.items()):
        frame.insert(position, name, value)
    return frame


def calls_per_s() -> float:
    """Simulated calls per second on this machine, from one brief run: what time estimates rest on."""
    from experiments.points import Effort, measured_point
    from experiments.questions import Question

    question = Question(workflows=("rag-rerank",))
    measured_point(question, "equal", {}, 0.5, 0, Effort(calls=200, least_runs=60))
    began, calls = time.perf_counter(), 6_000
    measured_point(question, "equal", {}, 0.5, 0, Effort(calls=calls))
    return calls / (time.perf_counter() - began)


def estimate_s(experiment: Experiment, scale: Scale, *, folder: Path, jobs: int, speed_per_s: float) -> float:
    """Seconds that the tasks which are not cached will take, roughly."""
    left = [t for t in experiment.tasks(scale) if not (folder / "rows" / f"{row_key(experiment.name, t.params)}.json").exists()]
    return sum(task.calls / speed_per_s + SECONDS_PER_TASK_S for task in left) / jobs
