"""Importers on real agent traces: the sums that a right reading gives."""

import pytest

from scepsy.importers.detect import find_format
from scepsy.importers.inputs import gather
from scepsy.importers.registry import IMPORTERS
from scepsy.importers.tally import Summary, Summing, Tally
from scepsy.workload import Run

pytestmark = pytest.mark.data


def imported(path) -> tuple[str, list[Run], Tally, Summary]:
    """Read a file as whatever it is found to be."""
    sources = gather([path], Tally())
    name = find_format(sources, IMPORTERS).format
    stream = IMPORTERS[name].stream(sources)
    runs = list(stream.runs)
    summing = Summing(stream.tally)
    for run in runs:
        summing.add(run)
    return name, runs, stream.tally, summing.summary()


def test_openhands(scepsy_data):
    name, runs, tally, summary = imported(scepsy_data / "agent_traces" / "openhands_multiswe.jsonl")
    assert (name, list(summary.llms)) == ("openhands", ["meta-llama/llama-4-maverick"])
    assert [len(run.calls) for run in runs] == [23, 33]
    assert [sum(call.input_tokens for call in run.calls) for run in runs] == [565_158, 410_169]
    assert [sum(call.output_tokens for call in run.calls) for run in runs] == [2_558, 5_156]
    assert tally.dropped == {"calls with a latency and no token counts": 1}
    lost_s = tally.facts["milliseconds in calls with a latency and no token counts"] / 1000
    busy = [sum(call.duration_s for call in run.calls) for run in runs]
    assert [round(busy[0], 1), round(busy[1] + lost_s, 1)] == [79.7, 106.2]
    assert [round((run.calls[-1].end_s or 0.0) + run.tail_s, 1) for run in runs] == [88.2, 114.5]
    assert all(before.end_s <= call.start_s for run in runs for before, call in zip(run.calls, run.calls[1:], strict=False))


def test_tracelab(scepsy_data):
    name, runs, tally, summary = imported(scepsy_data / "agent_traces" / "tracelab" / "round_trace.jsonl")
    assert name == "tracelab"
    sums = {llm: (one.calls, one.input_tokens, one.output_tokens) for llm, one in summary.llms.items()}
    assert sums == {"claude-opus-4-8": (10, 418_193, 9_423), "gpt-5.4": (9, 95_819, 1_912)}
    assert tally.cached_tokens == 394_068 + 79_488
    assert len({run.session for run in runs}) == 2
    assert [len(run.calls) for run in runs] == [5, 2, 2, 5, 5]  # user turns of the Codex session, then of the Claude session
    assert all(len(call.parents) == 1 for run in runs for call in run.calls[1:])


@pytest.mark.parametrize(
    ("file", "calls"), [("ip_code_review_workflow", 15), ("ip_multi_agent_research", 12), ("ip_parallel_requests", 5)]
)
def test_inference_perf(scepsy_data, file, calls):
    name, (run,), _, summary = imported(scepsy_data / "agent_traces" / "inference_perf" / f"{file}.json")
    assert (name, summary.calls, summary.estimated_calls) == ("inference-perf", calls, calls)
    assert [call.id for call in run.calls if not call.parents] == ["c0"]
    assert summary.dependencies_inferred == sum(len(call.parents) for call in run.calls)
    assert any(len(call.parents) > 1 for call in run.calls)  # the agents that worked side by side are joined


def test_semantic_router(scepsy_data):
    name, runs, _, summary = imported(scepsy_data / "agent_traces" / "semantic_router.jsonl")
    assert (name, summary.calls, summary.input_tokens, summary.output_tokens) == ("semantic-router", 120, 343_669, 41_597)
    assert (runs[-1].arrival_s, len(summary.llms)) == (22.861, 2)
