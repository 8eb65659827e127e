"""The committed recordings: they load, and their graphs are those of the programs that made them."""

from pathlib import Path

import pytest

from scepsy.files.trace import load_trace
from scepsy.stats.use import workflow_use

PATH = Path(__file__).parents[2] / "traces" / "recorded" / "agents.jsonl.gz"


@pytest.fixture(scope="module")
def trace():
    return load_trace(PATH)


def test_every_program_is_there(trace):
    assert {name: len(trace.of(name).runs) for name in trace.workflows} == {
        "rag": 40, "beam-search": 16, "debate": 16, "map-reduce": 16, "tool-loop": 16,
    }  # fmt: skip
    assert set(trace.llms) == {"small-chat", "large-chat", "reranker"}


def test_rag_is_a_chain(trace):
    for run in trace.of("rag").runs:
        assert [call.llm for call in run.calls] == ["small-chat", "reranker", "large-chat"]
        assert [call.parents for call in run.calls] == [(), ("c0",), ("c1",)]


def test_map_reduce_joins_four_experts(trace):
    for run in trace.of("map-reduce").runs:
        *experts, last = run.calls
        assert len(experts) == 4
        assert len(last.parents) >= 1
        assert last.llm == "large-chat"


def test_beam_search_scores_every_expansion(trace):
    for run in trace.of("beam-search").runs:
        kinds = [call.kind for call in run.calls]
        assert kinds.count("rerank") == kinds.count("generate")


def test_recorded_times_give_the_use_of_every_llm(trace):
    use = {one.llm: one for one in workflow_use(trace.of("debate"), "debate").llms}
    assert use["small-chat"].calls_per_run == 6
    assert 1 < use["small-chat"].parallelism <= 3
    assert use["large-chat"].calls_per_run == 1
