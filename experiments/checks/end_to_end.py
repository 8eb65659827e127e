"""The whole way on this host: record agent programs, profile, plan, deploy, replay, compare. One command, real engines.

``python -m experiments.checks.end_to_end -o FOLDER`` does it with three small models of random weights on CPU cores, through
the same commands that a user types. Every step leaves its files in FOLDER. A second run goes on after the last finished
step.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from executor.local.deployment import apply, delete
from executor.local.options import LocalOptions
from executor.profiler.instance import single
from executor.random_models import RandomModel, llm_of, write_model
from scepsy.api.engine_profiles import CORE_LAW, CPU_ENGINE, core_type
from scepsy.cluster import Cluster, Gpu, Node
from scepsy.errors import BackendError
from scepsy.files.cluster import save_cluster
from scepsy.files.document import write_yaml
from scepsy.plans import Allocation, Instance, Plan
from scepsy.profile.model import ProfileSet, instance_memory_bytes
from scepsy.profile.share import ColdStartLaw, ContentionLaw
from scepsy.progress import Notify

MODELS = (
    RandomModel(name="small-chat", layers=4, hidden_size=256),
    RandomModel(name="reranker", kind="rerank", layers=2, hidden_size=256),
    RandomModel(name="large-chat", layers=8, hidden_size=512),
)
"""Three kinds of engine: a generator, a pooling model with one score, a larger generator. Large enough that the engines'
work outweighs that of gateway and clients, which share the two cores with them."""

ROLES = {"rewriter": "small-chat", "reranker": "reranker", "generator": "large-chat"}

FIRST_SHARES = {"small-chat": (0, 50), "reranker": (0, 50), "large-chat": (1, 100)}
"""Where everything runs while it is recorded: core and share, before anything is known."""


@dataclass(frozen=True)
class Size:
    """How much of everything; the default fits a test."""

    recorded_runs: int = 16
    requests: int = 30
    rates: int = 4
    rounds: int = 1
    """How often every profiled rate is visited."""
    runs: int = 40
    seeds: tuple[int, ...] = (1,)
    loads: tuple[float, ...] = (1.0,)
    target: float = 0.35
    """Planned rate over the highest rate that the planner says two cores carry."""


def scepsy(*arguments: str, notify: Notify = print) -> dict[str, Any]:
    """Run a command of the command line with --json. Raises ``BackendError`` with its last line when it fails."""
    notify("scepsy " + " ".join(arguments))
    done = subprocess.run(
        [sys.executable, "-c", "from scepsy.cli import main; main()", *arguments, "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BackendError(
            f"scepsy {' '.join(arguments)}: exit {done.returncode}: {(done.stderr.strip() or done.stdout)[-500:]}"
        )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def first_plan() -> tuple[Plan, ProfileSet]:
    """All three models on two cores, shares by guess: only for recording."""
    core = core_type()
    parts = {model.name: single(llm_of(model), core, 1, 100, CPU_ENGINE) for model in MODELS}
    profiles = ProfileSet(
        profiles=tuple(profiles.profiles[0] for _, profiles in parts.values()),
        share_law=CORE_LAW,
        contention=ContentionLaw(interference=0.0),
        cold_start=ColdStartLaw(base_s=0.0, s_per_billion=0.0),
    )
    cluster = two_cores()
    instances, allocations = [], []
    for name, (index, share) in FIRST_SHARES.items():
        memory = instance_memory_bytes(profiles.of(name, core.name, 1), share)
        on = (Gpu(node="localhost", index=index),)
        instances.append(Instance(llm=name, index=0, gpus=on, share_pct=share, memory_bytes=memory))
        allocations.append(Allocation(llm=name, share_pct=share, tensor_parallel=1, replicas=1, gpu_type=core.name))
    plan = Plan(planner="by hand", cluster=cluster, targets=(), allocations=tuple(allocations), instances=tuple(instances))
    return plan, profiles


def two_cores() -> Cluster:
    """This host as a cluster: two cores."""
    core = core_type()
    return Cluster(name="two cores", gpu_types=(core,), nodes=(Node(name="localhost", gpu_type=core.name, gpus=2),))


def record(folder: Path, runs: int, notify: Notify) -> Path:
    """Deploy by hand, run the RAG program against the gateway, keep what was recorded."""
    from experiments.agents.__main__ import run_all  # needs the extra 'agents', which reading this module must not

    path = folder / "calls.jsonl"
    done = folder / "recorded"
    if done.exists():
        return path
    path.unlink(missing_ok=True)
    plan, profiles = first_plan()
    options = LocalOptions(device="cpu", models=_models(folder), record=str(path))
    try:
        state = apply(plan, profiles, options, folder / "recording", notify)
        assert state.gateway is not None
        asyncio.run(run_all("rag", state.gateway.url, ROLES, runs))
    finally:
        delete(folder / "recording", options.stop_timeout_s)
    done.touch()
    return path


def _models(folder: Path) -> dict[str, str]:
    return {model.name: str(write_model(model, folder / "models")) for model in MODELS}


def plan_for(folder: Path, size: Size, notify: Notify) -> dict[str, Any]:
    """Plan for a part of what two cores carry, as the planner itself says."""
    save_cluster(folder / "cluster.yaml", two_cores())
    given = ["-t", str(folder / "trace.jsonl"), "-p", str(folder / "profiles"), "-c", str(folder / "cluster.yaml")]
    most = scepsy("plan", *given, "--rate", "0.01", notify=notify)["throughput_per_s"]
    rate = f"{size.target * most:.4g}"
    return scepsy("plan", *given, "--rate", rate, "-o", str(folder / "rag.plan.yaml"), notify=notify)


def whole_way(folder: Path, size: Size | None = None, notify: Notify = print) -> dict[str, Any]:
    """All steps; what each gave, by name. Raises what a step raises, and leaves nothing running."""
    size = size or Size()
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"seconds": {}}

    def step(name: str, work: Callable[[], Any]) -> None:
        started_s = time.monotonic()
        found[name] = work()
        found["seconds"][name] = round(time.monotonic() - started_s, 1)
        notify(f"{name}: {found['seconds'][name]} s")

    models = [part for name, path in _models(folder).items() for part in ("--model", f"{name}={path}")]
    trace, profiles = str(folder / "trace.jsonl"), str(folder / "profiles")
    step("record", lambda: str(record(folder, size.recorded_runs, notify)))
    step("import", lambda: scepsy("trace", "import", "recording", str(folder / "calls.jsonl"), "-o", trace, notify=notify))
    sweep = ["--requests", str(size.requests), "--rates", str(size.rates), "--rounds", str(size.rounds)]
    step("profile", lambda: scepsy("profile", "run", "-t", trace, *models, "-o", profiles, *sweep, notify=notify))
    step("plan", lambda: plan_for(folder, size, notify))
    write_yaml(folder / "local.yaml", LocalOptions(device="cpu", models=_models(folder)), "scepsy.local", 1)
    seeds = [part for seed in size.seeds for part in ("--seed", str(seed))]
    loads = [part for load in size.loads for part in ("--load", str(load))]
    keep = ["--runs", str(size.runs), "-o", str(folder / "measured")]
    step("compare", lambda: scepsy("compare", str(folder / "rag.plan.yaml"), "--measure", *seeds, *loads, *keep, notify=notify))
    return found


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything that is made.")],
    runs: Annotated[int, typer.Option(min=10, help="Runs per measurement.")] = 60,
    seeds: Annotated[int, typer.Option(min=1, help="Measurements per load.")] = 5,
    load: Annotated[list[float] | None, typer.Option(help="Parts of the target rate (half of what the cores carry).")] = None,
    requests: Annotated[int, typer.Option(min=10, help="Calls per profiled rate and round.")] = 30,
) -> None:
    """Record, profile, plan, deploy, replay, compare; prints the comparison's medians as JSON."""
    chosen = Size(
        recorded_runs=40,
        requests=requests,
        rates=6,
        rounds=3,
        runs=runs,
        seeds=tuple(range(1, seeds + 1)),
        loads=tuple(load or _LOADS),
        target=0.5,
    )
    found = whole_way(output, chosen, lambda line: print(line, file=sys.stderr))
    print(json.dumps({"medians": found["compare"]["medians"], "seconds": found["seconds"]}, indent=2))


_LOADS: Sequence[float] = (0.5, 1.0, 1.4)
"""A quarter, a half and 70 % of what the cores carry."""

if __name__ == "__main__":
    typer.run(main)
