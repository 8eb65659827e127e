"""What the curves of two workflows cost: every option of rag-rerank and beam search on one GPU type (``make bench``)."""

import time

import pytest

from scepsy.backend import Stream
from scepsy.generate import generate
from scepsy.profile.catalogue import builtin_profiles
from scepsy.profile.curve import Curve
from scepsy.workload import Arrivals
from sim.profiling.curves import REPLICAS, SHARES, profile_curves
from sim.profiling.points import PRECISE_TO

GPU = "A100-80G"


@pytest.mark.benchmark(timer=time.process_time, min_rounds=1, warmup=False)
@pytest.mark.parametrize("name", ["rag-rerank", "beam-search"])
def test_bench_curves(benchmark, name: str) -> None:
    measuring = not benchmark.disabled
    trace = generate(name, runs=200 if measuring else 10, seed=1)
    stream = Stream(trace=trace, arrivals=Arrivals(rate_per_s=1.0))
    options = {"shares": SHARES, "replica_counts": REPLICAS} if measuring else {"shares": (100,), "replica_counts": (1,)}
    curves = benchmark.pedantic(
        lambda: profile_curves(
            [stream], builtin_profiles(list(trace.llms), [GPU]), [GPU], degrees=None if measuring else (1,), **options
        )
    )
    assert {curve.llm for curve in curves} == set(trace.llms)
    benchmark.extra_info.update(curves=len(curves), worst_error_pct_to_80=100 * max(worst_error(one) for one in curves))


def worst_error(curve: Curve) -> float:
    """The largest standard error over the mean at loads for which precision is asked."""
    return max(
        error / mean
        for load, error, mean in zip(curve.utilisation, curve.mean_error_s, curve.mean_s, strict=True)
        if load <= PRECISE_TO
    )
