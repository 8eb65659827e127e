"""n_m, p_m and tool time, by hand and against a slow reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scepsy.stats.use import busy_s, workflow_use, workflow_uses
from scepsy.workload import Call, Run, Trace, TraceSource


def recorded(run_id: str, *spans: tuple[str, float, float], tail: float = 0.0, workflow: str = "w") -> Run:
    calls = tuple(
        Call(id=str(i), llm=llm, input_tokens=1, output_tokens=1, start_s=start, end_s=end)
        for i, (llm, start, end) in enumerate(spans)
    )
    return Run(id=run_id, workflow=workflow, calls=calls, tail_s=tail)


def trace(*runs: Run) -> Trace:
    return Trace(source=TraceSource(origin="test"), runs=runs)


def test_two_runs_by_hand():
    use = workflow_use(
        trace(
            # A alone 0-2, two B overlapping 3-7 (one of them 3-5), tail 1: no call 2-3 and after 7
            recorded("1", ("A", 0, 2), ("B", 3, 5), ("B", 3, 7), tail=1.0),
            # A twice apart, never B, no idle time but 1-4
            recorded("2", ("A", 0, 1), ("A", 4, 5)),
        ),
        "w",
    )
    assert use.runs == 2
    assert [(u.llm, u.calls_per_run, u.parallelism) for u in use.llms] == [("A", 1.5, 1.0), ("B", 1.0, 6 / 4)]
    assert use.tool_s == pytest.approx((2.0 + 3.0) / 2)
    assert use.calls_per_run("C") == 0


def test_workflows_are_kept_apart():
    uses = workflow_uses([recorded("1", ("A", 0, 1)), recorded("2", ("B", 0, 1), workflow="v")])
    assert {name: [u.llm for u in use.llms] for name, use in uses.items()} == {"w": ["A"], "v": ["B"]}


def test_unknown_workflow():
    with pytest.raises(KeyError, match="is not in the trace"):
        workflow_use(trace(recorded("1", ("A", 0, 1))), "nope")


def test_calls_without_duration_count_as_serial():
    assert workflow_use(trace(recorded("1", ("A", 1, 1), ("A", 1, 1))), "w").llms[0].parallelism == 1.0


intervals = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda t: (float(t[0]), float(t[0] + t[1]))), max_size=12
)


@settings(max_examples=200)
@given(intervals)
def test_busy_time_against_counting_seconds(spans):
    # Reference: on whole seconds, the union's length is the number of unit cells that some interval covers.
    cells = np.zeros(100, dtype=bool)
    for start, end in spans:
        cells[int(start) : int(end)] = True
    assert busy_s(spans) == cells.sum()


@settings(max_examples=100)
@given(intervals.filter(lambda spans: any(end > start for start, end in spans)))
def test_parallelism_is_the_mean_number_in_flight_while_any_is(spans):
    counts = np.zeros(100, dtype=int)
    for start, end in spans:
        counts[int(start) : int(end)] += 1
    use = workflow_use(trace(recorded("1", *(("A", *span) for span in spans))), "w")
    assert use.llms[0].parallelism == pytest.approx(counts[counts > 0].mean())
