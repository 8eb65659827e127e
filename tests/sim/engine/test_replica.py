"""Whole timelines of one instance, computed by hand: base 10 ms, 1 ms per prompt token and per decoding sequence."""

import pytest

from scepsy.errors import InputError, SimulationError
from scepsy.profile.model import EngineLimits
from scepsy.profile.step import StepModel
from scepsy.workload import Arrivals
from sim.world.run import simulate
from tests.builders.simulated import NO_SHARE_COST, call, load, plan, profile, profile_set, run, trace

pytestmark = pytest.mark.usefixtures("on_both_engines")

STEP = StepModel(base_s=0.010, prefill_s_per_token=0.001, decode_s_per_sequence=0.001)


def table(
    runs, *, engine=None, step=STEP, share=100, replicas=1, law=NO_SHARE_COST, prefix_block_tokens=0, fields=None, **options
):
    """Replay runs at their own arrivals; one row per call by name (ms, rounded)."""
    one = profile(step=step, engine=engine or EngineLimits(), **(fields or {}))
    records = simulate(
        plan((one, share, replicas)),
        load(trace(*runs, prefix_block_tokens=prefix_block_tokens)),
        profiles=profile_set(one, law=law),
        **options,
    )
    rows = records.calls.to_pylist()

    def ms(value):
        return None if value is None else round(value * 1000, 6)

    return {
        (row["run"], row["call"]): (ms(row["issued_s"]), ms(row["scheduled_s"]), ms(row["first_token_s"]), ms(row["end_s"]))
        for row in rows
    }, records


def test_one_call_prefills_then_decodes():
    # prefill 5 tokens: 10 + 5 = 15; then 2 decode iterations of 11 each
    rows, _ = table([run([call(5, 3)], arrival_s=0.0)])
    assert rows == {("w-0", "c"): (0, 0, 15, 37)}


def test_a_call_arriving_in_a_span_joins_at_the_next_border():
    # first: prefill ends at 15, decodes at 26, 37, 48, …; the second arrives at 30, joins at 37: 10 + 1 (decode) + 4
    # (prompt) = 15 → 52
    rows, _ = table([run([call(5, 10)], "a", arrival_s=0.0), run([call(4, 2)], "b", arrival_s=0.030)])
    # tokens of the first: 15, 26, 37, 52, then both decode once (12) at 64, then 11 each
    assert rows[("w-1", "c")] == (30, 37, 52, 64)
    assert rows[("w-0", "c")] == (0, 0, 15, 64 + 5 * 11)


def test_arrival_exactly_at_a_border_is_seen_by_the_iteration_that_starts_there():
    rows, _ = table([run([call(5, 10)], "a", arrival_s=0.0), run([call(4, 2)], "b", arrival_s=0.026)])
    assert rows[("w-1", "c")][:3] == (26, 26, 41)


def test_with_asynchronous_scheduling_an_arrival_waits_for_the_iteration_that_is_scheduled_already():
    engine = EngineLimits(async_scheduling=True)
    rows, _ = table([run([call(5, 10)], "a", arrival_s=0.0), run([call(4, 2)], "b", arrival_s=0.030)], engine=engine)
    # b is looked at when the iteration under way ends, at 37; the one until 48 is scheduled already; 10 + 1 + 4 → 63, 12 → 75
    assert rows[("w-1", "c")] == (30, 37, 63, 75)
    # tokens of a: 15, 26, 37, 48, 63, 75, then four alone
    assert rows[("w-0", "c")] == (0, 0, 15, 75 + 4 * 11)


def test_with_asynchronous_scheduling_a_place_is_free_when_the_last_token_is_out():
    engine = EngineLimits(max_num_seqs=2, async_scheduling=True)
    calls = [run([call(5, n)], name, arrival_s=0.0) for name, n in (("a", 2), ("b", 4), ("c", 2))]
    rows, _ = table(calls, engine=engine)
    # a and b: prefill 20, both decode 12 → 32: the end of a, and c is looked at. Until 43 b decodes alone, as scheduled at 20;
    # c's prompt beside b's last token: 10 + 1 + 5 → 59; 11 → 70
    assert rows[("w-0", "c")] == (0, 0, 20, 32)
    assert rows[("w-2", "c")] == (0, 32, 59, 70)
    assert rows[("w-1", "c")] == (0, 0, 20, 59)


def test_long_prompts_are_cut_to_the_batch_tokens_and_decodes_come_first():
    # budget 4: chunks 4 and 2 of the second prompt; the decoding sequence takes one token of the budget: 3, 3
    engine = EngineLimits(max_num_seqs=4, max_num_batched_tokens=4)
    rows, _ = table([run([call(3, 9)], "a", arrival_s=0.0), run([call(6, 1)], "b", arrival_s=0.013)], engine=engine)
    # a: prefill 13. b at 13: iteration 10 + 1 + 3 = 14 → 27, again 14 → 41: first token and end of b
    assert rows[("w-1", "c")] == (13, 13, 41, 41)
    assert rows[("w-0", "c")] == (0, 0, 13, 41 + 6 * 11)


def test_no_more_sequences_than_allowed():
    engine = EngineLimits(max_num_seqs=1)
    rows, _ = table([run([call(5, 2)], "a", arrival_s=0.0), run([call(5, 2)], "b", arrival_s=0.0)], engine=engine)
    assert rows == {("w-0", "c"): (0, 0, 15, 26), ("w-1", "c"): (0, 26, 41, 52)}


def test_out_of_blocks_the_most_recent_is_preempted_and_recomputed_from_what_is_still_cached():
    # 3 blocks of 4 tokens. Both prompts take one block. After the prefill at 18 each needs a 2nd block: a gets it, b is
    # preempted.
    engine = EngineLimits(max_num_seqs=4, max_num_batched_tokens=64, block_tokens=4, activation_bytes=0, memory_utilization=1.0)
    one = {"kv_bytes_per_token": 1000, "weight_bytes": 80 * 10**9 - 3 * 4 * 1000}
    rows, records = table(
        [run([call(4, 4)], "a", arrival_s=0.0), run([call(4, 3)], "b", arrival_s=0.0)], engine=engine, fields=one
    )
    # a alone: 11 each → 29, 40, 51 (end). b: at 29 and 40 it does not fit (5 tokens need 2 blocks, 1 is free). At 51 it
    # needs 2 blocks, its first is still cached (the free block a never took): 1 token to compute: 10 + 1 → 62 is its second
    # token; one decode: 73.
    assert rows[("w-0", "c")] == (0, 0, 18, 51)
    assert rows[("w-1", "c")] == (0, 0, 18, 73)
    assert records.calls["preemptions"].to_pylist() == [0, 1]


def test_pooling_calls_end_with_their_prompt():
    rows, records = table([run([call(20, 0, kind="rerank")], arrival_s=0.0)])
    assert rows == {("w-0", "c"): (0, 0, 30, 30)}
    assert records.calls["output_tokens"].to_pylist() == [0]


def test_prefix_cache_skips_what_another_call_computed_but_never_the_last_token():
    hashes = tuple(range(100, 102))  # 2 ids of 32 tokens: 4 blocks
    first, again = (
        run([call(64, 1, prefix_hashes=hashes)], "a", arrival_s=0.0),
        run([call(64, 1, prefix_hashes=hashes)], "b", arrival_s=1.0),
    )
    other = run([call(70, 1, prefix_hashes=(100,))], "c", arrival_s=2.0)
    rows, records = table([first, again, other], prefix_block_tokens=32)
    assert records.calls["cached_tokens"].to_pylist() == [0, 48, 32]
    assert [row[3] - row[0] for row in rows.values()] == [74, 26, 48]


def test_a_replayed_run_shares_only_what_several_sessions_share():
    shared, private = (1,), (2, 3)
    runs = [run([call(96, 1, prefix_hashes=shared + private)], "a"), run([call(96, 1, prefix_hashes=(1, 8, 9))], "b")]
    one = profile(step=STEP)
    records = simulate(plan((one, 100, 1)), load(trace(*runs, prefix_block_tokens=32), 1.0, runs=40), profiles=profile_set(one))
    assert set(records.calls["cached_tokens"].to_pylist()) == {0, 32}


def test_queue_limit_rejects_and_the_run_ends():
    engine = EngineLimits(max_num_seqs=1, max_num_queued=1)
    runs = [run([call(5, 5)], f"r{n}", arrival_s=0.001 * n) for n in range(4)]
    _, records = table(runs, engine=engine)
    assert records.calls["status"].to_pylist() == ["rejected", "rejected", "completed", "completed"]
    assert sorted(records.runs["status"].to_pylist()) == ["completed", "completed", "rejected", "rejected"]


def test_a_run_walks_its_graph():
    # a (15 + 11) → gap 5 → b and c together; d after both
    graph = [
        call(5, 2, id="a"),
        call(5, 1, id="b", parents=("a",), gap_s=0.005),
        call(8, 1, id="c", parents=("a",), gap_s=0.005),
        call(1, 1, id="d", parents=("b", "c")),
    ]
    rows, records = table([run(graph, arrival_s=0.0, tail_s=0.5)])
    assert rows[("w-0", "a")] == (0, 0, 15, 26)
    assert rows[("w-0", "b")] == (31, 31, 54, 54)
    assert rows[("w-0", "c")] == (31, 31, 54, 54)
    assert rows[("w-0", "d")] == (54, 54, 65, 65)
    assert records.runs["end_s"].to_pylist() == [pytest.approx(0.565)]


def test_neighbours_slow_each_other_only_while_both_decode():
    # two LLMs at 50 % of one GPU, demands .3 each: slowdown 1 + .5 · .3
    step = StepModel(base_s=0.010, prefill_s_per_token=0.001)
    demand = 0.3
    weight = int(demand * 0.010 * 3.35e12)
    a, b = profile("a", step=step, weight_bytes=weight), profile("b", step=step, weight_bytes=weight)
    runs = [run([call(5, 5, llm="a")], "a", arrival_s=0.0), run([call(5, 2, llm="b")], "b", arrival_s=0.020)]
    records = simulate(
        plan((a, 50, 1), (b, 50, 1), gpus=1),
        load(trace(*runs)),
        profiles=profile_set(a, b, law=NO_SHARE_COST, interference=0.5),
    )
    ends = {row["llm"]: row["end_s"] for row in records.calls.to_pylist()}
    # a: 15, 25, 35 alone; b prefills 20–35, decodes from 35. At 35 both start: each sees what decoded just before 35: a
    # sees nobody (10 → 45), b sees a (11.5 → 46.5, its end). At 45 a sees b: 11.5 → 56.5, its end.
    assert ends["b"] == pytest.approx(0.0465)
    assert ends["a"] == pytest.approx(0.0565)


def test_a_call_that_never_fits_raises_with_the_numbers():
    engine = EngineLimits(activation_bytes=0, memory_utilization=1.0)
    small = {"kv_bytes_per_token": 1000, "weight_bytes": 80 * 10**9 - 160 * 1000}
    with pytest.raises(SimulationError, match=r"200 input and 10 output tokens never fits instance m-0.*209 tokens.*holds 160"):
        table([run([call(200, 10)], arrival_s=0.0)], engine=engine, fields=small)
    with pytest.raises(SimulationError, match=r"context of 32768 tokens"):
        table([run([call(32_760, 10)], arrival_s=0.0)])


def test_an_llm_without_instances_raises():
    one = profile()
    with pytest.raises(SimulationError, match=r"calls other, of which the plan has 0 instances"):
        simulate(plan((one, 100, 1)), load(trace(run([call(5, llm="other")], arrival_s=0.0))), profiles=profile_set(one))


def test_time_cannot_go_backwards(monkeypatch):
    one = profile()
    monkeypatch.setattr("sim.world.run.issue", lambda workload: iter([(1.0, "a", run([call(5)])), (0.5, "b", run([call(5)]))]))
    with pytest.raises(SimulationError, match=r"time goes backwards: run b arrives at 0.5 s, after 1.0 s"):
        simulate(
            plan((one, 100, 1)), load(trace(run([call(5)], arrival_s=0.0)), runs=2), profiles=profile_set(one), engine="simpy"
        )


def test_a_stall_raises_instead_of_ending_quietly(monkeypatch):
    one = profile()
    monkeypatch.setattr("sim.engine.replica.Replica._wake", lambda self: None)
    with pytest.raises(SimulationError, match=r"stalled at 0.000000 s with 1 of 1 runs open and 1 calls in flight"):
        simulate(plan((one, 100, 1)), load(trace(run([call(5)], arrival_s=0.0))), profiles=profile_set(one), engine="simpy")


def test_names_that_do_not_exist_are_refused():
    one = profile()
    what = load(trace(run([call(5)], arrival_s=0.0)))
    with pytest.raises(InputError, match=r"router is 'best': must be one of affinity"):
        simulate(plan((one, 100, 1)), what, profiles=profile_set(one), router="best")
    with pytest.raises(InputError, match=r"queue_order is 'lifo'"):
        simulate(plan((one, 100, 1)), what, profiles=profile_set(one), queue_order="lifo")
    with pytest.raises(InputError, match=r"no profile of LLM 'm'"):
        simulate(plan((one, 100, 1)), what, profiles=profile_set(profile("q")))
    small = profile(engine=EngineLimits(max_num_batched_tokens=8))
    with pytest.raises(InputError, match=r"max_num_batched_tokens is 8: must be >= max_num_seqs \(256\)"):
        simulate(plan((small, 100, 1)), what, profiles=profile_set(small))


def test_drain_leaves_the_rest_unfinished_and_nothing_is_lost():
    one = profile(step=STEP, engine=EngineLimits(max_num_seqs=1))
    runs = [run([call(5, 50)], f"r{n}", arrival_s=0.0) for n in range(5)]
    what = load(trace(*runs), drain_s=1.0)
    records = simulate(plan((one, 100, 1)), what, profiles=profile_set(one))
    # 15 + 49 · 11 = 554 ms each: one is done at 1 s
    assert records.runs["status"].to_pylist() == ["completed"] + ["unfinished"] * 4
    assert records.calls["status"].to_pylist() == ["completed"] + ["unfinished"] * 4
    assert [row["end_s"] is None for row in records.calls.to_pylist()] == [False] + [True] * 4


def test_closed_loop_users_wait_for_their_answer():
    one = profile(step=STEP)
    what = load(trace(run([call(5, 2)])), kind="closed", runs=10, arrivals={"users": 2, "think_s": 0.0})
    records = simulate(plan((one, 100, 1)), what, profiles=profile_set(one, law=NO_SHARE_COST))
    # both users' calls are served together: prefill of 10 tokens 20, one decode of two sequences 12
    ends = sorted(records.runs["end_s"].to_pylist())
    assert ends == [pytest.approx(0.032 * (1 + n // 2)) for n in range(10)]
    assert Arrivals(kind="closed", users=2).users == 2
