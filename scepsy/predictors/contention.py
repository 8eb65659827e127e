"""How much co-located instances are expected to slow each other down.

Whatever an instance does but prompt processing takes longer while its neighbours decode, and prompt processing while they
process prompts (``profile.share.ContentionLaw``). Which instances are busy follows from the router, which fills idle
instances in order of their number: with K calls of an LLM in flight, its first K instances are taken to be busy. K is taken
as Poisson with the mean that Little's law gives. Instances of other LLMs are independent and enter with their mean demand. A
busy instance decodes ``Curve.decoding`` of the time. It processes prompts for all but ``Curve.stretchable`` of its busy time.
Stretching makes instances busier, so the factors are iterated to a fixed point.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np
from scipy.special import gammaln

from scepsy.cluster import Gpu
from scepsy.plans import Allocation
from scepsy.predictors.aggregate import CurveIndex, Floats, call_rates_per_s, capacity_of, read_replicas
from scepsy.profile.model import ProfileSet
from scepsy.profile.share import ContentionLaw
from scepsy.stats.use import WorkflowUse

ROUNDS = 3
"""Rounds of the fixed point; factors move by less than 1 % after the third."""

Groups = Mapping[str, Sequence[tuple[Gpu, ...]]]
"""GPUs of every instance in order of its number, by LLM."""


def bandwidth_demand(profiles: ProfileSet, allocation: Allocation) -> float:
    """Part of each GPU's peak bandwidth that one of the allocation's instances draws while it decodes, at its share."""
    profile = profiles.of(allocation.llm, allocation.gpu_type, allocation.tensor_parallel)
    return profile.decode_bandwidth_demand / profiles.share_law.decode_factor(1, allocation.share_pct)


def compute_draw(profiles: ProfileSet, allocation: Allocation) -> float:
    """Part of each GPU's compute that one of the allocation's instances draws while it processes prompts, at its share."""
    law = profiles.share_law
    return 1.0 / law.prefill_factor(law.prefill_tokens, allocation.share_pct)


def feels_neighbours(profiles: ProfileSet, llm: str) -> bool:
    """Whether instances of ``llm`` can be slowed by others on their GPUs."""
    decodes = any(p.decode_bandwidth_demand > 0 for p in profiles.profiles if p.llm.name == llm)
    return decodes or profiles.contention.compute_capacity is not None


def poisson(mean: float, size: int) -> Floats:
    """Probabilities of 0 … size − 1, and of anything larger last.

    >>> poisson(0.0, 2)
    array([1., 0., 0.])
    """
    k = np.arange(size)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.exp(k * np.log(mean) - mean - gammaln(k + 1)) if mean > 0 else (k == 0).astype(float)
    return np.append(p, max(0.0, 1.0 - float(p.sum())))


def slowdowns(law: ContentionLaw, own: float, others: Floats) -> Floats:
    """``ContentionLaw.slowdown`` for arrays of neighbours' demands."""
    return np.where(others > 0, np.maximum(1.0 + law.interference * others, own + others), 1.0)


def prompt_slowdowns(law: ContentionLaw, own: float, others: Floats) -> Floats:
    """``ContentionLaw.prompt_slowdown`` for arrays of neighbours' draws."""
    if law.compute_capacity is None:
        return np.ones_like(others)
    return np.where(others > 0, np.maximum(1.0, (own + others) / law.compute_capacity), 1.0)


@dataclass(frozen=True)
class Neighbours:
    """Who shares GPUs with the instances of one LLM. On several GPUs the most crowded one counts: a group waits for its
    slowest."""

    same: Floats
    """Shape (r, r): how often instance j stands on i's GPU."""
    other: Mapping[str, Floats]
    """By LLM, shape (r, replicas of that LLM)."""


def neighbours(groups: Groups, demand: Mapping[str, float]) -> dict[str, Neighbours]:
    """Find every instance's neighbours."""
    tenants: dict[Gpu, list[tuple[str, int]]] = {}
    for llm, slots in groups.items():
        for number, slot in enumerate(slots):
            for gpu in slot:
                tenants.setdefault(gpu, []).append((llm, number))
    found = {}
    for llm, slots in groups.items():
        same = np.zeros((len(slots), len(slots)))
        other: dict[str, Floats] = {}
        for number, slot in enumerate(slots):
            lists = [[tenant for tenant in tenants[gpu] if tenant != (llm, number)] for gpu in slot]
            for name, index in max(lists, key=lambda names: fsum(demand[name] for name, _ in names)):
                if name == llm:
                    same[number, index] += 1.0
                else:
                    other.setdefault(name, np.zeros((len(slots), len(groups[name]))))[number, index] += 1.0
        found[llm] = Neighbours(same, other)
    return found


def shares_a_gpu(groups: Groups) -> bool:
    """Whether any GPU carries more than one instance."""
    every = [gpu for slots in groups.values() for slot in slots for gpu in slot]
    return len(set(every)) < len(every)


def expected_slowdowns(
    uses: Sequence[WorkflowUse],
    rates_per_s: Sequence[float],
    curves: CurveIndex,
    profiles: ProfileSet,
    allocations: Sequence[Allocation],
    groups: Groups,
    *,
    saturated: bool = False,
) -> dict[str, float]:
    """Expected slow-down of every LLM's instances (mean over their busy time) when placed on ``groups``; 1 for those alone.

    With ``saturated`` every instance is busy all the time: what bounds the throughput.
    """
    factors = {allocation.llm: 1.0 for allocation in allocations}
    if not shares_a_gpu(groups):
        return factors
    demand = {a.llm: bandwidth_demand(profiles, a) for a in allocations}
    draw = {a.llm: compute_draw(profiles, a) for a in allocations}
    loads = call_rates_per_s(uses, rates_per_s)
    near = neighbours(groups, demand), neighbours(groups, draw)
    law = profiles.contention
    for _ in range(1 if saturated else ROUNDS):
        states = {
            a.llm: _state(uses, rates_per_s, curves, a, loads[a.llm], factors[a.llm], saturated=saturated) for a in allocations
        }
        decoding = {llm: state.decoding * demand[llm] for llm, state in states.items()}
        prompting = {llm: state.prompting * draw[llm] for llm, state in states.items()}
        factors = {
            llm: 1.0
            + state.stretchable * (_factor(slowdowns, law, llm, demand[llm], decoding, near[0][llm], states) - 1.0)
            + state.prompting * (_factor(prompt_slowdowns, law, llm, draw[llm], prompting, near[1][llm], states) - 1.0)
            for llm, state in states.items()
        }
    return factors


@dataclass(frozen=True)
class _State:
    in_flight: Floats
    """Probability of 0 … r − 1 calls in flight, and of r or more."""
    decoding: float
    stretchable: float

    @property
    def prompting(self) -> float:
        """Part of its busy time in which an instance processes prompts."""
        return 1.0 - self.stretchable

    @property
    def busy(self) -> Floats:
        """Probability that instance number j is busy: more than j calls in flight."""
        return 1.0 - np.cumsum(self.in_flight[:-1])


def _factor(
    read: Callable[[ContentionLaw, float, Floats], Floats],
    law: ContentionLaw,
    llm: str,
    own: float,
    draws: Mapping[str, float],
    around: Neighbours,
    states: Mapping[str, _State],
) -> float:
    """Mean slow-down that ``read`` gives an instance drawing ``own``, weighted by the time the LLM's instances are busy.

    ``draws``: what a busy instance of each LLM draws on average.
    """
    if own <= 0:
        return 1.0
    in_flight = states[llm].in_flight
    replicas = len(in_flight) - 1
    outside = np.zeros(replicas)
    for name, matrix in around.other.items():
        outside += matrix @ states[name].busy * draws[name]
    # Column K: how many of the instance's neighbours are among the first K.
    inside = np.concatenate((np.zeros((replicas, 1)), np.cumsum(around.same, axis=1)), axis=1) * draws[llm]
    factor = read(law, own, inside + outside[:, None])
    busy = np.arange(replicas)[:, None] < np.arange(replicas + 1)[None, :]
    weight = busy * in_flight
    total = float(weight.sum())
    return float((factor * weight).sum() / total) if total > 0 else 1.0


def _state(
    uses: Sequence[WorkflowUse],
    rates: Sequence[float],
    curves: CurveIndex,
    a: Allocation,
    calls_per_s: float,
    slowdown: float,
    *,
    saturated: bool,
) -> _State:
    """How busy the allocation's instances are. Curves without the columns (older files) count as always decoding."""
    found = curves.by_workflow(a.llm, a.gpu_type, a.tensor_parallel, a.share_pct)
    callers = [(use, rate) for use, rate in zip(uses, rates, strict=True) if use.calls_per_run(a.llm) > 0]
    family = found[callers[0][0].workflow]
    curve = family[min(family, key=lambda count: (abs(count - a.replicas), count))]
    load = min(calls_per_s * slowdown / (a.replicas * curve.capacity_per_s), curve.utilisation[-1])
    if saturated:
        load, in_flight = curve.utilisation[-1], np.append(np.zeros(a.replicas), 1.0)
    else:
        bounded = min(calls_per_s * slowdown, 0.99 * capacity_of(curves, a, uses))
        mean = fsum(
            rate
            * use.calls_per_run(a.llm)
            * slowdown
            * float(read_replicas(found[use.workflow], "mean_s", a.replicas, bounded))
            for use, rate in callers
        )
        in_flight = poisson(mean, a.replicas)
    decoding = float(np.interp(load, curve.utilisation, curve.decoding)) if curve.decoding else 1.0
    part = float(np.interp(load, curve.utilisation, curve.stretchable)) if curve.stretchable else 1.0
    return _State(in_flight=in_flight, decoding=decoding, stretchable=part)
