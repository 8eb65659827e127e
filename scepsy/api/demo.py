"""The demo: two workflows on 16 GPUs, Scepsy against three allocation rules, predicted and simulated side by side."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pandas as pd

from scepsy.api.planner_sweep import Planned, highest_rate, plan_all, sweep
from scepsy.api.prepare import Load, prepare
from scepsy.cluster import Cluster
from scepsy.files.plan import save_plan
from scepsy.files.profiles import save_profiles
from scepsy.files.trace import load_trace, save_trace
from scepsy.generate import generate
from scepsy.plans import Plan
from scepsy.profile import catalogue
from scepsy.progress import Progress, no_progress
from scepsy.search.problem import Problem
from scepsy.workload import Arrivals, Trace

WORKFLOWS = ("rag-rerank", "beam-search")
PLANNERS = ("exact", "hierarchical", "independent", "proportional", "equal")
LOADS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Rates as parts of the highest rate for which the exact planner finds a plan."""
LEAST_RUNS = 200
"""Runs per simulated point at least; where the rate asks for more, see ``sweep.runs_by_rate``."""
MOST_CALLS = 120_000
"""Calls of one simulated point, where it is not settled before."""
SEED = 1
TRACE_RUNS = 200
CLUSTER = "2x8-a100-80g"


@dataclass(frozen=True)
class WorkflowResult:
    """What came out for one workflow."""

    load: Load
    problem: Problem
    top_per_s: float
    planned: tuple[Planned, ...]
    frame: pd.DataFrame

    @property
    def workflow(self) -> str:
        """The workflow's name."""
        return self.load.workflow

    def plan(self, planner: str, load: float) -> Plan | None:
        """The plan a planner found (or carried) at a load."""
        for one in self.planned:
            if one.planner == planner and one.load == load:
                return one.plan
        return None


def demo_traces(folder: Path, extra: Sequence[Path]) -> list[tuple[Trace, Path]]:
    """The demo's traces: the repository's committed ones, else the same generated into ``folder``; then the extra files."""
    committed = Path(__file__).parents[2] / "traces"
    traces = []
    for workflow in WORKFLOWS:
        path = committed / f"{workflow}.jsonl.gz"
        if not path.exists():
            path = folder / f"{workflow}.jsonl.gz"
            save_trace(path, generate(workflow, runs=TRACE_RUNS, seed=SEED))
        traces.append((load_trace(path), path))
    for path in extra:
        trace = load_trace(path)
        traces += [(trace.of(workflow), path) for workflow in trace.workflows]
    return traces


def run_workflow(
    trace: Trace,
    path: Path,
    cluster: Cluster,
    folder: Path,
    *,
    renames: dict[str, str],
    seeds: Sequence[int],
    jobs: int,
    cache_dir: Path | None,
    progress: Progress = no_progress,
) -> WorkflowResult:
    """Profile, plan, predict and simulate one workflow; leaves its plans and profiles in ``folder``."""
    workflow = trace.workflows[0]
    profiles = catalogue.builtin_profiles({name: renames.get(name, name) for name in trace.llms}, cluster.gpu_types)
    load = Load(trace=trace, arrivals=Arrivals(rate_per_s=1.0), path=str(path))
    progress(0, what=f"{workflow}: profiling")
    problem = prepare(
        [load],
        cluster,
        profiles,
        seed=SEED,
        cache_dir=cache_dir,
        jobs=jobs,
        progress=progress,
    )
    top = highest_rate(problem)
    planned = plan_all(problem, PLANNERS, LOADS, top)
    progress(0, total=len(planned) * len(seeds), what=f"{workflow}: simulating")
    frame = sweep(
        problem,
        load.stream,
        planned,
        least_runs=LEAST_RUNS,
        seeds=seeds,
        jobs=jobs,
        most_calls=MOST_CALLS,
        progress=progress,
    )
    result = WorkflowResult(load=load, problem=problem, top_per_s=top, planned=tuple(planned), frame=frame)
    _leave_plans(result, folder)
    return result


def _leave_plans(result: WorkflowResult, folder: Path) -> None:
    """Write each planner's plan at 70 % load, with the profiles it was made from, so that it can be simulated again."""
    name = f"{result.workflow}.profiles.yaml"
    save_profiles(folder / name, result.problem.profiles)
    for planner in PLANNERS:
        plan = result.plan(planner, 0.7)
        if plan is not None:
            trace = os.path.relpath(Path(result.load.path).resolve(), folder.resolve())
            targets = tuple(msgspec.structs.replace(target, trace=trace) for target in plan.targets)
            plan = msgspec.structs.replace(plan, targets=targets, profiles=name)
            save_plan(folder / f"{result.workflow}.{planner}.plan.yaml", plan)
