"""The Aggregate LLM Pipeline: mean latency and highest rate of a workflow from its LLMs' curves.

``L_w(λ) = tool_s + Σ_m busy_m(λ)`` and ``T_w = max λ at which no LLM saturates``. The paper writes the term of LLM m as
``L_m(λ·n_m)·n_m / p_m`` with the parallelism p_m of the trace. That quotient is the time a run spends with at least one
call to m in flight, and p_m is a property of the hardware the trace was taken on: on a slower instance the siblings of a
fan-out queue behind each other and p_m falls. ``Curve.busy_s`` is the same quotient with L_m and p_m as the replay measured
them at that rate, so it is what is summed here; the literal formula stays as ``formula="paper"`` for comparison.

With r replicas a curve is read at the call rate per replica. Replicas also change how a fan-out spreads, so curves are
profiled at a few replica counts and read between them on a logarithmic scale.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from scepsy.plans import Allocation, Expectation
from scepsy.profile.curve import Curve, read_curve
from scepsy.stats.use import WorkflowUse

CurveKey = tuple[str, str, str, int, int, int]
"""(workflow, LLM, GPU type, tensor-parallel degree, share_pct, replicas)"""

Formula = Literal["measured", "paper"]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def curve_key(curve: Curve) -> CurveKey:
    """The key under which a curve is filed."""
    return (curve.workflow, curve.llm, curve.gpu_type, curve.tensor_parallel, curve.share_pct, curve.replicas)


def call_rates_per_s(uses: Sequence[WorkflowUse], rates_per_s: Sequence[float]) -> dict[str, float]:
    """Calls per second each LLM gets from all workflows together: Σ_w λ_w · n_wm, in order of first use."""
    loads: dict[str, float] = {}
    for use, rate in zip(uses, rates_per_s, strict=True):
        for llm in use.llms:
            loads[llm.llm] = loads.get(llm.llm, 0.0) + rate * llm.calls_per_run
    return loads


def read_replicas(by_replicas: Mapping[int, Curve], field: str, replicas: npt.ArrayLike, calls_per_s: npt.ArrayLike) -> Floats:
    """Read one ``*_s`` (or ``parallelism``) column for the given replica counts at a total call rate.

    ``replicas`` and ``calls_per_s`` broadcast; the result has their shape. Between profiled replica counts at the same load per
    replica: linear in log(replicas); outside them, the nearest profiled count. Infinite where a replica saturates.
    """
    counts = np.asarray(replicas, dtype=float)
    load = np.asarray(calls_per_s, dtype=float) / capacity_calls_per_s(by_replicas, counts)
    profiled = sorted(by_replicas)

    def column(count: int) -> Floats:
        return read_curve(by_replicas[count], field, load * by_replicas[count].capacity_per_s)

    if len(profiled) == 1:
        return np.broadcast_to(column(profiled[0]), load.shape).copy()
    position = np.interp(np.log(counts), np.log(profiled), np.arange(len(profiled), dtype=float))
    lower = np.minimum(position.astype(int), len(profiled) - 2)
    weight = position - lower
    if lower.ndim == 0:  # one number of replicas lies between two that were profiled
        below, above = column(profiled[lower]), column(profiled[lower + 1])
    else:
        stacked = np.stack(np.broadcast_arrays(*map(column, profiled)))
        index = np.broadcast_to(lower, stacked.shape[1:])[None]
        below = np.take_along_axis(stacked, index, 0)[0]
        above = np.take_along_axis(stacked, index + 1, 0)[0]
    with np.errstate(invalid="ignore"):
        value = below * (1.0 - weight) + above * weight
    return np.where(np.isfinite(below) & np.isfinite(above), value, np.inf)


def capacity_calls_per_s(by_replicas: Mapping[int, Curve], replicas: npt.ArrayLike) -> Floats:
    """Calls per second that ``replicas`` instances complete when saturated: r · T_m.

    T_m falls with r where calls of a run lose each other's cached prefixes; linear in log(r) between profiled counts.
    """
    counts = np.asarray(replicas, dtype=float)
    profiled = sorted(by_replicas)
    each = [by_replicas[count].capacity_per_s for count in profiled]
    return np.asarray(counts * np.interp(np.log(counts), np.log(profiled), each))


@dataclass(frozen=True)
class Stack:
    """All curves of one (workflow, LLM) as one array, to be read for thousands of options at once."""

    kinds: tuple[tuple[str, int, int], ...]
    """(GPU type, degree, share) by row."""
    counts: Floats
    """Profiled replica counts, ascending."""
    utilisation: Floats
    capacity_per_s: Floats
    """Shape (kinds, counts): per instance."""
    busy_s: Floats
    """Shape (kinds, counts, utilisations)."""

    def capacity(self, kind: Integers, replicas: Integers) -> Floats:
        """Calls per second of all replicas when saturated, as ``capacity_calls_per_s``; shape in = shape out."""
        lower, weight = self._between(replicas)
        each = self.capacity_per_s[kind, lower] * (1 - weight)
        if len(self.counts) > 1:
            each = each + self.capacity_per_s[kind, np.minimum(lower + 1, len(self.counts) - 1)] * weight
        return np.asarray(replicas * each)

    def busy(self, kind: Integers, replicas: Integers, calls_per_s: float) -> Floats:
        """Busy seconds as ``read_replicas``; shape in = shape out."""
        load = calls_per_s / self.capacity(kind, replicas)
        lower, weight = self._between(replicas)
        value = self._at(kind, lower, load)
        if len(self.counts) > 1:
            value = value * (1 - weight) + self._at(kind, np.minimum(lower + 1, len(self.counts) - 1), load) * weight
        return np.where(load >= 1.0, np.inf, value)

    def _between(self, replicas: Integers) -> tuple[Integers, Floats]:
        position = np.interp(np.log(replicas), np.log(self.counts), np.arange(len(self.counts), dtype=float))
        lower = np.minimum(position.astype(np.int64), max(len(self.counts) - 2, 0))
        return lower, position - lower

    def _at(self, kind: Integers, count: Integers, load: Floats) -> Floats:
        """One replica count's column: as ``read_curve`` below capacity."""
        first = self.utilisation[0]
        position = np.interp(load, self.utilisation, np.arange(len(self.utilisation), dtype=float))
        lower = np.minimum(position.astype(np.int64), max(len(self.utilisation) - 2, 0))
        weight = position - lower
        free = 1.0 - self.utilisation
        value = self.busy_s[kind, count, lower] * free[lower] * (1 - weight)
        upper = np.minimum(lower + 1, len(self.utilisation) - 1)
        value += self.busy_s[kind, count, upper] * free[upper] * weight
        value /= np.maximum(1.0 - load, 1e-12)
        return np.asarray(np.where(load <= first, self.busy_s[kind, count, 0], value))


def _filled(family: Mapping[int, Curve], counts: Sequence[int]) -> list[Curve] | None:
    """One curve for each count: beyond the largest that was profiled, that one stands; None where one is missing in between."""
    most = max(family)
    if any(count not in family for count in counts if count < most):
        return None
    return [family[min(count, most)] for count in counts]


class CurveIndex:
    """Curves by (LLM, GPU type, degree, share) and workflow, so that a reading needs no search."""

    def __init__(self, curves: Iterable[Curve]) -> None:
        self._curves: dict[tuple[str, str, int, int], dict[str, dict[int, Curve]]] = {}
        for c in curves:
            kind = self._curves.setdefault((c.llm, c.gpu_type, c.tensor_parallel, c.share_pct), {})
            kind.setdefault(c.workflow, {})[c.replicas] = c
        self._kinds: dict[str, list[tuple[str, int, int]]] = {}
        for llm, gpu_type, degree, share in sorted(self._curves):
            self._kinds.setdefault(llm, []).append((gpu_type, degree, share))
        self._stacks: dict[tuple[str, str], Stack | None] = {}

    def stack(self, workflow: str, llm: str) -> Stack | None:
        """All curves of one (workflow, LLM), built once; None where they differ in replica counts or utilisations."""
        key = (workflow, llm)
        if key not in self._stacks:
            self._stacks[key] = self._make_stack(workflow, llm)
        return self._stacks[key]

    def _make_stack(self, workflow: str, llm: str) -> Stack | None:
        kinds = [kind for kind in self.kinds(llm) if workflow in self.by_workflow(llm, *kind)]
        families = [self.by_workflow(llm, *kind)[workflow] for kind in kinds]
        if not families:
            return None
        counts = sorted({count for family in families for count in family})
        grid = next(iter(families[0].values())).utilisation
        if any(c.utilisation != grid for family in families for c in family.values()):
            return None
        filled = [_filled(family, counts) for family in families]
        if any(family is None for family in filled):
            return None
        whole = [family for family in filled if family is not None]
        seen = sum(1 for point in grid if point < 1.0)
        return Stack(
            kinds=tuple(kinds),
            counts=np.array(counts, dtype=float),
            utilisation=np.array(grid[:seen]),
            capacity_per_s=np.array([[c.capacity_per_s for c in family] for family in whole]),
            busy_s=np.array([[c.busy_s[:seen] for c in family] for family in whole]),
        )

    def kinds(self, llm: str) -> list[tuple[str, int, int]]:
        """The (GPU type, degree, share) at which ``llm`` was profiled, sorted."""
        return self._kinds.get(llm, [])

    def by_workflow(self, llm: str, gpu_type: str, tensor_parallel: int, share_pct: int) -> Mapping[str, Mapping[int, Curve]]:
        """Curves of one instance type by workflow and replica count; empty when it was not profiled."""
        return self._curves.get((llm, gpu_type, tensor_parallel, share_pct), {})


def busy_seconds(
    index: CurveIndex,
    use: WorkflowUse,
    allocation: Allocation,
    calls_per_s: float,
    *,
    formula: Formula = "measured",
    slowdown: float = 1.0,
) -> float:
    """Seconds per run of ``use.workflow`` with a call to the allocation's LLM in flight, at the LLM's total call rate.

    ``slowdown`` scales the instance's clock (contention by neighbours): everything takes ``slowdown`` times as long, and
    the same rate loads the instance ``slowdown`` times as much. Raises ``KeyError`` when there is no such curve.
    """
    a = allocation
    found = index.by_workflow(a.llm, a.gpu_type, a.tensor_parallel, a.share_pct).get(use.workflow)
    if found is None:
        raise KeyError(
            f"no curve of {a.llm} for {use.workflow} on {a.gpu_type} at TP {a.tensor_parallel}, share {a.share_pct} %"
        )
    field = "busy_s" if formula == "measured" else "mean_s"
    value = slowdown * float(read_replicas(found, field, a.replicas, calls_per_s * slowdown))
    if formula == "paper":
        llm = next(item for item in use.llms if item.llm == a.llm)
        value *= llm.calls_per_run / llm.parallelism
    return value


def predict(
    uses: Sequence[WorkflowUse],
    rates_per_s: Sequence[float],
    curves: CurveIndex,
    allocations: Sequence[Allocation],
    *,
    formula: Formula = "measured",
    slowdown: Mapping[str, float] | None = None,
    saturated_slowdown: Mapping[str, float] | None = None,
) -> tuple[Expectation, ...]:
    """Predict every workflow's mean latency at the given rates, and its highest rate while the others keep theirs.

    ``slowdown`` is the expected slow-down of each LLM's instances by their neighbours (``predict.contention``), and
    ``saturated_slowdown`` the one with all neighbours decoding, which bounds the rate; absent LLMs have 1. Latency is
    infinite where an LLM saturates. Raises ``KeyError`` when an allocation or curve is missing.
    """
    by_llm = {allocation.llm: allocation for allocation in allocations}
    slowdowns = slowdown or {}
    saturated = saturated_slowdown or {}
    loads = call_rates_per_s(uses, rates_per_s)
    capacity = {llm: capacity_of(curves, by_llm[llm], uses) / saturated.get(llm, 1.0) for llm in loads}
    expected = []
    for use, rate in zip(uses, rates_per_s, strict=True):
        latency_s = use.tool_s
        for llm in use.llms:
            allocation = by_llm[llm.llm]
            slower = slowdowns.get(llm.llm, 1.0)
            latency_s += busy_seconds(curves, use, allocation, loads[llm.llm], formula=formula, slowdown=slower)
        spare = min((capacity[m.llm] - loads[m.llm]) / m.calls_per_run for m in use.llms)
        expected.append(Expectation(workflow=use.workflow, latency_s=latency_s, throughput_per_s=max(rate + spare, 0.0)))
    return tuple(expected)


def capacity_of(curves: CurveIndex, allocation: Allocation, uses: Sequence[WorkflowUse]) -> float:
    """Calls per second that the allocation completes when saturated. Raises ``KeyError`` when a caller's curve is missing."""
    a = allocation
    found = curves.by_workflow(a.llm, a.gpu_type, a.tensor_parallel, a.share_pct)
    names = [use.workflow for use in uses if use.calls_per_run(a.llm) > 0]
    missing = [name for name in names if name not in found]
    if missing:
        raise KeyError(f"no curve of {a.llm} for {missing[0]} on {a.gpu_type} at TP {a.tensor_parallel}, share {a.share_pct} %")
    return min(float(capacity_calls_per_s(found[name], a.replicas)) for name in names)


def sum_choices(busy_s: Sequence[Floats], choices: Integers, tool_s: float = 0.0) -> Floats:
    """Latency of many allocations at once, in seconds.

    ``busy_s[m]`` holds LLM m's busy seconds for each of its options, shape (options of m,); ``choices`` has shape
    (allocations, LLMs) and holds option numbers. Result: shape (allocations,).

    >>> sum_choices([np.array([1.0, 2.0]), np.array([0.5])], np.array([[0, 0], [1, 0]]), tool_s=1.0)
    array([2.5, 3.5])
    """
    total = np.full(len(choices), tool_s)
    for m, column in enumerate(busy_s):
        total += column[choices[:, m]]
    return total
