"""Curves L_m(rate) and capacities T_m: what replaying a trace's calls of one LLM through instances of it showed.

A curve belongs to one workflow's calls of one LLM and one instance type (GPU type, tensor-parallel degree, share). The
replay keeps the shape of the load: runs arrive at random, and inside a run the LLM's own calls follow each
other as in the trace, other LLMs and tools standing in as fixed gaps (``dag.project``); siblings are issued together.
Where several workflows share the LLM, all of them are replayed in the proportion of their target rates, and there is
one curve for each workflow.

``replicas`` > 1 replays against that many instances behind the least-outstanding router, since a fan-out spreads
over replicas; planners interpolate between the replica counts that were profiled.
"""

import numpy as np
import numpy.typing as npt

from scepsy.value import Value, require, require_finite


class Curve(Value, frozen=True, kw_only=True):
    """Latency against rate. All tuples have one entry per utilisation point, ascending."""

    workflow: str
    llm: str
    gpu_type: str
    tensor_parallel: int
    share_pct: int
    replicas: int
    capacity_per_s: float
    """T_m: calls per second (of all workflows that use the LLM) one instance completes when saturated."""
    utilisation: tuple[float, ...]
    """Offered call rate per instance over ``capacity_per_s``."""
    mean_s: tuple[float, ...]
    """Latency of one call of this workflow."""
    p50_s: tuple[float, ...]
    p95_s: tuple[float, ...]
    p99_s: tuple[float, ...]
    busy_s: tuple[float, ...]
    """Mean seconds per run during which at least one of its calls to this LLM is in flight: L_m · n_m / p_m."""
    parallelism: tuple[float, ...]
    """p_m at this rate: Σ call latencies over Σ busy seconds."""
    call_base_s: tuple[float, ...] = ()
    """Regression of call latency on (1, input, output tokens) at this rate: what the critical path is built from."""
    call_s_per_input_token: tuple[float, ...] = ()
    call_s_per_output_token: tuple[float, ...] = ()
    call_residual_s: tuple[float, ...] = ()
    """Standard deviation of what the regression leaves."""
    sibling_factor: tuple[float, ...] = ()
    """Seconds until the last call of a sibling group ends, over what the regression says: what queueing among them adds."""
    residual_shared: tuple[float, ...] = ()
    """Part of the residual's variance that is common to all calls of a run."""
    decoding: tuple[float, ...] = ()
    """Part of an instance's busy time in which it decodes, so that neighbours on its GPUs feel it."""
    stretchable: tuple[float, ...] = ()
    """Part of an instance's busy time that neighbours' decoding stretches: all but prompt processing."""
    mean_error_s: tuple[float, ...] = ()
    """Standard error of ``mean_s``. Empty where it is not known."""
    busy_error_s: tuple[float, ...] = ()
    """Standard error of ``busy_s``. Empty where it is not known."""

    def __post_init__(self) -> None:
        require(1 <= self.share_pct <= 100, "share_pct", self.share_pct, "1 to 100")
        require(self.tensor_parallel >= 1, "tensor_parallel", self.tensor_parallel, ">= 1")
        require(self.replicas >= 1, "replicas", self.replicas, ">= 1")
        require_finite("capacity_per_s", self.capacity_per_s, exclusive=True)
        points = len(self.utilisation)
        require(points >= 2, "utilisation", self.utilisation, "at least two points")
        require(
            all(a < b for a, b in zip(self.utilisation, self.utilisation[1:], strict=False)),
            "utilisation",
            self.utilisation,
            "ascending",
        )
        for field in ("mean_s", "p50_s", "p95_s", "p99_s", "busy_s", "parallelism"):
            values = getattr(self, field)
            require(len(values) == points, field, len(values), f"{points} values, one per utilisation")
            for value in values:
                require_finite(field, value)


def read_curve(curve: Curve, field: str, rate_per_instance_per_s: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Read one of the ``*_s`` columns at the given call rates per instance; infinite at or beyond capacity.

    Between the profiled points ``(1 − utilisation) · value`` is linear: so is that of an M/G/1 queue, and of calls that share
    an instance's speed. Below the first point, the first value (nearly unloaded); between the last point and capacity the
    time grows as 1/(1 − utilisation), the form every open queue has near saturation. Shape in = shape out. Unit: seconds.
    """
    utilisation = np.asarray(rate_per_instance_per_s, dtype=float) / curve.capacity_per_s
    xs, ys = np.asarray(curve.utilisation), np.asarray(getattr(curve, field))
    xs, ys = xs[xs < 1.0], ys[xs < 1.0]
    free = np.maximum(1.0 - utilisation, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.interp(utilisation, xs, ys * (1.0 - xs)) / free
    value = np.where(utilisation <= xs[0], ys[0], value)
    return np.where(utilisation >= 1.0, np.inf, value)
