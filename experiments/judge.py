"""Simulation as the judge between plans: a brief replay with arrivals that no measurement uses."""

from collections.abc import Sequence

import numpy as np

from experiments.deployment import Case
from scepsy.backend import Workload
from scepsy.plan import Plan
from sim.run import simulate

CALLS = 2_500
"""Simulated calls per judged plan."""
SEED = 1_000_003
"""Arrivals and sampled runs of the judge; measurements use small seeds."""


def mean_latency_s(plan: Plan, case: Case, calls: int = CALLS) -> float:
    """Mean latency (s) over all runs of a brief replay, so that every request counts the same."""
    calls_per_run = sum(
        rate * sum(llm.calls_per_run for llm in use.llms)
        for use, rate in zip(case.problem.uses, case.problem.rates_per_s, strict=True)
    ) / sum(case.problem.rates_per_s)
    runs = max(60, round(calls / calls_per_run))
    records = simulate(plan, Workload(streams=case.streams, seed=SEED, runs=runs), profiles=case.problem.profiles)
    table = records.runs.to_pandas()
    return float(np.mean(table["end_s"] - table["arrival_s"]))


def fastest(plans: Sequence[Plan], case: Case) -> Plan:
    """The plan with the lowest simulated mean latency; ties go to the first."""
    if len(plans) == 1:
        return plans[0]
    return min(plans, key=lambda plan: mean_latency_s(plan, case))
