"""Simulation as the judge between plans: a brief replay with arrivals that no measurement uses."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import fsum
from time import perf_counter

import msgspec
import pandas as pd

from scepsy.api.case import Case
from scepsy.backend import Workload
from scepsy.baselines.oracle_user import best_splits
from scepsy.errors import Infeasible
from scepsy.plans import Plan
from scepsy.search import PLANNERS
from scepsy.search.assemble import assemble
from scepsy.search.climb import Climb, climb
from scepsy.search.goals import at_factor
from scepsy.search.problem import Problem
from sim.world.run import simulate

ARRIVALS_PER_LATENCY = 3.0
"""Arrivals of a judged replay last this many expected latencies, so that queues show."""
LEAST_CALLS = 2_500
MOST_CALLS = 6_000
WARMUP_PART = 0.3
"""Runs that arrive first and do not count: an empty cluster flatters the plans that cannot keep up."""
MAX_PLANS_JUDGED = 16
FINALISTS = 3
"""Plans judged again, with the exact planner's own, by a replay ``FINAL_LENGTH_FACTOR`` times as long."""
FINAL_LENGTH_FACTOR = 3
SEED = 1_000_003
"""Arrivals and sampled runs of the judge; measurements use small seeds."""
SPLITS_JUDGED = 4
"""Whole-GPU splits that are judged, best first by the predictor."""
FALLBACK_RATE_PARTS = (1.0, 0.9, 0.8, 0.65, 0.5)
"""Parts of the target rates that a planner is asked for in turn, where it finds no plan for more."""


@dataclass(frozen=True)
class Replays:
    """Brief replays of one case: the same runs at the same times for every plan."""

    case: Case
    runs: int

    def latencies_s(self, plan: Plan) -> pd.DataFrame:
        """One row per run after the warm-up: its ``workflow`` and ``latency_s``."""
        workload = Workload(streams=self.case.streams, seed=SEED, runs=self.runs)
        table: pd.DataFrame = simulate(plan, workload, profiles=self.case.problem.profiles).runs.to_pandas()
        table = table.sort_values("arrival_s", kind="stable")[int(WARMUP_PART * len(table)) :]
        return table.assign(latency_s=table["end_s"] - table["arrival_s"])[["workflow", "latency_s"]]

    def mean_s(self, plan: Plan) -> float:
        """Mean over all runs, so that every request counts the same."""
        return float(self.latencies_s(plan)["latency_s"].mean())

    def longer(self) -> "Replays":
        """The same, ``FINAL_LENGTH_FACTOR`` times as many runs."""
        return Replays(self.case, FINAL_LENGTH_FACTOR * self.runs)


def replays(case: Case, expected_s: float) -> Replays:
    """As many runs as last ``ARRIVALS_PER_LATENCY`` times the expected latency, within ``LEAST_CALLS`` and ``MOST_CALLS``."""
    rates = case.problem.rates_per_s
    per_run = fsum(
        rate * fsum(llm.calls_per_run for llm in use.llms) for use, rate in zip(case.problem.uses, rates, strict=True)
    ) / fsum(rates)
    calls = min(max(LEAST_CALLS, ARRIVALS_PER_LATENCY * expected_s * fsum(rates) * per_run), MOST_CALLS)
    return Replays(case, max(60, round(calls / per_run)))


def expected_s(plan: Plan) -> float:
    """The plan's expected latency (s), the slowest workflow's."""
    return max(e.latency_s for e in plan.expected)


def fastest(plans: Sequence[Plan], case: Case) -> Plan:
    """The plan with the lowest simulated mean latency; ties go to the first."""
    if len(plans) == 1:
        return plans[0]
    return min(plans, key=replays(case, expected_s(plans[0])).mean_s)


def starts(problem: Problem) -> list[Plan]:
    """Plans that a search by simulation begins with: the exact planner's, every other planner's, the best whole-GPU splits.

    A planner that refuses the rates joins with its plan for the largest part of them that it accepts
    (``FALLBACK_RATE_PARTS``): the predictor's refusal is what the judge is there to check. Raises
    ``Infeasible`` when the exact planner finds nothing.
    """
    found = [PLANNERS["exact"](problem)]
    for name in PLANNERS:
        for part in FALLBACK_RATE_PARTS if name != "exact" else ():
            try:
                found.append(PLANNERS[name](at_factor(problem, part)))
                break
            except Infeasible:
                continue
    with suppress(Infeasible):
        found.extend(best_splits(problem, SPLITS_JUDGED))
    return found


def judged_plan(case: Case) -> Climb:
    """The plan that simulates fastest among every planner's and its neighbours, expecting what it was judged at.

    Raises ``Infeasible`` when the exact planner finds nothing.
    """
    started = perf_counter()
    problem, plans = case.problem, starts(case.problem)
    replay = replays(case, expected_s(plans[0]))
    found = climb(problem, plans, replay.mean_s, judgements=MAX_PLANS_JUDGED)
    ranked = [plan for plan, _ in sorted(found.judged, key=lambda pair: pair[1])[:FINALISTS]]
    finalists = [plans[0], *(plan for plan in ranked if plan is not plans[0])]
    replay = replay.longer()
    seconds = [replay.latencies_s(plan) for plan in finalists]
    chosen = min(range(len(finalists)), key=lambda n: float(seconds[n]["latency_s"].mean()))
    best = finalists[chosen]
    plan = assemble(problem, "exact+simulation", best.allocations, best.placement, started)
    means = seconds[chosen].groupby("workflow")["latency_s"].mean()
    expected = tuple(msgspec.structs.replace(e, latency_s=float(means[e.workflow])) for e in plan.expected)
    return Climb(msgspec.structs.replace(plan, expected=expected, predictor="simulation"), found.judged)
