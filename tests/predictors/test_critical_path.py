"""The critical path: branches in parallel count once, classes stay apart, luck widens quantiles and leaves the mean."""

import msgspec
import numpy as np
import pytest

from scepsy.plans import Allocation
from scepsy.predictors import aggregate, critical_path
from scepsy.predictors.aggregate import CurveIndex
from scepsy.predictors.critical_path import CallTimes, RunModel, latencies, spread, thin
from scepsy.profile.curve import Curve
from scepsy.stats.use import LlmUse, WorkflowUse
from scepsy.workload import Call, Run


def call(name: str, llm: str, *parents: str, out: int = 10, gap_s: float = 0.0) -> Call:
    return Call(id=name, llm=llm, input_tokens=100, output_tokens=out, parents=parents, gap_s=gap_s)


def run(name: str, *calls: Call, tail_s: float = 0.0) -> Run:
    return Run(id=name, workflow="w", calls=calls, tail_s=tail_s)


def times(base_s: float, *, residual_s: float = 0.0, shared: float = 0.0, per_output: float = 0.0) -> CallTimes:
    return CallTimes(
        base_s=base_s, s_per_input_token=0.0, s_per_output_token=per_output, residual_s=residual_s, residual_shared=shared
    )


def test_two_llms_side_by_side_cost_the_longer_one() -> None:
    model = RunModel([run("r", call("x", "a"), call("y", "b"), call("z", "a", "x", "y", gap_s=0.5), tail_s=0.25)])
    found = latencies(model, {"a": times(1.0), "b": times(3.0)})
    assert found.mean_s == pytest.approx(3.0 + 0.5 + 1.0 + 0.25)
    assert found.p50_s == found.p99_s == pytest.approx(found.mean_s)


def test_classes_of_runs_stay_apart() -> None:
    short = [run(f"s{n}", call("x", "a")) for n in range(90)]
    long = [run(f"l{n}", call("x", "a"), call("y", "b", "x")) for n in range(10)]
    found = latencies(RunModel([*short, *long]), {"a": times(1.0), "b": times(9.0)})
    assert found.mean_s == pytest.approx(1.9)
    assert (found.p50_s, found.p95_s) == (pytest.approx(1.0), pytest.approx(10.0))


@pytest.mark.filterwarnings("error")
def test_an_llm_without_an_answer_that_takes_forever_makes_the_latency_infinite_and_warns_of_nothing() -> None:
    embedding = Call(id="y", llm="b", kind="embed", input_tokens=100, output_tokens=0, parents=("x",))
    model = RunModel([run("r", call("x", "a"), embedding)])
    found = latencies(model, {"a": times(1.0), "b": times(1.0, per_output=float("inf"))})
    assert (found.mean_s, found.p95_s) == (float("inf"), float("inf"))


def test_luck_widens_the_quantiles_more_when_a_run_keeps_it() -> None:
    chain = [call("c0", "a"), *(call(f"c{n}", "a", f"c{n - 1}") for n in range(1, 9))]
    model = RunModel([run(f"r{n}", *chain) for n in range(50)])
    alone, kept = (latencies(model, {"a": times(1.0, residual_s=0.3, shared=s)}) for s in (0.0, 1.0))
    assert alone.mean_s == kept.mean_s == pytest.approx(9.0)
    assert 9.0 < alone.p95_s < kept.p95_s
    # Nine independent stages: sd 0.9. One luck for all: sd 2.7. The 95th percentile of a log-normal lies at 1.4 to 1.8 of them.
    assert 1.2 < (alone.p95_s - 9.0) / 0.9 < 2.0
    assert 1.2 < (kept.p95_s - 9.0) / 2.7 < 2.0


def test_a_serial_workflow_is_what_the_aggregate_says() -> None:
    runs = [run(f"r{n}", call("x", "a", out=10 + n), call("y", "b", "x", out=5), call("z", "a", "y")) for n in range(20)]
    curves = CurveIndex([serial_curve("a", 0.2, 0.01, runs), serial_curve("b", 0.4, 0.02, runs)])
    use = WorkflowUse(
        workflow="w",
        runs=20,
        llms=(LlmUse(llm="a", calls_per_run=2.0, parallelism=1.0), LlmUse(llm="b", calls_per_run=1.0, parallelism=1.0)),
    )
    both = [Allocation(llm=llm, share_pct=100, tensor_parallel=1, replicas=1, gpu_type="G") for llm in ("a", "b")]
    (walked,) = critical_path.predict({"w": RunModel(runs)}, [use], [0.5], curves, both, slowdown={"a": 1.2})
    (summed,) = aggregate.predict([use], [0.5], curves, both, slowdown={"a": 1.2})
    assert walked.mean_s == pytest.approx(summed.latency_s)


def serial_curve(llm: str, base_s: float, per_output: float, runs: list[Run]) -> Curve:
    mine = [[c for c in r.calls if c.llm == llm] for r in runs]
    busy = float(np.mean([sum(base_s + per_output * c.output_tokens for c in calls) for calls in mine]))
    mean = busy / len(mine[0])
    flat = {name: (value, 2 * value) for name, value in (("mean_s", mean), ("busy_s", busy))}
    return Curve(
        workflow="w", llm=llm, gpu_type="G", tensor_parallel=1, share_pct=100, replicas=1, capacity_per_s=10.0,
        utilisation=(0.05, 0.9), p50_s=flat["mean_s"], p95_s=flat["mean_s"], p99_s=flat["mean_s"], parallelism=(1.0, 1.0),
        call_base_s=(base_s, 2 * base_s), call_s_per_input_token=(0.0, 0.0),
        call_s_per_output_token=(per_output, 2 * per_output), call_residual_s=(0.0, 0.0), **flat,
    )  # fmt: skip


def chain(length: int) -> list[Call]:
    return [call(f"c{k}", "a", *([f"c{k - 1}"] if k else [])) for k in range(length)]


def test_call_times_are_read_at_the_load_of_an_instance_and_siblings_stretch_what_their_regression_says() -> None:
    # 6 calls/s, 1.5 times slowed, on two instances of 10: load 0.45. Ratios are linear in the load.
    ratios = {"sibling_factor": (1.0, 3.0), "residual_shared": (0.2, 0.6)}
    steady = {"call_base_s": (0.2, 0.2), "call_s_per_output_token": (0.01, 0.01), "call_residual_s": (0.1, 0.1)}
    one = msgspec.structs.replace(serial_curve("a", 0.2, 0.01, [run("r", call("x", "a"))]), replicas=2, **ratios, **steady)
    two = Allocation(llm="a", share_pct=100, tensor_parallel=1, replicas=2, gpu_type="G")
    found = critical_path.call_times(CurveIndex([one]), "w", two, 6.0, slowdown=1.5)
    part = (0.45 - 0.05) / (0.9 - 0.05)
    siblings = 1.0 + 2.0 * part
    assert found.base_s == pytest.approx(1.5 * siblings * 0.2)
    assert found.s_per_output_token == pytest.approx(1.5 * siblings * 0.01)
    assert found.residual_s == pytest.approx(1.5 * 0.1)
    assert found.residual_shared == pytest.approx(0.2 + 0.4 * part)


def test_luck_has_the_variance_that_is_asked_for_and_leaves_the_mean() -> None:
    for mean, variance in ((10.0, 4.0), (1.0, 0.09)):
        found = spread(np.array([mean]), np.array([variance]))
        assert found.mean() == pytest.approx(mean, rel=1e-3)
        assert found.var() == pytest.approx(variance, rel=0.05)


def test_thinning_keeps_the_tail() -> None:
    runs = [run(f"r{n}", *chain(n % 50 + 1)) for n in range(3000)]
    kept = thin(runs)
    assert len(kept) <= 1000
    sizes, all_sizes = ([len(r.calls) for r in group] for group in (kept, runs))
    assert np.mean(sizes) == pytest.approx(np.mean(all_sizes), rel=0.02)
    assert np.percentile(sizes, 95) == pytest.approx(np.percentile(all_sizes, 95), abs=1)


def test_a_curve_without_regression_is_named() -> None:
    bare = serial_curve("a", 0.1, 0.0, [run("r", call("x", "a"))])
    curves = CurveIndex([msgspec.structs.replace(bare, call_base_s=())])
    a = Allocation(llm="a", share_pct=100, tensor_parallel=1, replicas=1, gpu_type="G")
    with pytest.raises(KeyError, match="no regression of a for w"):
        critical_path.call_times(curves, "w", a, 1.0)
