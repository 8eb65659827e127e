"""How much co-located instances are expected to slow each other down.

An iteration of an instance is stretched while its neighbours decode (``profile.share.ContentionLaw``). Neighbours decode some of
the time: an instance with N runs in flight on average is taken to be decoding with probability 1 − exp(−N), the
probability that a system with Poisson arrivals is not empty when its N does not depend on the others (M/G/∞). The expected
factor is then over the neighbours' subsets, each decoding or not. Stretching makes instances busier, so the factors are
iterated to a fixed point.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from math import exp

from scepsy.cluster import Gpu
from scepsy.plan import Allocation
from scepsy.predict.aggregate import CurveIndex, call_rates_per_s, read_replicas
from scepsy.profile.model import ProfileSet
from scepsy.profile.share import ContentionLaw
from scepsy.stats.use import WorkflowUse

ROUNDS = 3
"""Rounds of the fixed point; factors move by less than 1 % after the third."""
MAX_SUBSETS = 6
"""Neighbours up to which all subsets are summed; beyond, the law is read at the mean demand."""

Groups = Mapping[str, Sequence[tuple[Gpu, ...]]]
"""GPUs of every instance, by LLM."""


def bandwidth_demand(profiles: ProfileSet, allocation: Allocation) -> float:
    """Part of each GPU's peak bandwidth that one of the allocation's instances draws while it decodes, at its share."""
    profile = profiles.of(allocation.llm, allocation.gpu_type, allocation.tensor_parallel)
    return profile.decode_bandwidth_demand / profiles.share_law.decode_factor(1, allocation.share_pct)


def expected_slowdown(law: ContentionLaw, own: float, neighbours: Sequence[tuple[float, float]]) -> float:
    """Mean of the law's factor when each neighbour, given as (demand, probability of decoding), decodes independently.

    >>> expected_slowdown(ContentionLaw(interference=0.5), 0.2, [(0.4, 0.5)])
    1.1
    """
    active = [(demand, duty) for demand, duty in neighbours if demand * duty > 0]
    if len(active) > MAX_SUBSETS:
        return law.slowdown(own, sum(demand * duty for demand, duty in active))
    total = 0.0
    for pattern in product((0, 1), repeat=len(active)):
        weight, others = 1.0, 0.0
        for on, (demand, duty) in zip(pattern, active, strict=True):
            weight *= duty if on else 1.0 - duty
            others += demand if on else 0.0
        total += weight * law.slowdown(own, others)
    return total


def shares_a_gpu(groups: Groups) -> bool:
    """Whether any GPU carries more than one instance."""
    seen: set[Gpu] = set()
    for slots in groups.values():
        for slot in slots:
            for gpu in slot:
                if gpu in seen:
                    return True
                seen.add(gpu)
    return False


def stretches(
    uses: Sequence[WorkflowUse],
    rates_per_s: Sequence[float],
    curves: CurveIndex,
    profiles: ProfileSet,
    allocations: Sequence[Allocation],
    groups: Groups,
) -> dict[str, float]:
    """Expected slow-down of every LLM's instances (mean over them) when placed on ``groups``; 1 for those alone on their GPUs.

    A saturated instance counts as always decoding.
    """
    factors = {allocation.llm: 1.0 for allocation in allocations}
    if not shares_a_gpu(groups):
        return factors
    loads = call_rates_per_s(uses, rates_per_s)
    demand = {a.llm: bandwidth_demand(profiles, a) for a in allocations}
    tenants: dict[Gpu, list[tuple[str, int]]] = {}
    for llm, slots in groups.items():
        for number, slot in enumerate(slots):
            for gpu in slot:
                tenants.setdefault(gpu, []).append((llm, number))
    # Instances of one LLM with the same neighbours have the same factor: count each distinct neighbourhood once.
    views: dict[str, dict[tuple[str, ...], int]] = {}
    for llm, slots in groups.items():
        for number, slot in enumerate(slots):
            worst = max(
                (tuple(sorted(name for name, n in tenants[gpu] if (name, n) != (llm, number))) for gpu in slot),
                key=lambda names: (sum(demand[name] for name in names), names),
            )
            seen = views.setdefault(llm, {})
            seen[worst] = seen.get(worst, 0) + 1
    for _ in range(ROUNDS):
        duty = {a.llm: _duty(uses, rates_per_s, curves, a, loads[a.llm], factors[a.llm]) for a in allocations}
        factors = {
            llm: sum(
                count * expected_slowdown(profiles.contention, demand[llm], [(demand[name], duty[name]) for name in names])
                for names, count in seen.items()
            )
            / sum(seen.values())
            if demand[llm] > 0
            else 1.0
            for llm, seen in views.items()
        }
    return factors


def _duty(
    uses: Sequence[WorkflowUse], rates: Sequence[float], curves: CurveIndex, a: Allocation, calls_per_s: float, stretch: float
) -> float:
    """Probability that one instance of the allocation is decoding."""
    found = curves.by_workflow(a.llm, a.gpu_type, a.tensor_parallel, a.share_pct)
    in_flight = 0.0
    for use, rate in zip(uses, rates, strict=True):
        if use.calls_per_run(a.llm) > 0:
            busy = stretch * float(read_replicas(found[use.workflow], "busy_s", a.replicas, calls_per_s * stretch))
            # A run's parallel calls spread over the replicas: it occupies up to p of them at once.
            parallel = max(1.0, float(read_replicas(found[use.workflow], "parallelism", a.replicas, calls_per_s * stretch)))
            in_flight += rate * busy * min(parallel, a.replicas) / a.replicas
    return 1.0 - exp(-in_flight)
