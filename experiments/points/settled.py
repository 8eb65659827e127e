"""One point, measured until it is settled: a system at a load, over several seeds, in rounds that get longer.

Every seed's runs are judged by ``scepsy.steady``. A point is *stable* when every seed is, *unstable* when two are (one, where
there is only one), *undecided* otherwise. It is *settled* when it is stable and the interval of its mean over seeds is as
short as asked for. Rounds have fixed lengths, so systems that end in the same round replayed the same runs at the same times.
What a point may cost is counted in simulated calls, never in seconds: the same rows on every machine.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

import msgspec

from experiments.points.measured import GUESS, calls_per_run, common, deployed
from experiments.points.questions import Question, known_reference, measured_streams, reference_of
from experiments.systems.deployment import Deployment, Option
from experiments.systems.registry import find_system
from scepsy.api.settle import Settled, settle
from scepsy.api.settle import calls_per_run as calls_of_streams
from scepsy.backend import Stream
from scepsy.metrics import seeds_interval
from scepsy.steady.verdict import FEWEST_RUNS, STABLE, UNDECIDED, UNSTABLE

Row = dict[str, Any]

GROWTH = 3
"""Each round is so many times as long as the one before."""
LEAST_SPANS = 6.0
"""Arrivals of the first round last at least this many times the predicted latency."""
CERTAIN = 2
"""Unstable seeds that make a point unstable. One alone may be the false alarm of 0.5 % that each test has."""


@dataclass(frozen=True)
class Budget:
    """What one experiment may spend, and how precise it should be."""

    seeds: tuple[int, ...]
    precision: float
    """Half-width over mean of the latency over seeds at which a point is settled."""
    tolerance: float
    """Highest stable rates are narrowed to ± this part."""
    first_calls: int
    """Calls of each seed's first round."""
    most_calls: int
    """Calls of each seed's last round, where the compiled core models the system."""
    most_policy_calls: int
    """The same where only the interpreted engine does."""

    def limit(self, engine: str) -> int:
        """Calls of a seed's last round under an engine."""
        return self.most_calls if engine == "compiled" else self.most_policy_calls


@dataclass(frozen=True)
class Round:
    """The seeds of one round."""

    seeds: Mapping[int, Settled]

    @property
    def verdict(self) -> str:
        """Of the point."""
        unstable = sum(one.unstable for one in self.seeds.values())
        if unstable >= min(CERTAIN, len(self.seeds)):
            return UNSTABLE
        return STABLE if all(one.stable for one in self.seeds.values()) else UNDECIDED

    def relative(self, workflow: str) -> float:
        """Half-width over mean of a workflow's latency: Student's t over three seeds and more, batch means below."""
        found = [one.by_workflow[workflow].latency for one in self.seeds.values()]
        mean = fsum(one.value for one in found) / len(found)
        if not mean > 0:
            return math.inf
        if len(found) >= 3:
            low, high = seeds_interval([one.value for one in found])
            return (high - low) / 2 / mean
        return math.sqrt(fsum(one.half_width**2 for one in found)) / len(found) / mean

    def settled(self, precision: float) -> bool:
        """Whether the point is."""
        names = next(iter(self.seeds.values())).by_workflow
        return self.verdict == STABLE and all(self.relative(name) <= precision for name in names)

    def why(self, precision: float) -> str:
        """Why it is not settled; empty when it is."""
        if self.settled(precision):
            return ""
        if self.verdict == STABLE:
            widest = max(self.relative(name) for name in next(iter(self.seeds.values())).by_workflow)
            return f"not settled: mean over {len(self.seeds)} seeds known to ±{widest:.1%}, asked ±{precision:.1%}"
        wanted = UNSTABLE if self.verdict == UNSTABLE else ""
        found = [(n, one) for n, one in self.seeds.items() if (one.unstable if wanted else not one.stable)]
        return f"{len(found)} of {len(self.seeds)} seeds: " + "; ".join(dict.fromkeys(one.why for _, one in found[:1]))


def first_runs(question: Question, load: float, calls: int) -> int:
    """Runs of a round of about ``calls`` calls: enough for a verdict on every workflow, and ``LEAST_SPANS`` latencies."""
    reference = reference_of(question)
    rates = [rate * load for rate in reference.rates_per_s]
    total = fsum(rates)
    enough = 1.2 * FEWEST_RUNS * total / min(rates)
    return math.ceil(
        max(enough, LEAST_SPANS * reference.latency_s * total, calls / calls_of_streams(measured_streams(question, load)))
    )


def first_runs_guess(question: Question, load: float, calls: int) -> float:
    """About the calls of a first round, for estimates: profiles nothing."""
    reference = known_reference(question) or GUESS
    each = fsum(calls_per_run(question)) / len(question.workflows)
    runs = max(
        1.2 * FEWEST_RUNS * len(question.workflows), LEAST_SPANS * reference.latency_s * fsum(reference.rates_per_s) * load
    )
    return max(float(calls), runs * each)


def replay_seed(deployment: Deployment, streams: Sequence[Stream], seed: int, runs: int, precision: float) -> Settled:
    """One seed of one round."""
    limit = min((len(s.trace.runs) for s in streams if s.arrivals.kind == "trace"), default=runs)
    return settle(deployment.replay, streams, seed=seed, precision=precision, runs=min(runs, limit * len(streams)))


def engine_of(found: Settled) -> str:
    """Which engine replayed it."""
    return str(found.records.meta.get("engine", "simpy"))


def play(deployment: Deployment, question: Question, load: float, seeds: Sequence[int], runs: int, precision: float) -> Round:
    """One round: seeds in order, ended once instability is certain."""
    found: dict[int, Settled] = {}
    for seed in seeds:
        found[seed] = replay_seed(deployment, measured_streams(question, load, seed), seed, runs, precision)
        if sum(one.unstable for one in found.values()) >= CERTAIN:
            break
    return Round(found)


def rounds(
    deployment: Deployment, question: Question, load: float, seeds: Sequence[int], budget: Budget, *, stability: bool = False
) -> tuple[Round, int]:
    """Rounds until the point is settled or unstable (``stability``: until it is stable or unstable) or the budget is spent.

    Returns the last round and the calls that all took.
    """
    runs, spent = first_runs(question, load, budget.first_calls), 0
    while True:
        found = play(deployment, question, load, seeds, runs, budget.precision)
        calls = [one.records.calls.num_rows for one in found.seeds.values()]
        spent += sum(calls)
        done = found.verdict == UNSTABLE or (found.verdict == STABLE if stability else found.settled(budget.precision))
        most = budget.limit(engine_of(next(iter(found.seeds.values()))))
        issued = next(iter(found.seeds.values())).records.runs.num_rows
        if done or max(calls) * GROWTH > 1.5 * most or issued < runs:
            return found, spent
        runs *= GROWTH


def settled_point(question: Question, system: str, option: Option, load: float, budget: Budget, kind: str) -> list[Row]:
    """Measure one point: a row per seed and workflow, or per workflow one that says why the system has nothing to run."""
    began = time.process_time()
    base = described(question, system, option, load) | {"kind": kind}
    deployment = deployed(question, system, option, load)
    if isinstance(deployment, str):
        return infeasible(question, base, load, deployment, budget.seeds[0])
    found, spent = rounds(deployment, question, load, budget.seeds, budget)
    point: Row = {
        "point_verdict": found.verdict,
        "point_settled": found.settled(budget.precision),
        "point_why": found.why(budget.precision),
        "calls_spent": spent,
        "cpu_s": time.process_time() - began,
    } | decided(deployment)
    streams = measured_streams(question, load, budget.seeds[0])
    return [
        base | point | seed_row(seed, one, stream.workflow, rate)
        for seed, one in found.seeds.items()
        for stream, rate in zip(streams, rates_of(question, load), strict=True)
    ]


def described(question: Question, system: str, option: Option, load: float) -> Row:
    """The columns that say what was measured."""
    known = find_system(system)
    base = common(question, system, option, load, 0)
    del base["seed"]
    return base | {"title": known.title, "group": known.group, "source": "simulated"}


def decided(deployment: Deployment) -> Row:
    """The columns that say what the system decided."""
    return {
        "gpus_held": deployment.gpus,
        "decided": deployment.decided,
        "carried": deployment.carried,
        "plan_hash": deployment.hash,
        "expected_s": max((e.latency_s for e in deployment.plan.expected), default=math.nan) if deployment.plan else math.nan,
    }


def rates_of(question: Question, load: float) -> list[float]:
    """Runs/s of each workflow at a load."""
    return [rate * load for rate in reference_of(question).rates_per_s]


def infeasible(question: Question, base: Row, load: float, why: str, seed: int) -> list[Row]:
    """Rows of a system that has no plan at all."""
    nothing = {
        "seed": seed,
        "verdict": UNSTABLE,
        "stable": False,
        "settled": False,
        "point_verdict": UNSTABLE,
        "point_settled": False,
        "point_why": f"infeasible: {why}",
        "why": f"infeasible: {why}",
        "latency_mean_s": math.nan,
    }
    return [
        base | nothing | {"workflow": name, "rate_per_s": rate}
        for name, rate in zip(question.workflows, rates_of(question, load), strict=True)
    ]


def seed_row(seed: int, found: Settled, workflow: str, rate_per_s: float) -> Row:
    """What one seed says of one workflow."""
    one = found.by_workflow[workflow]
    width = one.latency.half_width
    return {
        "workflow": workflow,
        "rate_per_s": rate_per_s,
        "seed": seed,
        "latency_mean_s": one.latency.value,
        "latency_mean_half_width_s": width if math.isfinite(width) else math.nan,
        "latency_p50_s": one.p50_s.value,
        "latency_p95_s": one.p95_s.value,
        "latency_p99_s": one.p99_s.value,
        "offered_per_s": one.offered_per_s,
        "throughput_per_s": one.throughput_per_s,
        "issued": one.issued,
        "completed": one.completed,
        "verdict": one.verdict,
        "stable": one.latency.stable,
        "settled": one.latency.settled,
        "why": one.latency.why,
        "calls": found.records.calls.num_rows,
        "engine": engine_of(found),
    }


def budget_of(params: Mapping[str, Any]) -> Budget:
    """The budget in a task's parameters."""
    return msgspec.convert(params["budget"], Budget)
