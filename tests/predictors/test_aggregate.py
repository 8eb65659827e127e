"""The aggregate: sums by hand, and the stacked reading against the plain one."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scepsy.plans import Allocation
from scepsy.predictors.aggregate import CurveIndex, capacity_calls_per_s, predict, read_replicas, sum_choices
from scepsy.profile.curve import Curve, read_curve
from scepsy.search.random_problems import Size, random_problem
from scepsy.stats.use import LlmUse, WorkflowUse


def curve(llm: str, busy: tuple[float, ...], *, replicas: int = 1, capacity: float = 10.0, workflow: str = "w") -> Curve:
    points = (0.1, 0.5, 0.9)
    mean = tuple(value / 2 for value in busy)
    return Curve(
        workflow=workflow, llm=llm, gpu_type="G", tensor_parallel=1, share_pct=100, replicas=replicas, capacity_per_s=capacity,
        utilisation=points, mean_s=mean, p50_s=mean, p95_s=mean, p99_s=mean, busy_s=busy, parallelism=(1.0,) * 3,
    )  # fmt: skip


def allocation(llm: str, replicas: int = 1) -> Allocation:
    return Allocation(llm=llm, share_pct=100, tensor_parallel=1, replicas=replicas, gpu_type="G")


USE = WorkflowUse(
    workflow="w",
    runs=10,
    tool_s=0.5,
    llms=(LlmUse(llm="a", calls_per_run=2.0, parallelism=1.0), LlmUse(llm="b", calls_per_run=4.0, parallelism=2.0)),
)


def test_latency_is_tool_time_plus_busy_seconds_and_the_first_llm_to_saturate_sets_the_rate() -> None:
    index = CurveIndex([curve("a", (1.0, 2.0, 9.0)), curve("b", (3.0, 4.0, 9.0))])
    (found,) = predict([USE], [1.0], index, [allocation("a"), allocation("b")])
    # Free part times seconds is linear. a: 2 calls/s of 10 → utilisation 0.2, a quarter of the way from 0.9 · 1 to 0.5 · 2;
    # b: 0.4, three quarters from 0.9 · 3 to 0.5 · 4.
    assert found.latency_s == pytest.approx(0.5 + (0.75 * 0.9 + 0.25 * 1.0) / 0.8 + (0.25 * 2.7 + 0.75 * 2.0) / 0.6)
    assert found.throughput_per_s == pytest.approx(10.0 / 4.0)


def test_the_papers_formula_divides_by_the_traces_parallelism() -> None:
    index = CurveIndex([curve("a", (1.0, 2.0, 9.0)), curve("b", (3.0, 4.0, 9.0))])
    (found,) = predict([USE], [1.0], index, [allocation("a"), allocation("b")], formula="paper")
    assert found.latency_s == pytest.approx(0.5 + 1.15625 / 2 * 2.0 / 1.0 + 3.625 / 2 * 4.0 / 2.0)


def test_a_saturated_llm_makes_the_latency_infinite() -> None:
    index = CurveIndex([curve("a", (1.0, 2.0, 9.0)), curve("b", (3.0, 4.0, 9.0))])
    (found,) = predict([USE], [2.6], index, [allocation("a"), allocation("b")])
    assert found.latency_s == np.inf
    assert found.throughput_per_s == pytest.approx(2.5)


def test_workflows_that_share_an_llm_load_it_together() -> None:
    other = WorkflowUse(workflow="v", runs=1, llms=(LlmUse(llm="a", calls_per_run=3.0, parallelism=1.0),))
    index = CurveIndex([curve("a", (1.0, 2.0, 9.0)), curve("a", (1.0, 2.0, 9.0), workflow="v"), curve("b", (3.0, 4.0, 9.0))])
    first, second = predict([USE, other], [1.0, 1.0], index, [allocation("a"), allocation("b")])
    assert second.latency_s == pytest.approx(2.0)  # 2 + 3 calls/s of 10
    assert second.throughput_per_s == pytest.approx((10.0 - 2.0) / 3.0)
    assert first.throughput_per_s == pytest.approx(2.5)


def test_an_llm_that_neighbours_slow_completes_less() -> None:
    index = CurveIndex([curve("a", (1.0, 2.0, 9.0)), curve("b", (3.0, 4.0, 9.0))])
    (found,) = predict([USE], [1.0], index, [allocation("a"), allocation("b")], saturated_slowdown={"b": 1.25})
    assert found.throughput_per_s == pytest.approx(10.0 / 1.25 / 4.0)


def test_of_several_callers_the_curve_that_saturates_first_counts() -> None:
    other = WorkflowUse(workflow="v", runs=1, llms=(LlmUse(llm="a", calls_per_run=3.0, parallelism=1.0),))
    index = CurveIndex([curve("a", (1.0,) * 3), curve("a", (1.0,) * 3, workflow="v", capacity=6.0), curve("b", (1.0,) * 3)])
    _, second = predict([USE, other], [1.0, 1.0], index, [allocation("a"), allocation("b")])
    assert second.throughput_per_s == pytest.approx((6.0 - 2.0) / 3.0)


def test_between_replica_counts_the_reading_is_linear_in_the_logarithm() -> None:
    family = {1: curve("a", (4.0, 4.0, 4.0)), 4: curve("a", (2.0, 2.0, 2.0), replicas=4)}
    assert read_replicas(family, "busy_s", [1, 2, 4, 9], 1.0).tolist() == pytest.approx([4.0, 3.0, 2.0, 2.0])


@given(st.floats(0.01, 60.0), st.integers(1, 70))
def test_one_number_of_replicas_is_read_as_in_an_array_of_them(rate: float, replicas: int) -> None:
    family = {
        1: curve("a", (4.0, 5.0, 9.0)),
        4: curve("a", (2.0, 3.0, 8.0), replicas=4, capacity=9.0),
        16: curve("a", (1.5, 2.5, 7.0), replicas=16, capacity=8.0),
    }
    alone = read_replicas(family, "busy_s", replicas, rate)
    assert alone.shape == ()
    assert float(alone) == read_replicas(family, "busy_s", [3, replicas, 40], rate)[1]


def test_capacity_per_instance_may_fall_with_replicas() -> None:
    family = {1: curve("a", (1.0,) * 3), 4: curve("a", (1.0,) * 3, replicas=4, capacity=5.0)}
    assert capacity_calls_per_s(family, [1, 2, 4]).tolist() == pytest.approx([10.0, 15.0, 20.0])
    assert np.isinf(read_replicas(family, "busy_s", 2, 15.0))


@given(seed=st.integers(0, 50), load=st.floats(0.01, 3.0))
def test_the_stacked_reading_equals_the_plain_one(seed: int, load: float) -> None:
    problem = random_problem(Size(llms=2, nodes=1), seed)
    stack = problem.index.stack("w0", "m0")
    assert stack is not None
    replicas = np.arange(1, 20)
    for row, kind in enumerate(stack.kinds[::7]):
        family = problem.index.by_workflow("m0", *kind)["w0"]
        number = np.full(len(replicas), row * 7)
        rate = load * family[1].capacity_per_s * 4.000123  # never exactly at a replica count's capacity
        np.testing.assert_allclose(stack.capacity(number, replicas), capacity_calls_per_s(family, replicas))
        found, plain = stack.busy(number, replicas, rate), read_replicas(family, "busy_s", replicas, rate)
        # Within a rounding error of saturation both are as good as infinite, and no two sums of rounding errors agree.
        found, plain = (np.where(values > 1e6, np.inf, values) for values in (found, plain))
        np.testing.assert_allclose(found, plain)


def test_many_choices_are_summed_at_once() -> None:
    rng = np.random.default_rng(0)
    columns = [rng.random(7), rng.random(5), rng.random(9)]
    choices = np.column_stack([rng.integers(len(column), size=100) for column in columns])
    slow = [0.25 + sum(column[n] for column, n in zip(columns, row, strict=True)) for row in choices]
    np.testing.assert_allclose(sum_choices(columns, choices, 0.25), slow)


@given(base=st.floats(0.0, 5.0), wait=st.floats(0.01, 5.0), load=st.floats(0.05, 0.99))
def test_a_queue_is_read_exactly_between_its_points_and_beyond_them(base: float, wait: float, load: float) -> None:
    points = (0.05, 0.3, 0.8)
    seconds = tuple(base + wait / (1 - u) for u in points)
    one = msgspec.structs.replace(curve("a", (1.0, 1.0, 1.0)), utilisation=points, mean_s=seconds)
    found = float(read_curve(one, "mean_s", load * one.capacity_per_s))
    if load <= 0.8:
        assert found == pytest.approx(base + wait / (1 - load), rel=1e-9)
    else:  # what does not grow with the load is taken to grow too: on the safe side
        assert found >= base + wait / (1 - load) * (1 - 1e-9)
