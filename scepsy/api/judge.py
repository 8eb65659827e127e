"""Simulation as the judge between plans: the predictor's plan, every other planner's, and neighbours of the best, replayed.

Successive halving (Karnin, Koren & Somekh, "Almost optimal exploration in multi-armed bandits", ICML 2013): in each round all
plans that are left replay the same runs at the same times (common random numbers), the better half stays, and the next round
is longer. Neighbours of the leader join the next round, so that the search climbs while it halves. The measuring rule
(``scepsy.steady``) leaves out the warm-up and tells which plans do not keep up. Between those that the last round cannot tell
apart, the one with the fewest instances is taken.

The budget is given in seconds and spent in calls, ``CALLS_PER_S`` for each, so that a plan does not depend on how busy the
machine is. Short replays of long runs mislead: a system that is still filling looks fast. So a replay has ``SPANS_REPLAYED``
times as many runs as are in flight, and a small budget tries fewer plans first. Only where it does not suffice for
``FEWEST_JUDGED`` plans are replays shorter.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import ceil, fsum, inf
from time import perf_counter

import msgspec
import numpy as np

from scepsy.api.case import Case
from scepsy.api.offered import SCALED_ARRIVALS, exactly
from scepsy.api.settle import calls_per_run, samples_of
from scepsy.backend import Workload
from scepsy.baselines.oracle_user import best_splits
from scepsy.errors import Infeasible
from scepsy.plans import Allocation, Judged, Plan
from scepsy.predictors.aggregate import Floats
from scepsy.search import PLANNERS
from scepsy.search.assemble import assemble
from scepsy.search.climb import neighbour_plans
from scepsy.search.goals import at_factor, plan_exact_with
from scepsy.search.problem import Goal, Problem
from scepsy.search.seeds import other_plans, plan_or_none
from scepsy.slo import over as exceeded_limits
from scepsy.steady.pairs import Difference, compared
from scepsy.steady.rule import Outcome, judge
from scepsy.steady.verdict import STABLE
from sim.world.run import simulate

BUDGET_S = 2.0
CALLS_PER_S = 300_000
"""Simulated calls that a second of the budget stands for. On one busy core of an AMD EPYC the judge did 150,000 (reflection on
shared GPUs) to 800,000 (chat)."""
MOST_JUDGED = 24
"""Plans of the first round, where the budget allows so many."""
FEWEST_JUDGED = 6
"""Plans of the first round at least: then replays may become shorter than ``SPANS_REPLAYED``."""
FINALISTS = 2
ROUND_KEEPS = 0.5
"""Part of a round's plans that stay."""
ROUND_ADDS = 0.2
"""Neighbours of the leader that join the next round, as a part of a round's plans."""
FEWEST_RUNS_JUDGED = 120
SPANS_REPLAYED = 10.0
"""Runs of a replay at least, in runs that are in flight by the prediction."""
INDIFFERENCE = 0.005
"""Plans that differ by less are equal, however sure that is."""
TIE = 0.02
"""Plans that differ by less are equal where the difference is within the noise. Beyond it the lower mean counts."""
SEED = 1_000_003
"""Arrivals and sampled runs of the judge; measurements use small seeds."""
SPLITS_JUDGED = 4
"""Whole-GPU splits that are judged, best first by the predictor."""
FALLBACK_RATE_PART = 0.8
"""Part of the target rates that a planner is asked for where it finds no plan for the whole."""

Allocations = tuple[Allocation, ...]


@dataclass(frozen=True)
class Replayed:
    """A plan's replay."""

    plan: Plan
    outcome: Outcome
    latency_s: Floats
    """Of all runs in order of arrival, weighed so that their mean is the objective; infinite where one did not complete."""
    arrival_s: Floats
    misses: tuple[str, ...] = ()
    """Latency limits of the goal that it exceeds, in words."""

    @property
    def begin_s(self) -> float:
        """Where the steady state begins, in all workflows."""
        return max(one.begin_s for one in self.outcome.values())

    def settled_s(self, begin_s: float) -> Floats:
        """Latencies of the runs that arrived since."""
        return self.latency_s[self.arrival_s >= begin_s]

    @property
    def grows(self) -> bool:
        """Whether work was seen to stay behind. Where runs are long and the replay is short, all plans may look so while the
        system fills, and then latencies decide. Where only some do, the others are the safer choice."""
        return any(one.grows for one in self.outcome.values())

    @property
    def mean_s(self) -> float:
        """Mean after the warm-up, over the runs that completed."""
        chosen = self.settled_s(self.begin_s)
        return float(chosen[np.isfinite(chosen)].mean()) if np.isfinite(chosen).any() else inf

    @property
    def standing(self) -> tuple[bool, int]:
        """The lower the better, before any latency: where no work stays behind, then what misses fewer limits."""
        return self.grows, len(self.misses)

    @property
    def rank(self) -> tuple[tuple[bool, int], float]:
        """What lets no work stay behind and keeps the limits comes first, then what is faster."""
        return self.standing, self.mean_s


@dataclass(frozen=True)
class Judgement:
    """The plan that was chosen, and the mean latency (s) of every plan in the last round that it took part in."""

    best: Plan
    judged: tuple[tuple[Plan, float], ...]


@dataclass
class Replays:
    """Replays of one case: the same runs at the same times for every plan."""

    case: Case
    calls: int = 0
    """Simulated so far."""
    seed: int = SEED
    weights: dict[str, float] = field(init=False)
    _workloads: dict[int, Workload] = field(init=False, default_factory=dict)
    """By their number of runs."""

    def __post_init__(self) -> None:
        rates = self.case.problem.rates_per_s
        self.weights = {
            target.workflow: weight * fsum(rates) / rate
            for target, weight, rate in zip(self.case.problem.targets, self.case.problem.normal_weights, rates, strict=True)
        }

    def replay(self, plan: Plan, runs: int) -> Replayed:
        """Simulate ``runs`` runs."""
        streams = self.case.streams
        if runs not in self._workloads:
            self._workloads[runs] = exactly(streams, runs=runs, seed=self.seed)
        workload = self._workloads[runs]
        records = simulate(plan, workload, profiles=self.case.problem.profiles, engine="auto")
        self.calls += records.calls.num_rows
        samples = samples_of(records, streams)
        arrival = np.concatenate([sample.arrival_s for sample in samples.values()])
        latency = np.concatenate([(s.end_s - s.arrival_s) * self.weights[name] for name, s in samples.items()])
        order = np.argsort(arrival, kind="stable")
        outcome = judge(samples)
        return Replayed(plan, outcome, latency[order], arrival[order], misses(self.case.problem.goal, outcome))


def misses(goal: Goal, outcome: Outcome) -> tuple[str, ...]:
    """Every latency limit of the goal that a replay's latencies exceed, in words."""
    found = []
    for workflow, one in outcome.items():
        seen = {"mean": one.latency.value, "p50": one.p50_s.value, "p95": one.p95_s.value, "p99": one.p99_s.value}
        exceeded = list(exceeded_limits(goal.slo, workflow, seen)) if goal.slo is not None else []
        name, limit_s = "mean" if goal.percentile is None else f"p{goal.percentile:g}", goal.limits_s.get(workflow, inf)
        if seen[name] > limit_s:
            exceeded.append((name, limit_s, seen[name]))
        found += [f"{workflow} {name} {value:.4g} s, limit {limit_s:g} s" for name, limit_s, value in exceeded]
    return tuple(found)


def difference(first: Replayed, second: Replayed) -> Difference:
    """Second − first, run by run, in the steady state of both."""
    begin = max(first.begin_s, second.begin_s)
    one, other = first.settled_s(begin), second.settled_s(begin)
    both = np.isfinite(one) & np.isfinite(other)
    return compared(one[both], other[both])


def why_not_judged(problem: Problem) -> str:
    """Why a question cannot be judged by simulation; empty: it can."""
    goal = problem.goal
    if goal.kind != "latency":
        wanted = {"gpus": "fewest GPUs", "cost": "least cost", "rate": "highest rate"}[goal.kind]
        return f"the goal is the {wanted}, and the judge compares latencies"
    if goal.max_gpus is not None:
        return "the number of GPUs is limited, and the plans that the judge compares are not"
    kinds = sorted({target.arrivals.kind for target in problem.targets} - {*SCALED_ARRIVALS, "deterministic"})
    return f"arrivals of kind {', '.join(kinds)} have no steady state" if kinds else ""


def starts(problem: Problem) -> list[Plan]:
    """Plans to judge: the exact planner's, every other planner's, the best whole-GPU splits.

    A planner that refuses the rates joins with its plan for a part of them
    (``FALLBACK_RATE_PART``): the predictor's refusal is what the judge is there to check. Raises
    ``Infeasible`` when the exact planner finds nothing.
    """
    others = {name: planner for name, planner in PLANNERS.items() if name != "exact"}
    answers = {name: plan_or_none(planner, problem) for name, planner in others.items()}
    found = [plan_exact_with(problem, partial(other_plans, known=answers))]
    for name, planner in others.items():
        plan = answers[name] or plan_or_none(planner, at_factor(problem, FALLBACK_RATE_PART))
        if plan is not None:
            found.append(plan)
    with suppress(Infeasible):
        found.extend(best_splits(problem, SPLITS_JUDGED))
    return found


def judged_plan(case: Case, budget_s: float = BUDGET_S) -> Judgement:
    """The plan that simulates fastest among every planner's and neighbours of the best.

    Raises ``Infeasible`` when the exact planner finds nothing.
    """
    started = perf_counter()
    plans = starts(case.problem)
    sizes, runs = schedule(case, plans[0], budget_s * CALLS_PER_S, MOST_JUDGED)
    seen = _first_of(plans)
    room = max(0, sizes[0] - len(seen))
    seen.update((plan.allocations, plan) for plan in neighbour_plans(case.problem, plans[0].allocations, room, without=seen))
    return _halve(case, seen, budget_s, started, runs, climb=True)


def fastest(plans: Sequence[Plan], case: Case) -> Plan:
    """The plan with the lowest simulated mean latency of some that were given."""
    if len(plans) == 1:
        return plans[0]
    _, runs = schedule(case, plans[0], BUDGET_S * CALLS_PER_S, len(plans))
    return _halve(case, _first_of(plans), BUDGET_S, perf_counter(), runs, climb=False).best


def _first_of(plans: Sequence[Plan]) -> dict[Allocations, Plan]:
    """Plans by what they allocate, the first of equal ones."""
    seen: dict[Allocations, Plan] = {}
    for plan in plans:
        seen.setdefault(plan.allocations, plan)
    return seen


def schedule(case: Case, plan: Plan, calls: float, most: int) -> tuple[list[int], list[int]]:
    """How many plans each round replays, and how many runs of each, for about ``calls`` calls in all.

    Rounds cost the same but for the last, which costs twice as much and decides. As many plans begin as the budget has room
    for when each replay is long enough, ``most`` at most.
    """
    per_run = calls_per_run(case.streams)
    in_flight = fsum(rate * e.latency_s for rate, e in zip(case.problem.rates_per_s, plan.expected, strict=True))
    shortest = max(FEWEST_RUNS_JUDGED, ceil(SPANS_REPLAYED * in_flight))
    for begin in range(most, 0, -1):
        sizes = _sizes(begin)
        per_round = calls / (len(sizes) + 1) / per_run
        runs = [int(per_round / size) for size in sizes[:-1]] + [int(2 * per_round / sizes[-1])]
        if runs[0] >= shortest or begin <= FEWEST_JUDGED:
            break
    return sizes, [max(FEWEST_RUNS_JUDGED, count) for count in runs]


def _sizes(begin: int) -> list[int]:
    """Plans of each round."""
    sizes = [begin]
    while sizes[-1] > FINALISTS:
        sizes.append(max(FINALISTS, ceil(sizes[-1] * ROUND_KEEPS) + int(sizes[-1] * ROUND_ADDS)))
        if sizes[-1] == sizes[-2]:
            sizes[-1] -= 1
    return sizes


def _halve(
    case: Case, seen: dict[Allocations, Plan], budget_s: float, started: float, runs: Sequence[int], *, climb: bool
) -> Judgement:
    """One round for each of ``runs``; the first plan stays in all of them."""
    first, left = next(iter(seen.values())), list(seen.values())
    replays, means = Replays(case), dict.fromkeys(seen, inf)
    for number, count in enumerate(runs):
        ranked = _ranked(replays, left, count, means)
        if number == len(runs) - 1:
            break
        keep = max(FINALISTS, ceil(len(ranked) * ROUND_KEEPS))
        left = [one.plan for one in ranked[:keep]]
        left += [first] if first not in left else []
        if climb:
            new = neighbour_plans(case.problem, ranked[0].plan.allocations, int(len(ranked) * ROUND_ADDS), without=seen)
            seen.update((plan.allocations, plan) for plan in new)
            left += new
    return _judgement(case, replays, ranked, seen, means, budget_s, started)


def _judgement(
    case: Case,
    replays: Replays,
    ranked: Sequence[Replayed],
    seen: Mapping[Allocations, Plan],
    means: Mapping[Allocations, float],
    budget_s: float,
    started: float,
) -> Judgement:
    """What the last round says."""
    first = next(iter(seen.values()))
    chosen, over = choose(ranked)
    plan = _predicted(case.problem, first, chosen, started)
    gap = difference(chosen, over) if over is not None else None
    judged = Judged(
        candidates=len(seen),
        calls=replays.calls,
        budget_s=budget_s,
        seconds=perf_counter() - started,
        lead_pct=None if gap is None or over is None or over.standing > chosen.standing else 100.0 * gap.relative,
        lead_half_width_pct=None
        if gap is None or not np.isfinite(gap.half_width)
        else 100.0 * abs(gap.half_width / chosen.mean_s),
        over=over.plan.planner if over is not None else "",
        stable=all(one.verdict == STABLE for one in chosen.outcome.values()),
        latency_s={name: one.latency.value for name, one in chosen.outcome.items() if np.isfinite(one.latency.value)},
        misses=chosen.misses,
    )
    found = tuple((seen[allocations], mean) for allocations, mean in means.items())
    return Judgement(msgspec.structs.replace(plan, judged=judged), found)


def _ranked(replays: Replays, plans: Sequence[Plan], runs: int, means: dict[Allocations, float]) -> list[Replayed]:
    """All plans replayed, the fastest first; ties stay in order."""
    found = [replays.replay(plan, runs) for plan in plans]
    means.update((one.plan.allocations, one.mean_s) for one in found)
    return sorted(found, key=lambda one: one.rank)


def choose(ranked: Sequence[Replayed]) -> tuple[Replayed, Replayed | None]:
    """The winner, and the best of the others: of those not shown to be slower than the fastest, the fewest instances."""
    best = ranked[0]
    equal = [one for one in ranked if one is best or _equal(best, one)]
    chosen = min(equal, key=lambda one: (len(one.plan.instances), ranked.index(one)))
    others = [one for one in ranked if one is not chosen]
    return chosen, others[0] if others else None


def _equal(best: Replayed, other: Replayed) -> bool:
    if other.standing > best.standing or not np.isfinite(other.mean_s):
        return False
    gap = difference(best, other)
    return abs(gap.relative) < (INDIFFERENCE if gap.significant else TIE)


def _predicted(problem: Problem, first: Plan, chosen: Replayed, started: float) -> Plan:
    """The chosen plan with what is predicted of it at the target rates: one source for the numbers of every plan."""
    plan = chosen.plan
    if plan.allocations != first.allocations:
        plan = assemble(problem, "exact+simulation", plan.allocations, plan.placement, started)
    return msgspec.structs.replace(plan, search_s=perf_counter() - started)
