"""Runs an experiment's tasks: resumable, cached row by row under a hash of what they rest on, in parallel, with progress.

A task is a small JSON document. Its rows are stored under the SHA-256 of the experiment's name, the document and the program's
own sources, so an interrupted experiment goes on where it stopped, and a changed program recomputes what it must.
"""

import functools
import hashlib
import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import fsum
from pathlib import Path
from typing import Any, Literal

import joblib
import pandas as pd

from experiments.code_version import code_hash, commit
from experiments.points.measured import Effort
from experiments.points.questions import Question, known_reference, planning_case, reference_of
from scepsy.backend import Workload
from scepsy.errors import InputError
from scepsy.files.atomic import atomic_path
from scepsy.progress import Progress, no_progress
from scepsy.search import PLANNERS
from scepsy.version import __version__
from scepsy.workers import delayed, parallel
from sim.world.run import simulate

Params = Mapping[str, Any]
Row = dict[str, Any]
Backend = Literal["joblib", "dask", "ray"]
SECONDS_PER_TASK_S = 0.5
"""What a task costs beside its simulated calls: planning at every load, tables."""
PROFILE_S = 10.0
"""What profiling a question for the first time costs."""


@dataclass(frozen=True)
class Scale:
    """How much is run: ``quick`` for minutes on two cores, ``full`` for hours."""

    name: str
    effort: Effort
    seeds: tuple[int, ...]
    loads: tuple[float, ...]
    """Parts of the highest rate that the exact planner plans for."""
    halvings: int
    """Steps that narrow each system's border of stability."""

    @property
    def full(self) -> bool:
        """Whether every option and workflow is tried."""
        return self.name in ("full", "long")


QUICK = Scale("quick", effort=Effort(spans=5.0, most_calls=4_000), seeds=(1,), loads=(0.3, 0.6, 0.9), halvings=0)
FULL = Scale(
    "full",
    effort=Effort(spans=60.0, least_runs=1_000),
    seeds=(1, 2, 3, 4, 5),
    loads=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0),
    halvings=4,
)
LONG = replace(FULL, name="long")
"""The evaluation with more calls for systems that are interpreted; the rest as full."""
SMOKE = replace(QUICK, name="smoke")
"""The evaluation as small as can be, for tests; the rest as quick."""
SCALES = {scale.name: scale for scale in (SMOKE, QUICK, FULL, LONG)}


@dataclass(frozen=True)
class Task:
    """One piece of work: a JSON document, and the question whose problem it needs (profiled before workers start)."""

    params: Params
    question: Question | None = None


def _none(params: Params) -> float:
    return 0.0


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
    calls: Callable[[Params], float] = _none
    """About how many calls of the interpreted engine take as long as a task, for time estimates."""
    stages: tuple[Callable[[Scale, Sequence[Row]], Sequence[Task]], ...] = ()
    """Further tasks that rest on the rows of all before; without rows, about as many as there will be."""

    def steps(self) -> tuple[Callable[[Scale, Sequence[Row]], Sequence[Task]], ...]:
        """All stages, the first included."""
        return (lambda scale, rows: self.tasks(scale), *self.stages)


def row_key(experiment: str, params: Params) -> str:
    """The content hash of one task."""
    text = json.dumps([experiment, params, code_hash()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def run_task(experiment: Experiment, params: Params, path: Path) -> list[Row]:
    """One task's rows: read back where they are stored, else computed and stored."""
    if path.exists():
        with suppress(OSError, ValueError):  # a damaged cache: computed anew
            stored: list[Row] = json.loads(path.read_text(encoding="utf-8"))
            return stored
    rows = experiment.run(params)
    with suppress(InputError, OSError):  # a cache is optional
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
        address = os.environ.get("DASK_SCHEDULER_ADDRESS")
        local: dict[str, Any] = {"n_workers": jobs, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
        client: Any = Client(address) if address else Client(**local)  # type: ignore[no-untyped-call]
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
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """All rows of an experiment, in the order of its tasks, with where they come from.

    ``folder`` holds the row cache. ``progress`` counts tasks.
    """
    rows: list[Row] = []
    done = 0
    for step in experiment.steps():
        tasks = step(scale, rows)
        progress(0, total=done + len(tasks))
        found = run_tasks(experiment, tasks, folder=folder, jobs=jobs, backend=backend, progress=progress)
        rows += [row for part in found for row in part]
        done += len(tasks)
    return tidy(experiment, scale, rows)


def task_path(experiment: Experiment, task: Task, folder: Path) -> Path:
    """Where a task's rows are kept."""
    return folder / "rows" / f"{row_key(experiment.name, task.params)}.json"


def run_tasks(
    experiment: Experiment, tasks: Sequence[Task], *, folder: Path, jobs: int, backend: Backend, progress: Progress
) -> list[list[Row]]:
    """Each task's rows, those that are kept read back."""
    paths = [task_path(experiment, task, folder) for task in tasks]
    found: dict[int, list[Row]] = {
        n: run_task(experiment, task.params, path)
        for n, (task, path) in enumerate(zip(tasks, paths, strict=True))
        if path.exists()
    }
    progress(len(found))
    missing = [n for n in range(len(tasks)) if n not in found]
    if missing:
        find_references([question for n in missing if (question := tasks[n].question) is not None], jobs)
        with parallel_backend(backend, jobs):
            work = (delayed(_numbered)(n, experiment, tasks[n].params, paths[n]) for n in missing)
            with warnings.catch_warnings():
                # Workers keep traces and curves between tasks; one that grew large is replaced, and nothing is lost.
                warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
                local = backend == "joblib"
                outcomes: Iterable[tuple[int, list[Row]]] = (
                    parallel(work, unordered=True) if local else joblib.Parallel(return_as="list")(work)
                )
                for number, rows in outcomes:
                    found[number] = rows
                    progress()
    return [found[n] for n in range(len(tasks))]


def find_references(questions: Iterable[Question], jobs: int) -> None:
    """Profile what the questions need and keep their reference rates on disk, where every worker finds them.

    Questions of one workflow first: the others rest on them.
    """
    unknown = [question for question in dict.fromkeys(questions) if known_reference(question) is None]
    alone = [question for question in unknown if len(question.workflows) == 1]
    joint = [question for question in unknown if len(question.workflows) > 1]
    for part in (alone, joint):
        if len(part) == 1:
            reference_of(part[0], jobs=jobs)
        elif part:
            for _ in parallel((delayed(reference_of)(question) for question in part), jobs=jobs):
                pass


def tidy(experiment: Experiment, scale: Scale, rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a table, each with the experiment, the scale and the version that made it."""
    frame = pd.DataFrame(rows)
    facts = {
        "experiment": experiment.name,
        "scale": scale.name,
        "version": __version__,
        "commit": commit(),
        "code": code_hash(),
        "machine": machine(),
    }
    for position, (name, value) in enumerate(facts.items()):
        frame.insert(position, name, value)
    return frame


def calls_per_s() -> float:
    """Calls per second of the interpreted engine on this machine, from one brief run: what time estimates rest on."""
    question = Question(workflows=("reflection",), gpus=2)
    case = planning_case(question, 0.5)
    plan = PLANNERS["exact"](case.problem)
    load = Workload(streams=case.streams, seed=0, runs=400)
    simulate(plan, load, profiles=case.problem.profiles, engine="simpy")
    began = time.perf_counter()
    records = simulate(plan, load, profiles=case.problem.profiles, engine="simpy")
    return float(records.calls.num_rows / (time.perf_counter() - began))


def save_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as parquet, aside and then renamed; the same table gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as aside:
        table.to_parquet(aside, index=False, compression="zstd")


def estimate_s(experiment: Experiment, scale: Scale, *, folder: Path, jobs: int, speed_per_s: float) -> float:
    """Seconds that the tasks which are not cached will take, roughly; profiling of new questions included."""
    rows: list[Row] = []
    left: list[Task] = []
    for step in experiment.steps():
        for task in step(scale, rows):
            path = task_path(experiment, task, folder)
            if path.exists():
                rows += run_task(experiment, task.params, path)
            else:
                left.append(task)
    new = {task.question for task in left if task.question is not None and known_reference(task.question) is None}
    return (fsum(experiment.calls(t.params) / speed_per_s + SECONDS_PER_TASK_S for t in left) + len(new) * PROFILE_S) / jobs


@functools.cache
def machine() -> str:
    """The processor and its cores: what the seconds in a table are seconds of."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"
