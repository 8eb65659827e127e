"""One point, measured until it is settled: a system at a load, over several seeds, in rounds that get longer.

A point is *stable*, *unstable* or *undecided* by the drift test of ``scepsy.steady``, on the windows of all its seeds at once.
A system that fills slowly grows for a while although it keeps up. So it is unstable only where growth lasts
(``scepsy.steady.drift.Growth``): overload goes on, filling ends.
It is *settled* when it is stable and the interval of its mean over seeds is as short as asked for. Rounds have fixed lengths,
so systems that end in the same round replayed the same runs at the same times. What a point may cost is counted in simulated
calls, never in seconds: the same rows on every machine.
"""

import functools
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
from scepsy.api.settle import Settled, samples_of, settle
from scepsy.api.settle import calls_per_run as calls_of_streams
from scepsy.backend import Stream
from scepsy.metrics import seeds_interval
from scepsy.steady.drift import Drift, Growth, Window, growth
from scepsy.steady.verdict import DRIFT_PROBABILITY, FEWEST_RUNS, STABLE, UNDECIDED, UNSTABLE

Row = dict[str, Any]

GROWTH = 3
"""Each round is so many times as long as the one before."""
LEAST_SPANS = 6.0
INFEASIBLE = "infeasible: "
"""How the reason begins where a system has nothing to run."""
CERTAIN = 1e-4
"""Growth less probable than this in the first ``ENOUGH`` seeds together ends a round: the other seeds are not replayed."""
ENOUGH = 2


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
    """Calls of each seed's last round, about: rounds grow threefold, and one of up to 1.5 times as many is still begun."""
    least_spans: float = LEAST_SPANS
    """Arrivals of the first round last at least this many times the predicted latency."""


@dataclass(frozen=True)
class Round:
    """The seeds of one round, and the limit on what may stay behind."""

    seeds: Mapping[int, Settled]
    limit: float

    def growth_of(self, workflow: str) -> Growth:
        """The growth of a workflow's work in the system, all seeds together. Unknown where a seed was too short."""
        windows = []
        for one in self.seeds.values():
            seen = one.by_workflow[workflow]
            if math.isnan(seen.throughput_per_s):
                unknown = Drift(math.nan, 1.0, math.inf)
                return Growth(unknown, unknown, unknown)
            runs = samples_of(one.records, one.workload.streams)[workflow]
            windows.append(Window(runs.arrival_s, runs.end_s, runs.work, seen.begin_s, seen.stop_s))
        return growth(windows)

    @functools.cached_property
    def growth(self) -> dict[str, Growth]:
        """By workflow."""
        return {name: self.growth_of(name) for name in next(iter(self.seeds.values())).by_workflow}

    @property
    def verdict(self) -> str:
        """Of the point."""
        if any(one.lasts(DRIFT_PROBABILITY) for one in self.growth.values()):
            return UNSTABLE
        return STABLE if all(one.whole.upper <= self.limit for one in self.growth.values()) else UNDECIDED

    @property
    def grows(self) -> bool:
        """Whether work was seen to stay behind, be it overload or filling."""
        return any(one.whole.grows(DRIFT_PROBABILITY) for one in self.growth.values())

    @property
    def certain(self) -> bool:
        """Whether overload is shown beyond the false alarms of looking early."""
        lasting = [one for one in self.growth.values() if one.lasts(DRIFT_PROBABILITY)]
        return len(self.seeds) >= ENOUGH and any(one.whole.p < CERTAIN for one in lasting)

    def mean_s(self, workflow: str) -> float:
        """A workflow's mean latency over the seeds."""
        return fsum(one.by_workflow[workflow].latency.value for one in self.seeds.values()) / len(self.seeds)

    def relative(self, workflow: str) -> float:
        """Half-width over mean of a workflow's latency: Student's t over three seeds and more, batch means below."""
        found = [one.by_workflow[workflow].latency for one in self.seeds.values()]
        mean = self.mean_s(workflow)
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
            widest = max(self.relative(name) for name in self.growth)
            known = f"known to ±{widest:.1%}" if math.isfinite(widest) else "not known to any width"
            return f"not settled: mean over {len(self.seeds)} seeds {known}, asked ±{precision:.1%}"
        if self.grows:
            lasting = [one for one in self.growth.values() if one.lasts(DRIFT_PROBABILITY)]
            worst = min(lasting or self.growth.values(), key=lambda one: one.whole.p)
            return f"{worst.told(DRIFT_PROBABILITY)} ({len(self.seeds)} seed{'s together' if len(self.seeds) > 1 else ''})"
        upper = max(one.whole.upper for one in self.growth.values())
        if math.isinf(upper):
            return next((one.why for one in self.seeds.values() if one.why), "not settled: too short to tell")
        return f"not settled: up to {upper:.1%} of the work that arrives may stay behind (limit {self.limit:.1%})"


def first_runs(question: Question, load: float, budget: Budget) -> int:
    """Runs of a first round: enough for a verdict on every workflow, long enough, and about the calls that are asked for."""
    reference = reference_of(question)
    rates = [rate * load for rate in reference.rates_per_s]
    total = fsum(rates)
    enough = 1.2 * FEWEST_RUNS * total / min(rates)
    return math.ceil(
        max(
            enough,
            budget.least_spans * reference.latency_s * total,
            budget.first_calls / calls_of_streams(measured_streams(question, load)),
        )
    )


def first_calls_guess(question: Question, load: float, budget: Budget) -> float:
    """About the calls of a first round, for estimates: profiles nothing."""
    reference = known_reference(question) or GUESS
    each = fsum(calls_per_run(question)) / len(question.workflows)
    long = budget.least_spans * reference.latency_s * fsum(reference.rates_per_s) * load
    return max(float(budget.first_calls), max(1.2 * FEWEST_RUNS * len(question.workflows), long) * each)


def replay_seed(deployment: Deployment, streams: Sequence[Stream], seed: int, runs: int, precision: float) -> Settled:
    """One seed of one round."""
    limit = min((len(s.trace.runs) for s in streams if s.arrivals.kind == "trace"), default=runs)
    return settle(deployment.replay, streams, seed=seed, precision=precision, runs=min(runs, limit * len(streams)))


def engine_of(found: Settled) -> str:
    """Which engine replayed it."""
    return str(found.records.meta.get("engine", "simpy"))


def play(
    deployment: Deployment,
    question: Question,
    load: float,
    seeds: Sequence[int],
    runs: int,
    precision: float,
) -> Round:
    """One round: seeds in order, ended once overload is certain."""
    found: dict[int, Settled] = {}
    for seed in seeds:
        found[seed] = replay_seed(deployment, measured_streams(question, load, seed), seed, runs, precision)
        if len(found) < len(seeds) and Round(dict(found), precision).certain:
            break
    return Round(found, precision)


def rounds(
    deployment: Deployment, question: Question, load: float, seeds: Sequence[int], budget: Budget, *, stability: bool = False
) -> tuple[Round, int]:
    """Rounds until the point is settled or unstable (``stability``: until it is stable or unstable) or the budget is spent.

    Returns the last round and the calls that all took.
    """
    runs, spent = first_runs(question, load, budget), 0
    limit = budget.tolerance if stability else budget.precision
    while True:
        found = play(deployment, question, load, seeds, runs, limit)
        calls = [one.records.calls.num_rows for one in found.seeds.values()]
        spent += sum(calls)
        done = found.verdict == UNSTABLE or (found.verdict == STABLE if stability else found.settled(budget.precision))
        issued = next(iter(found.seeds.values())).records.runs.num_rows
        if done or max(calls) * GROWTH > 1.5 * budget.most_calls or issued < runs:
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
        "confirmed": True,
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
        "grows": True,
        "stable": False,
        "settled": False,
        "point_verdict": UNSTABLE,
        "point_settled": False,
        "confirmed": True,
        "point_why": f"{INFEASIBLE}{why}",
        "why": f"{INFEASIBLE}{why}",
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
        "grows": one.grows,
        "stable": one.latency.stable,
        "settled": one.latency.settled,
        "why": one.latency.why,
        "calls": found.records.calls.num_rows,
        "engine": engine_of(found),
    }


def budget_of(params: Mapping[str, Any]) -> Budget:
    """The budget in a task's parameters."""
    return msgspec.convert(params["budget"], Budget)
