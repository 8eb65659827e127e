"""Predicted, simulated and measured, side by side: one row per source, the errors against the measurement beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from executor.cpu_meter import NOTHING, decode, shape_of
from scepsy.backend import Stream, Workload
from scepsy.errors import InputError
from scepsy.plans import Plan
from scepsy.profile.model import Profile, ProfileSet
from scepsy.profile.step import StepModel
from scepsy.records import COMPLETED, Records
from scepsy.workload import Arrivals, Trace

NUMBERS = ("latency_mean_s", "latency_p95_s", "throughput_per_s")

CONDITIONS = ("slowdown", "others_cores")
"""Under which it was measured: slower than while profiled, cores that other processes kept busy."""

AT_SPEED = "simulated-at-speed"
"""The simulation with every step as much longer as the machine was slower while measuring than while profiling."""

MEAN_LIMIT_PCT, P95_LIMIT_PCT = 10.0, 20.0
"""What simulated latency may differ from measured at up to 70 % load."""


def workload_of(plan: Plan, traces: Mapping[str, Trace], *, runs: int, seed: int, scale: float = 1.0) -> Workload:
    """The plan's targets as a workload, all rates times ``scale``. Raises ``InputError`` for a target without a rate."""
    streams = []
    for target in plan.targets:
        rate = target.arrivals.rate_per_s
        if rate is None:
            raise InputError(f"plan: target {target.workflow} has no rate: give one to replay it")
        arrivals = Arrivals(kind="poisson", rate_per_s=rate * scale)
        streams.append(Stream(trace=traces[target.workflow].of(target.workflow), arrivals=arrivals, order="shuffled"))
    return Workload(streams=tuple(streams), seed=seed, runs=runs)


def row_of(records: Records, plan: Plan, workflow: str, rate_per_s: float, seed: int, source: str) -> dict[str, Any]:
    """One row: latency of the completed runs of one workflow, and how many of them ended per second between first and last."""
    table = records.runs.to_pydict()
    chosen = [i for i, (name, status) in enumerate(zip(table["workflow"], table["status"], strict=True))
              if name == workflow and status == COMPLETED]  # fmt: skip
    if not chosen:
        raise InputError(f"{source} records of {workflow}: no run was completed: must be some to compare")
    latency = np.array([table["end_s"][i] - table["arrival_s"][i] for i in chosen])
    ends = sorted(table["end_s"][i] for i in chosen)
    span_s = ends[-1] - min(table["arrival_s"][i] for i in chosen)
    return {
        "planner": plan.planner,
        "workflow": workflow,
        "rate_per_s": rate_per_s,
        "seed": seed,
        "source": source,
        "latency_mean_s": float(latency.mean()),
        "latency_p95_s": float(np.percentile(latency, 95)),
        "throughput_per_s": len(chosen) / span_s if span_s > 0 else 0.0,
        "runs": len(chosen),
        "not_completed": table["workflow"].count(workflow) - len(chosen),
    }


def predicted_row(plan: Plan, workflow: str, rate_per_s: float, seed: int, prediction: Mapping[str, Any]) -> dict[str, Any]:
    """The predictor's row; ``prediction`` is the JSON document of ``scepsy predict`` for this workflow."""
    latency = prediction["latency_s"]
    return {
        "planner": plan.planner,
        "workflow": workflow,
        "rate_per_s": rate_per_s,
        "seed": seed,
        "source": "predicted",
        "latency_mean_s": latency["mean"],
        "latency_p95_s": latency.get("p95"),
        "throughput_per_s": min(rate_per_s, prediction["throughput_per_s"]),
    }


def with_errors(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add signed errors in percent to every row that has a measured partner (same planner, workflow, rate and seed)."""
    key = ("planner", "workflow", "rate_per_s", "seed")
    measured = {tuple(row[name] for name in key): row for row in rows if row["source"] == "measured"}
    found = []
    for row in rows:
        partner = measured.get(tuple(row[name] for name in key))
        errors: dict[str, float | None] = {}
        if partner is not None and row is not partner:
            for name in NUMBERS:
                known = row.get(name) is not None and partner[name]
                errors[name.removesuffix("_s").removesuffix("_per") + "_err_pct"] = (
                    100.0 * (row[name] - partner[name]) / partner[name] if known else None
                )
        found.append({**row, **errors})
    return found


def medians(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians over seeds per (planner, workflow, rate, source), with errors of the medians against the measured ones."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in rows:
        groups.setdefault((one["planner"], one["workflow"], one["rate_per_s"], one["source"]), []).append(one)
    found = []
    for (planner, workflow, rate, source), members in groups.items():
        row: dict[str, Any] = {
            "planner": planner, "workflow": workflow, "rate_per_s": rate, "seed": "median", "source": source,
            "seeds": len(members),
        }  # fmt: skip
        for name in NUMBERS:
            values = [member[name] for member in members if member.get(name) is not None]
            row[name] = float(np.median(values)) if values else None
        for name in CONDITIONS:
            values = [member[name] for member in members if member.get(name) is not None]
            if values:
                row[name] = float(np.median(values))
        found.append(row)
    return with_errors(found)


def simulated(plan: Plan, workload: Workload, profiles: ProfileSet) -> Records:
    """The same workload, simulated."""
    from sim.world.run import simulate

    return simulate(plan, workload, profiles=profiles)


def slowdowns(records: Records, plan: Plan, profiles: ProfileSet) -> dict[str, float]:
    """How much more CPU time the engines of each LLM took for their work in ``records`` than while they were profiled.

    Empty when nothing was metered: on GPUs, and for profiles or records that were made without.
    """
    work = decode(records.meta.get("work", "{}"))
    calls = records.calls.select(["llm", "input_tokens", "output_tokens"]).to_pandas()
    found = {}
    for allocation in plan.allocations:
        profile = profiles.of(allocation.llm, allocation.gpu_type, allocation.tensor_parallel)
        names = [instance.name for instance in plan.instances if instance.llm == allocation.llm]
        done = sum((work[name] for name in names if name in work), NOTHING)
        served = calls[calls["llm"] == allocation.llm]
        step_s = done.step_s(profile.step, shape_of(served["input_tokens"], served["output_tokens"]))
        if profile.cpu_s_per_step_s and step_s > 0:
            found[allocation.llm] = done.cpu_s / step_s / profile.cpu_s_per_step_s
    return found


def slowed(profiles: ProfileSet, factors: Mapping[str, float]) -> ProfileSet:
    """The profiles with every step of an LLM ``factors`` times as long."""

    def slower(profile: Profile) -> Profile:
        factor = factors.get(profile.llm.name, 1.0)
        step = {name: factor * getattr(profile.step, name) for name in StepModel.__struct_fields__}
        return msgspec.structs.replace(profile, step=StepModel(**step))

    return msgspec.structs.replace(profiles, profiles=tuple(map(slower, profiles.profiles)))
