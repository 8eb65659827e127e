"""A long wait before a run's first call does not multiply the runs that a curve draws."""

import pytest

from scepsy.backend import Stream
from scepsy.generate import generate
from scepsy.workload import Arrivals, Call, Run, Trace, TraceSource
from sim.profiling.load import LONGEST_LEAD_S, LlmLoad


def waiting(lead_s: float) -> LlmLoad:
    first = Call(id="a", llm="m", kind="embed", input_tokens=12, gap_s=lead_s)
    second = Call(id="b", llm="m", kind="embed", input_tokens=12, parents=("a",), gap_s=0.5)
    other = Call(id="c", llm="m", kind="embed", input_tokens=12, gap_s=lead_s + 2.0)
    run = Run(id="r", workflow="w", calls=(first, second, other))
    trace = Trace(source=TraceSource(origin="made up"), runs=(run,))
    return LlmLoad("m", [Stream(trace=trace, arrivals=Arrivals(rate_per_s=1.0))], 16, 0)


@pytest.mark.parametrize(("lead_s", "begins_s"), [(0.0, 0.0), (LONGEST_LEAD_S, LONGEST_LEAD_S), (3600.0, 0.0)])
def test_a_run_begins_with_its_first_call_where_it_waits_for_long(lead_s: float, begins_s: float) -> None:
    calls = {call.id: call for call in waiting(lead_s).traces[0].runs[0].calls}
    assert calls["a"].gap_s == pytest.approx(begins_s)
    assert calls["b"].gap_s == pytest.approx(0.5)
    assert calls["c"].gap_s == pytest.approx(begins_s + 2.0)


def test_generated_workflows_that_begin_at_once_are_left_as_they_are() -> None:
    trace = generate("rag-rerank", runs=5, seed=1)
    load = LlmLoad("llama-2-7b", [Stream(trace=trace, arrivals=Arrivals(rate_per_s=1.0))], 16, 0)
    assert all(call.gap_s <= LONGEST_LEAD_S for run in load.traces[0].runs for call in run.calls)
