"""The critical path: every traced run walked as a DAG with predicted call latencies, so that parallel branches count once.

The aggregate adds the LLMs' busy seconds as if they followed each other; where a run calls two LLMs at the same time it
counts both. Here each traced run is walked (``predict.paths``) with the calls' latencies at the allocation's load: the
curve's regression on tokens, times what siblings' queueing adds (``Curve.sibling_factor``). Tool gaps are stages between
calls. Runs of different classes (some never call an LLM) stay apart, since every run is walked by itself, and the spread
over runs gives quantiles.

What load adds to one run's luck is spread around its predicted latency as a log-normal: a stage of LLM m varies with the
regression's residual, of which the part ``Curve.residual_shared`` is common to all stages of a run.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from scipy.special import ndtri

from scepsy.dag import longest_path_s, nominal_s
from scepsy.plans import Allocation
from scepsy.predictors.aggregate import CurveIndex, Floats, call_rates_per_s, read_replicas
from scepsy.predictors.paths import Paths
from scepsy.profile.curve import Curve
from scepsy.stats.use import WorkflowUse
from scepsy.value import Value
from scepsy.workload import Run

MAX_RUNS = 1000
MAX_CALLS = 40_000
"""Runs are thinned to these, evenly over their nominal latency, so that a long tail keeps its weight."""
STRATA = 8
"""Equally likely values by which a run's luck is represented."""


class Latencies(Value, frozen=True, kw_only=True):
    """Predicted end-to-end latency of one workflow, seconds."""

    workflow: str
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float

    @property
    def by_statistic(self) -> dict[str, float]:
        """Seconds under the names that objectives use."""
        return {"mean": self.mean_s, "p50": self.p50_s, "p95": self.p95_s, "p99": self.p99_s}

    def percentile(self, percent: float | None) -> float:
        """The mean for None, else the percentile: 50, 95 or 99. Raises ``KeyError`` for another one."""
        return {None: self.mean_s, 50.0: self.p50_s, 95.0: self.p95_s, 99.0: self.p99_s}[percent]


class RunModel:
    """The traced runs of one workflow, compiled once and walked for every allocation."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.workflow = runs[0].workflow
        self.paths = Paths(thin(runs))

    @cached_property
    def stages(self) -> Floats:
        """Sibling groups by (LLM, run): how often a run waits for each LLM."""
        paths = self.paths
        counts = np.zeros((len(paths.llms), paths.runs))
        keys = np.unique(np.column_stack([paths.llm, paths.run, paths.level]), axis=0)
        np.add.at(counts, (keys[:, 0], keys[:, 1]), 1.0)
        return counts


def thin(runs: Sequence[Run]) -> list[Run]:
    """At most ``MAX_RUNS`` runs and about ``MAX_CALLS`` calls, evenly spaced over the runs' nominal latency."""
    calls = sum(len(run.calls) for run in runs)
    keep = min(MAX_RUNS, len(runs), max(1, len(runs) * MAX_CALLS // calls))
    if keep == len(runs):
        return list(runs)
    ordered = sorted(runs, key=lambda run: (longest_path_s(run, [nominal_s(call) for call in run.calls]), run.id))
    return [ordered[int((n + 0.5) * len(runs) / keep)] for n in range(keep)]


class CallTimes(Value, frozen=True, kw_only=True):
    """How long calls of one workflow to one LLM take at a load."""

    base_s: float
    s_per_input_token: float
    s_per_output_token: float
    residual_s: float
    residual_shared: float


def call_times(curves: CurveIndex, workflow: str, a: Allocation, calls_per_s: float, *, slowdown: float = 1.0) -> CallTimes:
    """Read the regression of ``workflow``'s calls at the allocation's load. Raises ``KeyError`` when the curve has none."""
    found = curves.by_workflow(a.llm, a.gpu_type, a.tensor_parallel, a.share_pct).get(workflow)
    if found is None or not all(curve.call_base_s for curve in found.values()):
        raise KeyError(
            f"no regression of {a.llm} for {workflow} on {a.gpu_type} at TP {a.tensor_parallel}, share {a.share_pct} %"
        )

    def read(field: str) -> float:
        return float(read_replicas(found, field, a.replicas, calls_per_s * slowdown))

    curve = next(iter(found.values()))
    siblings = read_ratio(found, "sibling_factor", a.replicas, calls_per_s * slowdown) if curve.sibling_factor else 1.0
    shared = read_ratio(found, "residual_shared", a.replicas, calls_per_s * slowdown) if curve.residual_shared else 0.0
    factor = slowdown * siblings
    return CallTimes(
        base_s=factor * read("call_base_s"),
        s_per_input_token=factor * read("call_s_per_input_token"),
        s_per_output_token=factor * read("call_s_per_output_token"),
        residual_s=slowdown * read("call_residual_s"),
        residual_shared=min(max(shared, 0.0), 1.0),
    )


def read_ratio(found: Mapping[int, Curve], field: str, replicas: int, calls_per_s: float) -> float:
    """Read a column that is a ratio: it does not grow without bound near capacity."""
    curve = found[min(found, key=lambda known: (abs(np.log(known / replicas)), known))]
    load = min(calls_per_s / (replicas * curve.capacity_per_s), curve.utilisation[-1])
    return float(np.interp(load, curve.utilisation, getattr(curve, field)))


def latencies(model: RunModel, times: Mapping[str, CallTimes]) -> Latencies:
    """Walk every run with the given call times."""
    paths = model.paths
    order = [times[llm] for llm in paths.llms]
    run_s = run_seconds(model, times)
    if not np.isfinite(run_s).all():
        inf = float("inf")
        return Latencies(workflow=model.workflow, mean_s=inf, p50_s=inf, p95_s=inf, p99_s=inf)
    variance = np.zeros(paths.runs)
    for t, stages in zip(order, model.stages, strict=True):
        variance += t.residual_s**2 * (stages * (1.0 - t.residual_shared) + stages**2 * t.residual_shared)
    p50, p95, p99 = np.percentile(spread(run_s, variance), (50.0, 95.0, 99.0)).tolist()
    return Latencies(workflow=model.workflow, mean_s=float(run_s.mean()), p50_s=p50, p95_s=p95, p99_s=p99)


def run_seconds(model: RunModel, times: Mapping[str, CallTimes]) -> Floats:
    """Expected latency of every walked run, shape (runs,); all infinite where a call takes forever."""
    paths = model.paths
    order = [times[llm] for llm in paths.llms]
    base = np.array([t.base_s for t in order])
    per_input = np.array([t.s_per_input_token for t in order])
    per_output = np.array([t.s_per_output_token for t in order])
    with np.errstate(invalid="ignore"):  # no token of an LLM that takes forever: not a number, caught below
        durations = base[paths.llm] + per_input[paths.llm] * paths.input_tokens + per_output[paths.llm] * paths.output_tokens
    if not np.isfinite(durations).all():
        return np.full(paths.runs, np.inf)
    return paths.latency_s(durations)


def busy_s(model: RunModel, llm: str, times: CallTimes) -> float:
    """Mean seconds per run with a call to ``llm`` in flight, were its levels to follow one another: its longest call at
    each."""
    paths = model.paths
    number = paths.llms.index(llm)
    mine = np.flatnonzero(paths.llm == number)
    durations = (
        times.base_s + times.s_per_input_token * paths.input_tokens[mine] + times.s_per_output_token * paths.output_tokens[mine]
    )
    _, group = np.unique(np.column_stack([paths.run[mine], paths.level[mine]]), axis=0, return_inverse=True)
    longest = np.zeros(int(group.max()) + 1)
    np.maximum.at(longest, group.reshape(-1), durations)
    return float(longest.sum()) / paths.runs


def spread(mean_s: Floats, variance: Floats) -> Floats:
    """``STRATA`` equally likely values per run: log-normals with the given means and variances, shape (runs, STRATA)."""
    z = ndtri((np.arange(STRATA) + 0.5) / STRATA)
    z = z / np.sqrt(np.mean(z**2))
    sigma2 = np.log1p(variance / np.maximum(mean_s, 1e-12) ** 2)
    return np.asarray(mean_s[:, None] * np.exp(np.sqrt(sigma2)[:, None] * z[None, :] - sigma2[:, None] / 2))


def predict(
    models: Mapping[str, RunModel],
    uses: Sequence[WorkflowUse],
    rates_per_s: Sequence[float],
    curves: CurveIndex,
    allocations: Sequence[Allocation],
    *,
    slowdown: Mapping[str, float] | None = None,
) -> tuple[Latencies, ...]:
    """Predict every workflow at the given rates; ``slowdown`` as in ``aggregate.predict``. Raises ``KeyError`` like
    ``call_times``."""
    by_llm = {a.llm: a for a in allocations}
    loads = call_rates_per_s(uses, rates_per_s)
    slowdowns = slowdown or {}
    made = []
    for use in uses:
        times = {
            llm.llm: call_times(curves, use.workflow, by_llm[llm.llm], loads[llm.llm], slowdown=slowdowns.get(llm.llm, 1.0))
            for llm in use.llms
        }
        made.append(latencies(models[use.workflow], times))
    return tuple(made)
