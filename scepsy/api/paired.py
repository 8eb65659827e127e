"""Two or more plans under the same arrivals and the same runs: which is faster, by how much, and is that more than luck?

Common random numbers: every plan is given the identical workload, so bursts and long runs hit all of them alike, and the
latencies are compared run by run (``scepsy.steady.pairs``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from scepsy.api.offered import exactly
from scepsy.api.prepare import Load
from scepsy.api.settle import calls_per_run, samples_of
from scepsy.backend import Stream
from scepsy.cost import cost_document, cost_of
from scepsy.errors import InputError
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.records import Records
from scepsy.steady.pairs import Difference, compared
from scepsy.steady.rule import judge
from scepsy.steady.verdict import STABLE, UNSTABLE, Measured
from scepsy.steady.warmup import warmup_length
from scepsy.workload import Trace
from sim.world.run import simulate

Floats = npt.NDArray[np.float64]

FIRST_RUNS = 800
PRECISION = 0.01
"""Half-width of the difference over the first plan's mean at which to stop. Stopping on precision, never on significance, keeps
the rate of false alarms at what the interval says."""


@dataclass(frozen=True)
class Contender:
    """A plan with what it is simulated by."""

    name: str
    plan: Plan
    loads: tuple[Load, ...]
    profiles: ProfileSet


@dataclass(frozen=True)
class Paired:
    """One plan against the first, for one workflow."""

    workflow: str
    plan: str
    measured: Measured
    against: Difference | None
    """Mean latency minus the first plan's; None for the first, and where one of the two does not keep up."""
    shown: bool
    """Whether both are shown to keep up. Otherwise the difference is one of these runs only, not of the long run."""
    p95_gap_s: float | None
    """The 95th percentile minus the first plan's, over the same runs."""


def same_question(contenders: Sequence[Contender]) -> tuple[Stream, ...]:
    """The one load that all are compared under. Raises ``InputError`` where plans were made for different ones."""
    first = contenders[0]
    for other in contenders[1:]:
        mine, theirs = ({load.workflow: load for load in each.loads} for each in (first, other))
        if set(mine) != set(theirs):
            raise InputError(
                f"{first.name} is for {', '.join(mine)}, {other.name} for {', '.join(theirs)}: must be for the same workflows"
            )
        for name, load in mine.items():
            if not _same_runs_asked(load.trace, theirs[name].trace, first.plan, other.plan):
                raise InputError(f"{first.name} and {other.name} come from different traces of {name}: must be the same one")
            rates = load.arrivals.rate_per_s, theirs[name].arrivals.rate_per_s
            if rates[0] != rates[1]:
                raise InputError(
                    f"{first.name} is for {rates[0]:g} runs/s of {name}, {other.name} for {rates[1]:g}: give --rate for both"
                )
    return tuple(load.stream for load in first.loads)


def _same_runs_asked(one: Trace, other: Trace, *plans: Plan) -> bool:
    """Whether two traces are one, where each plan may have taken some names for others (instances that names share)."""
    for plan in plans:
        one, other = one.renamed(plan.other_names), other.renamed(plan.other_names)
    return one.runs == other.runs


def _asked_of(each: Contender, streams: Sequence[Stream]) -> tuple[Stream, ...]:
    """The common load in the names of a plan's LLMs."""
    traces = {load.workflow: load.trace for load in each.loads}
    return tuple(msgspec.structs.replace(stream, trace=traces[stream.workflow]) for stream in streams)


def compare_paired(
    contenders: Sequence[Contender],
    *,
    seed: int = 0,
    runs: int | None = None,
    precision: float = PRECISION,
    most_calls: int = 100_000,
    engine: str = "simpy",
) -> tuple[list[Paired], int]:
    """Replay the same runs on every plan; one entry per plan and workflow, and the number of runs.

    ``runs``: exactly so many; None: twice as many each round until every difference is known to ``precision`` or ``most_calls``
    calls are reached. Raises ``InputError`` for plans of different questions.
    """
    streams = same_question(contenders)
    most = max(FIRST_RUNS, int(most_calls / calls_per_run(streams)))
    count = runs or min(FIRST_RUNS, most)
    while True:
        found = _round(contenders, streams, count, seed, engine)
        if runs is not None or count >= most or _precise(found, precision):
            return found, count
        count = min(2 * count, most)


def _round(contenders: Sequence[Contender], streams: tuple[Stream, ...], runs: int, seed: int, engine: str) -> list[Paired]:
    workloads = [exactly(_asked_of(each, streams), runs=runs, seed=seed) for each in contenders]
    made = [
        simulate(each.plan, workload, profiles=each.profiles, engine=engine)
        for each, workload in zip(contenders, workloads, strict=True)
    ]
    judged = [judge(samples_of(records, streams)) for records in made]
    found = []
    for stream in streams:
        base = judged[0][stream.workflow]
        for each, records, outcome in zip(contenders, made, judged, strict=True):
            mine = outcome[stream.workflow]
            gap, tail = None, None
            if each is not contenders[0] and UNSTABLE not in (mine.verdict, base.verdict):
                first_s, second_s = _same_runs(made[0], records, stream.workflow)
                if len(first_s):
                    gap = compared(first_s, second_s)
                    tail = float(np.quantile(second_s, 0.95) - np.quantile(first_s, 0.95))
            shown = mine.verdict == base.verdict == STABLE
            found.append(Paired(stream.workflow, each.name, mine, gap, shown, tail))
    return found


def _same_runs(first: Records, second: Records, workflow: str) -> tuple[Floats, Floats]:
    """Latencies of the runs that both completed, in order of arrival, the longer warm-up left out."""
    columns = []
    for records in (first, second):
        table = records.runs.to_pandas()
        columns.append(table[table["workflow"] == workflow].set_index("run")[["arrival_s", "end_s"]])
    both = columns[0].add_suffix("_a").join(columns[1].add_suffix("_b")).dropna().sort_values("arrival_s_a")
    arrival = both["arrival_s_a"].to_numpy(dtype=float)
    one, two = (both[name].to_numpy(dtype=float) - arrival for name in ("end_s_a", "end_s_b"))
    starts = [warmup_length(values) for values in (one, two)]
    start = max(len(one) // 4 if each is None else each for each in starts)
    return one[start:], two[start:]


def _precise(found: Sequence[Paired], precision: float) -> bool:
    """Whether more runs could change nothing that matters."""
    firsts = {each.workflow: each.measured for each in found if each.against is None}
    for each in found:
        if each.measured.verdict == UNSTABLE:
            continue
        if each.against is not None and not (
            each.shown and each.against.half_width <= precision * firsts[each.workflow].latency.value
        ):
            return False
    return True


def verdict(each: Paired, first: str) -> str:
    """One comparison in words."""
    if each.measured.verdict == UNSTABLE:
        return f"{each.plan} does not keep up: {each.measured.latency.why}"
    if each.against is None:
        return f"{first} does not keep up, or no run was completed on both: nothing to compare"
    change = f"{abs(each.against.relative):.1%} {'slower' if each.against.value > 0 else 'faster'}"
    odds = f"p = {each.against.p_value:.2g}" if each.against.p_value >= 0.001 else "p < 0.001"
    if not np.isfinite(each.against.half_width):
        return f"{each.plan}: too few runs to tell ({change} on these)"
    if each.against.value == 0.0 == each.against.half_width:
        return f"no difference to {first} at all: every run takes as long"
    if not each.shown:
        why = each.measured.latency.why or f"{first} is not shown to keep up"
        return f"{each.plan} is {change} on these runs, which do not show that both keep up ({why})"
    if not each.against.significant:
        return f"no difference to {first} that is more than luck ({change} on these runs, {odds})"
    return f"{each.plan} is {change} than {first} ({odds})"


def documents(contenders: Sequence[Contender], found: Sequence[Paired], runs: int, seed: int) -> dict[str, Any]:
    """The JSON document of ``scepsy compare A B``."""
    first = contenders[0].name
    return {
        "plans": [_plan_document(each) for each in contenders],
        "runs": runs,
        "seed": seed,
        "rows": [
            {
                "workflow": each.workflow,
                "plan": each.plan,
                "verdict": each.measured.verdict,
                "latency_mean_s": each.measured.latency.value,
                "latency_half_width_s": each.measured.latency.half_width,
                "latency_p95_s": each.measured.p95_s.value,
                "throughput_per_s": each.measured.throughput_per_s,
                "difference_s": each.against and each.against.value,
                "difference_half_width_s": each.against and each.against.half_width,
                "difference_part": each.against and each.against.relative,
                "p_value": each.against.p_value if each.against and each.shown else None,
                "significant": each.against.significant if each.against and each.shown else None,
                "p95_difference_s": each.p95_gap_s,
                "told": "" if each.plan == first else verdict(each, first),
            }
            for each in found
        ],
    }


def _plan_document(each: Contender) -> dict[str, Any]:
    plan = each.plan
    return {
        "plan": each.name,
        "planner": plan.planner,
        "cluster": plan.cluster.name,
        "predicted_latency_s": {one.workflow: one.latency_s for one in plan.expected},
        "highest_rate_per_s": {one.workflow: one.throughput_per_s for one in plan.expected},
        "allocations": {a.llm: _told(each, a.llm) for a in plan.allocations},
        "cost": cost_document(cost_of(plan)),
    }


def _told(each: Contender, llm: str) -> Mapping[str, Any]:
    allocation = each.plan.allocation(llm)
    weights = each.profiles.llm(llm)
    return {
        "share_pct": allocation.share_pct,
        "tensor_parallel": allocation.tensor_parallel,
        "replicas": allocation.replicas,
        "gpu_type": allocation.gpu_type,
        "parameters": weights.parameters,
        "weight_bytes": weights.weight_bytes,
    }
