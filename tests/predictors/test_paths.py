"""Walking many runs at once against walking them one by one."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scepsy.dag import longest_path_s, walk
from scepsy.predictors.paths import Paths, busy_seconds_by_run
from scepsy.workload import Call, Run


@st.composite
def runs(draw: st.DrawFn) -> list[Run]:
    made = []
    for number in range(draw(st.integers(1, 4))):
        calls: list[Call] = []
        for index in range(draw(st.integers(1, 7))):
            parents = tuple(sorted(draw(st.sets(st.sampled_from([c.id for c in calls]), max_size=3)))) if calls else ()
            calls.append(
                Call(
                    id=f"c{index}",
                    llm=draw(st.sampled_from(["a", "b"])),
                    input_tokens=draw(st.integers(1, 50)),
                    output_tokens=draw(st.integers(1, 50)),
                    parents=parents,
                    gap_s=draw(st.sampled_from([0.0, 0.5, 2.0])),
                )
            )
        made.append(Run(id=f"r{number}", workflow="w", calls=tuple(calls), tail_s=draw(st.sampled_from([0.0, 1.0]))))
    return made


def seconds(call: Call) -> float:
    return 0.1 + 0.01 * call.input_tokens + 0.02 * call.output_tokens


@settings(deadline=None)
@given(runs())
def test_latency_and_busy_seconds_equal_the_walk_of_each_run(found: list[Run]) -> None:
    paths = Paths(found)
    durations = 0.1 + 0.01 * paths.input_tokens + 0.02 * paths.output_tokens
    expected = [longest_path_s(run, [seconds(call) for call in run.calls]) for run in found]
    np.testing.assert_allclose(paths.latency_s(durations), expected)
    np.testing.assert_allclose(paths.latency_s(np.stack([durations, durations])), [expected, expected])
    np.testing.assert_allclose(paths.busy_s(durations), [slow_busy(run) for run in found])
    starts = [walk(run, [seconds(call) for call in run.calls]) for run in found]
    np.testing.assert_allclose(paths.span_s(durations), [max(e) - min(s) for s, e in starts])


def slow_busy(run: Run) -> float:
    """Length of the union of the calls' spans, by cutting time at every border."""
    starts, ends = walk(run, [seconds(call) for call in run.calls])
    borders = sorted({*starts, *ends})
    return sum(
        after - before
        for before, after in pairwise(borders)
        if any(start <= before and after <= end for start, end in zip(starts, ends, strict=True))
    )


def test_busy_seconds_of_no_calls_are_zero() -> None:
    assert busy_seconds_by_run(np.zeros(0, dtype=np.int64), 2, np.zeros(0), np.zeros(0)).tolist() == [0.0, 0.0]
