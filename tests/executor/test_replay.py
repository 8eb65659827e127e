"""Replay: prompts of given length, runs that keep their order and gaps, records in the simulator's schema."""

import msgspec
import pytest

from executor.replay import replay
from executor.wire.prompts import UNIT, WORDS, request_of, text_of, token_ids
from scepsy.backend import Stream, Workload
from scepsy.errors import BackendError
from scepsy.records import CALL_SCHEMA, RUN_SCHEMA
from scepsy.workload import Arrivals, Call, Run, Trace, TraceSource
from sim.world.run import simulate
from tests.executor.two_cores import two_core_plan


def call(name, *parents, llm="m", gap_s=0.0, **fields):
    return Call(id=name, llm=llm, input_tokens=40, output_tokens=4, parents=parents, gap_s=gap_s, **fields)


def workload(*calls, runs=1, rate=5.0, drain_s=None, tail_s=0.0, **fields):
    run = Run(id="t", workflow="w", calls=calls, tail_s=tail_s)
    trace = Trace(source=TraceSource(origin="test"), runs=(run,), **fields)
    return Workload(streams=(Stream(trace=trace, arrivals=Arrivals(rate_per_s=rate)),), runs=runs, seed=1, drain_s=drain_s)


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_prompts_share_exactly_the_blocks_that_the_trace_names():
    a, b = (
        Call(id=name, llm="m", input_tokens=70, output_tokens=1, prefix_hashes=(1, 2, own, 4))
        for name, own in (("a", 3), ("b", 9))
    )
    first, second = token_ids(a, 16, "run"), token_ids(b, 16, "run")
    assert (len(first), len(second)) == (70, 70)
    assert first[:32] == second[:32]
    assert first[32:48] != second[32:48]
    assert first[48:64] == second[48:64], "a block's name alone says what it holds"
    assert first[64:] != second[64:]
    assert token_ids(a, 16, "another run")[:64] == first[:64]


def test_a_run_that_is_replayed_again_is_another_users_but_for_what_sessions_share():
    one = Call(id="a", llm="m", input_tokens=70, output_tokens=1, prefix_hashes=(1, 2, 3, 4))
    first, again = (token_ids(one, 16, salt, shared=frozenset([1, 2])) for salt in ("w-0", "w-1"))
    assert first[:32] == again[:32]
    assert first[32:48] != again[32:48]
    follow_up = Call(id="b", llm="m", input_tokens=90, output_tokens=1, prefix_hashes=(1, 2, 3, 4, 5))
    assert token_ids(follow_up, 16, "w-0", shared=frozenset([1, 2]))[:64] == first[:64], "within a run it is the same text"


def cached_by(prompts, block=32):
    """Tokens that a prefix cache without limits would have found: whole blocks of a known beginning, never the last token."""
    known, found = set(), 0
    for prompt in prompts:
        hit = 0
        while hit + block < len(prompt) and tuple(prompt[: hit + block]) in known:
            hit += block
        found += hit
        known.update(tuple(prompt[:end]) for end in range(block, len(prompt) + 1, block))
    return found


async def test_prompts_of_a_replay_hit_a_prefix_cache_as_simulated_ones_do(stub):
    """Two sessions with a system prompt in common and follow-ups of their own, each issued several times."""

    def session(name, base):
        ids = (1, 2, *range(base, base + 6))
        calls = (
            Call(id="a", llm="m", input_tokens=100, output_tokens=1, prefix_hashes=ids[:6]),
            Call(id="b", llm="m", input_tokens=130, output_tokens=1, prefix_hashes=ids, parents=("a",)),
        )
        return Run(id=name, workflow="w", calls=calls)

    trace = Trace(source=TraceSource(origin="test"), runs=(session("s", 10), session("t", 20)), prefix_block_tokens=16)
    arrivals = Arrivals(kind="deterministic", rate_per_s=5.0)
    asked = Workload(streams=(Stream(trace=trace, arrivals=arrivals),), runs=7, seed=1)
    plan, profiles = two_core_plan("m")
    simulated = sum(simulate(plan, asked, profiles=profiles).calls["cached_tokens"].to_pylist())
    engine = stub()
    await replay(engine.url, asked, {"m": 4096})
    prompts = engine.get("/stub/prompts")
    assert len(prompts) == 14
    assert cached_by(prompts) == simulated > 0


def test_private_prompts_of_two_runs_differ():
    assert token_ids(call("a"), 0, "one") != token_ids(call("a"), 0, "two")
    assert token_ids(call("a"), 0, "one") == token_ids(call("a"), 0, "one")


def test_prompts_of_two_replays_share_nothing():
    """A second replay on the same engine must not find the first one's prompts in its prefix cache."""
    shared = Call(id="a", llm="m", input_tokens=40, output_tokens=1, prefix_hashes=(1, 2))
    first, second = (token_ids(shared, 16, "run", once) for once in ("first", "second"))
    assert first[:16] != second[:16]
    assert first[32:] != second[32:]
    rerank = Call(id="r", llm="m", kind="rerank", input_tokens=200)
    texts = [
        request_of(rerank, block_tokens=0, salt="s", tokens_per_unit=4.0, context_limit=90, once=once)[1]["documents"]
        for once in ("first", "second")
    ]
    beginnings = [text[:40] for documents in texts for text in documents]
    assert len(set(beginnings)) == len(beginnings), "documents differ from each other too"


@pytest.mark.parametrize("tokens", [1, 3, 64, 1000])
def test_text_costs_what_was_asked(tokens):
    assert len(text_of(tokens, float(len(UNIT)))) == tokens  # one token per byte
    assert len(text_of(tokens, 1.0).split()) == tokens  # one token per unit
    assert {len(word) for word in WORDS} == {len(UNIT)}


def test_a_long_rerank_call_becomes_as_many_documents_as_needed():
    long = Call(id="r", llm="m", kind="rerank", input_tokens=1000)
    endpoint, body = request_of(long, block_tokens=0, salt="s", tokens_per_unit=4.0, context_limit=308)
    assert endpoint == "rerank"
    assert len(body["documents"]) == 4
    assert sum(len(body["query"]) + len(document) for document in body["documents"]) == 1000
    assert max(map(len, body["documents"])) < 308


def test_an_embedding_call_asks_for_its_tokens():
    _, body = request_of(
        Call(id="e", llm="m", kind="embed", input_tokens=500), block_tokens=0, salt="s", tokens_per_unit=1, context_limit=208
    )
    assert [len(part) for part in body["input"]] == [200, 200, 100]


# --- replay ----------------------------------------------------------------------------------------------------------


async def test_calls_wait_for_their_parents_and_their_gaps(stub):
    engine = stub(delay_s=0.1)
    calls = (call("a"), call("b", "a", gap_s=0.3), call("c", "a"), call("d", "b", "c"))
    records = await replay(engine.url, workload(*calls, tail_s=0.2), {"m": 2048})
    assert records.runs.schema.equals(RUN_SCHEMA)
    assert records.calls.schema.equals(CALL_SCHEMA)
    rows = {row["call"]: row for row in records.calls.to_pylist()}
    assert rows["b"]["issued_s"] >= rows["a"]["end_s"] + 0.3
    assert rows["a"]["end_s"] <= rows["c"]["issued_s"] < rows["b"]["issued_s"]
    assert rows["d"]["issued_s"] >= max(rows["b"]["end_s"], rows["c"]["end_s"])
    (run,) = records.runs.to_pylist()
    assert run["status"] == "completed"
    assert run["end_s"] == pytest.approx(rows["d"]["end_s"] + 0.2)
    assert all(row["first_token_s"] <= row["end_s"] for row in rows.values())
    assert {row["input_tokens"] for row in rows.values()} == {40}


async def test_the_gateway_says_which_instance_answered(stub, gateway):
    from executor.gateway.config import Endpoint

    served = gateway([Endpoint(name="m-7", llm="m", url=stub().url)], record=False)
    records = await replay(served.url, workload(call("a"), runs=3), {"m": 2048})
    assert records.calls.column("instance").to_pylist() == ["m-7"] * 3


async def test_each_replay_sends_prompts_of_its_own(stub):
    engine = stub()
    for _ in range(2):
        await replay(engine.url, workload(call("a")), {"m": 2048})
    first, second = engine.get("/stub/prompts")
    assert first != second


async def test_arrivals_are_those_of_the_simulator(stub):
    plan, profiles = two_core_plan("m")
    asked = workload(call("a"), runs=12, rate=20.0)
    measured = await replay(stub().url, asked, {"m": 2048})
    simulated = simulate(plan, asked, profiles=profiles)
    assert measured.runs.column("run").to_pylist() == sorted(
        simulated.runs.column("run").to_pylist(), key=measured.runs.column("run").to_pylist().index
    )
    times = dict(zip(simulated.runs.column("run").to_pylist(), simulated.runs.column("arrival_s").to_pylist(), strict=True))
    for run, at_s in zip(measured.runs.column("run").to_pylist(), measured.runs.column("arrival_s").to_pylist(), strict=True):
        assert at_s == pytest.approx(times[run], abs=1e-6)


async def test_runs_that_are_not_done_when_draining_ends_are_unfinished(stub):
    asked = workload(call("a"), runs=2, rate=0.5, drain_s=0.2)
    evenly = Stream(trace=asked.streams[0].trace, arrivals=Arrivals(kind="deterministic", rate_per_s=0.5))
    records = await replay(stub(delay_s=1).url, msgspec.structs.replace(asked, streams=(evenly,)), {"m": 2048})
    assert records.runs.column("status").to_pylist() == ["completed", "unfinished"]
    assert records.calls.column("end_s").to_pylist()[1] is None


async def test_a_run_ends_with_its_first_failed_call(stub, gateway):
    """The second LLM is not served: its call is told so, what follows is never sent."""
    from executor.gateway.config import Endpoint

    served = gateway([Endpoint(name="m-0", llm="m", url=stub().url)], record=False)
    calls = (call("a"), call("b", "a", llm="gone"), call("c", "b"))
    records = await replay(served.url, workload(*calls), {"m": 2048, "gone": 2048})
    assert records.calls.column("call").to_pylist() == ["a", "b"]
    assert records.runs.column("status").to_pylist() == ["unfinished"]
    assert "404" in records.meta["most_frequent_error"]


async def test_an_llm_that_is_not_served_is_named_before_anything_is_sent(stub):
    engine = stub()
    with pytest.raises(BackendError, match="LLM 'm' of the trace is not served"):
        await replay(engine.url, workload(call("a")), {"other": 2048})
    assert engine.get("/stub/seen") == []


async def test_nothing_completed_is_an_error_that_says_why():
    with pytest.raises(BackendError, match="none of 1 calls was completed: ClientConnectorError"):
        await replay("http://127.0.0.1:9", workload(call("a")), {"m": 2048})
