"""The agent programs against stub engines: what is recorded of them is what they do."""

import pytest

from executor.gateway.config import Endpoint
from scepsy.importers.recorded.reader import load_recording
from scepsy.importers.recorded.trace import to_trace

pytest.importorskip("openai", reason="the agent programs need the extra 'agents'")

from experiments.agents.__main__ import PROGRAMS, load, run_all
from scepsy.errors import InputError

MODELS = {"generate": "m", "rerank": "judge"}


async def record(name, stub, gateway, runs=2, **fields):
    module = load(name)
    engine = stub(delay_s=0.5)  # so that what a program sends at once overlaps, on a busy machine too
    ends = [Endpoint(name=f"{llm}-0", llm=llm, url=engine.url) for llm in MODELS.values()]
    served = gateway(ends)
    await run_all(name, served.url, {role: MODELS[kind] for role, kind in module.ROLES.items()}, runs, **fields)
    return to_trace(load_recording(served.recording).calls, "test")


@pytest.mark.parametrize("name", PROGRAMS)
async def test_every_program_runs_and_each_run_is_told_apart(stub, gateway, name):
    for needed in ("langgraph", "pydantic_ai"):
        pytest.importorskip(needed)
    trace = await record(name, stub, gateway)
    assert [run.id for run in trace.runs] == [f"{name}-0-{index}" for index in range(2)]
    assert trace.workflows == (name,)
    assert all(len(run.calls) >= 2 for run in trace.runs)


async def test_rag_is_a_rewrite_a_rerank_and_an_answer(stub, gateway):
    trace = await record("rag", stub, gateway)
    for run in trace.runs:
        assert [call.kind for call in run.calls] == ["generate", "rerank", "generate"]
        assert [call.parents for call in run.calls] == [(), ("c0",), ("c1",)]


async def test_map_reduce_fans_out_and_joins(stub, gateway):
    pytest.importorskip("langgraph")
    trace = await record("map-reduce", stub, gateway)
    for run in trace.runs:
        *experts, last = run.calls
        assert len(experts) == 4
        assert all(call.parents == () for call in experts)
        assert set(last.parents) == {call.id for call in experts}


async def test_a_tool_loop_is_a_chain_with_gaps(stub, gateway):
    pytest.importorskip("pydantic_ai")
    trace = await record("tool-loop", stub, gateway)
    for run in trace.runs:
        assert [call.parents for call in run.calls] == [(), *((f"c{i}",) for i in range(len(run.calls) - 1))]
    assert any(call.gap_s > 0.02 for run in trace.runs for call in run.calls)


async def test_beam_search_waits_for_all_scores(stub, gateway):
    trace = await record("beam-search", stub, gateway)
    run = max(trace.runs, key=lambda one: len(one.calls))
    by_id = {call.id: call for call in run.calls}
    scored = [call for call in run.calls if call.kind == "rerank"]
    expansions = [call for call in run.calls if call.kind == "generate"]
    assert len(scored) == len(expansions)
    later = [call for call in expansions if call.parents]
    assert later
    for call in later:
        assert {by_id[parent].kind for parent in call.parents} == {"rerank"}


async def test_the_same_seed_asks_the_same(stub, gateway, tmp_path):
    for _ in range(2):
        await record("debate", stub, gateway, seed=5)
    calls = load_recording(tmp_path / "calls.jsonl").calls
    asked = {}
    for call in calls:
        asked.setdefault(call.session, []).append((call.run, call.llm, call.input_bytes, call.output_tokens))
    first, second = asked.values()
    assert sorted(first) == sorted(second)


async def test_a_role_without_a_model_is_bad_input():
    with pytest.raises(InputError, match="role rewriter has no model"):
        await run_all("rag", "http://127.0.0.1:1", {}, 1)
