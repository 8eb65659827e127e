"""Measured points as tidy rows: one system with one option, one question, one seed, at several loads."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any, cast

import numpy as np

from experiments.points.questions import (
    Question,
    Reference,
    known_reference,
    measured_streams,
    planning_case,
    reference_of,
    trace_of,
)
from experiments.systems.deployment import Deployment, Option, label_of
from experiments.systems.registry import carried, deploy, find_system, highest_part
from scepsy.api.forecast import forecast
from scepsy.api.point import measure, unloaded_s
from scepsy.backend import Workload
from scepsy.errors import Infeasible
from scepsy.plans import Plan
from scepsy.records import COMPLETED, Records

Row = dict[str, Any]

NO_PLAN = cast(Plan, None)
"""``measure`` hands its plan to the replay only; a deployment's replay has its own."""


@dataclass(frozen=True)
class Effort:
    """How much is simulated per point."""

    spans: float
    """Arrivals last this many times the workload's predicted latency, so that a queue has time to grow."""
    least_runs: int = 80
    """Of the workflow with the fewest."""
    most_calls: int = 1_000_000


class _Tap:
    """A deployment as ``measure`` wants it, keeping the last records for what the rows add."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self.last: Records | None = None

    def __call__(self, plan: Plan, workload: Workload) -> Records:
        self.last = self._deployment.replay(workload)
        return self.last


def runs_of(question: Question, load: float, effort: Effort) -> int:
    """Runs of one point: the same for every system."""
    reference = reference_of(question)
    rates = [rate * load for rate in reference.rates_per_s]
    total = fsum(rates)
    per_run = fsum(rate * calls for rate, calls in zip(rates, calls_per_run(question), strict=True)) / total
    wanted = min(effort.spans * reference.latency_s * total, effort.most_calls / per_run)
    return round(max(wanted, effort.least_runs * total / min(rates)))


def calls_per_run(question: Question) -> list[float]:
    """Mean calls per run of each workflow, as measured."""
    traces = [trace_of(workflow, question.measured_on) for workflow in question.workflows]
    return [sum(len(run.calls) for run in trace.runs) / len(trace.runs) for trace in traces]


GUESS = Reference(rates_per_s=(20.0,), latency_s=3.0)
"""Stands in for a question that was never profiled, in time estimates only."""


COMPILED_SPEEDUP = 15.0
"""Calls of the compiled core in the time of one interpreted call, in rounds of some 20,000 calls."""


def interpreted(system: str) -> bool:
    """Whether a system needs the interpreted engine: it has a run time or a queue order of its own."""
    return (
        find_system(system).group in ("engine", "autoscaling") or system.startswith("muxserve") or system.endswith("-hexagent")
    )


def expected_calls(question: Question, load: float, effort: Effort, system: str = "scepsy") -> float:
    """Interpreted calls that take about as long as one point, the unloaded replay included. For estimates: profiles nothing."""
    reference = known_reference(question) or GUESS
    total = fsum(reference.rates_per_s) * load
    mean = fsum(calls_per_run(question)) / len(question.workflows)
    runs = max(effort.least_runs, min(effort.spans * reference.latency_s * total, effort.most_calls / mean))
    return (runs + 40 * len(question.workflows)) * mean / (1.0 if interpreted(system) else COMPILED_SPEEDUP)


def deployed(question: Question, system: str, option: Option, load: float) -> Deployment | str:
    """The system as it would run at a load, kept for the points that follow; in words why it has nothing to run."""
    return _deployed(question, system, tuple(option.items()), load)


@functools.lru_cache(maxsize=32)
def _deployed(question: Question, system: str, option: tuple[tuple[str, Any], ...], load: float) -> Deployment | str:
    found, case = find_system(system), planning_case(question, load)
    try:
        return found.deploy(case, dict(option))
    except Infeasible as error:
        why = error
    highest = _highest_planned(question, system, option)
    if highest == 0.0:
        return " ".join(str(why).split())
    if highest >= load:  # a planner that finds plans for more, and for this rate none
        return deploy(found, case, dict(option))
    return carried(found.deploy(planning_case(question, highest), dict(option)), highest / load, why)


TOP_LOAD = 2.0
"""No system is known to plan for more than this load."""


@functools.lru_cache(maxsize=256)
def _highest_planned(question: Question, system: str, option: tuple[tuple[str, Any], ...]) -> float:
    """The highest load for which a system finds a plan; 0 when there is none. One search for all loads beyond it."""
    return TOP_LOAD * highest_part(find_system(system), planning_case(question, TOP_LOAD), dict(option))


def common(question: Question, system: str, option: Option, load: float, seed: int) -> Row:
    """The columns that every row of a point has."""
    return {
        "system": system,
        "option": label_of(option),
        "workload": question.name,
        "gpus": question.gpus,
        "gpus_per_node": question.gpus_per_node,
        "gpu_type": question.gpu_type,
        "models": " ".join(f"{name}={model}" for name, model in question.models),
        "arrivals": question.arrivals,
        "planned_on": question.planned_on,
        "measured_on": question.measured_on,
        "load": load,
        "seed": seed,
    }


def measured_point(question: Question, system: str, option: Option, load: float, seed: int, effort: Effort) -> list[Row]:
    """Simulate one point: one row per workflow, or one that says why the system has nothing to run."""
    base = common(question, system, option, load, seed)
    deployment = deployed(question, system, option, load)
    rates = dict(zip(question.workflows, [rate * load for rate in reference_of(question).rates_per_s], strict=True))
    if isinstance(deployment, str):
        return [
            base
            | {"workflow": w, "rate_per_s": rate, "source": "simulated", "stable": False, "why": f"infeasible: {deployment}"}
            for w, rate in rates.items()
        ]
    streams = measured_streams(question, load)
    tap = _Tap(deployment)
    alone = {s.workflow: unloaded_s(NO_PLAN, s, tap, 0) for s in streams}
    rows = measure(NO_PLAN, streams, tap, runs=runs_of(question, load, effort), seed=seed, unloaded=alone)
    extra = _spent(cast(Records, tap.last), deployment)
    return [base | row | extra for row in rows]


def _spent(records: Records, deployment: Deployment) -> Row:
    calls = records.calls
    done = np.asarray(calls["status"].to_pylist(), dtype=object) == COMPLETED
    tokens = [int(calls[name].to_numpy(zero_copy_only=False)[done].sum()) for name in ("input_tokens", "output_tokens")]
    return {
        "gpus_held": deployment.gpus,
        "gpu_s": deployment.gpus * float(records.meta.get("simulated_s", "nan")),
        "input_tokens": tokens[0],
        "output_tokens": tokens[1],
        "decided": deployment.decided,
        "carried": deployment.carried,
        "plan_hash": deployment.hash,
        "search_s": deployment.plan.search_s if deployment.plan else math.nan,
    }


def predicted_point(question: Question, system: str, option: Option, load: float, predictor: str) -> list[Row]:
    """What a predictor says of the system's plan at a load; no row where it has none."""
    deployment = deployed(question, system, option, load)
    if isinstance(deployment, str) or deployment.plan is None:
        return []
    problem = planning_case(question, load).problem
    rows = []
    for document in forecast(deployment.plan, problem, predictor):
        latency = document["latency_s"]
        rows.append(
            common(question, system, option, load, -1)
            | {
                "workflow": document["workflow"],
                "rate_per_s": dict(zip(question.workflows, problem.rates_per_s, strict=True))[str(document["workflow"])],
                "source": "predicted",
                "predictor": predictor,
                "latency_mean_s": _number(latency["mean"]),
                "latency_p50_s": _number(latency["p50"]),
                "latency_p95_s": _number(latency["p95"]),
                "latency_p99_s": _number(latency["p99"]),
                "throughput_per_s": document["throughput_per_s"],
                "stable": math.isfinite(_number(latency["mean"])),
                "why": "",
                "plan_hash": deployment.hash,
            }
        )
    return rows


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def ladder(
    question: Question, system: str, option: Option, loads: Sequence[float], seed: int, effort: Effort, halvings: int
) -> list[Row]:
    """Points at rising loads, then the border of stability narrowed by ``halvings`` between the last stable and the first
    unstable.

    Rows of the narrowing have ``kind`` capacity, the others sweep. Loads after the second unstable one are not simulated:
    a system that is behind at two loads in a row does not recover at a higher one.
    """
    rows: list[Row] = []
    stable, unstable, missed = 0.0, math.inf, 0
    for load in sorted(loads):
        if missed == 2:
            break
        found = [row | {"kind": "sweep"} for row in measured_point(question, system, option, load, seed, effort)]
        rows += found
        if all(row["stable"] for row in found):
            stable, missed = load, 0
        else:
            unstable, missed = min(unstable, load), missed + 1
    if 0 < stable < unstable < math.inf:
        for _ in range(halvings):
            middle = (stable + unstable) / 2
            found = [row | {"kind": "capacity"} for row in measured_point(question, system, option, middle, seed, effort)]
            rows += found
            if all(row["stable"] for row in found):
                stable = middle
            else:
                unstable = middle
    return rows
