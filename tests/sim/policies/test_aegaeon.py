"""Aegaeon's timelines, added up by hand from its description, and its published quota formula."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scepsy.backend import Workload
from scepsy.errors import Infeasible, InputError
from sim.policies.engines.aegaeon import AegaeonPool, Group, PrefillEngine, simulate_aegaeon
from sim.policies.engines.aegaeon_rules import Dispatch, Settings, quotas_s, splits, switch_s
from sim.policies.engines.pool import PooledLlm
from tests.builders.by_hand import call, cluster, ends, profiles, replayed, run

# 16 GB of weights over 16 GB/s: a switch takes 1 s unless prefetched. KV is 1 kB per token: 100 tokens move in 6.25 us.
KV_S = 100 * 1000 / 16e9


def test_a_first_call_pays_the_switch_and_a_second_of_the_same_model_does_not() -> None:
    load = replayed(run("a", call("x", "m")), run("b", call("x", "m")))
    found = ends(simulate_aegaeon(load, profiles(["m"]), cluster(2), Settings(1, 1)))
    # One call per batch: 1 s switch, then 0.1 s each.
    assert found == {"0/x": 1.1, "1/x": 1.2}


def test_groups_are_served_in_order_and_the_next_model_is_prefetched() -> None:
    load = replayed(run("a", call("x", "m")), run("b", call("x", "k")), run("c", call("x", "m")))
    found = ends(simulate_aegaeon(load, profiles(["m", "k"]), cluster(2), Settings(1, 1)))
    # c joins a's group, so m is served twice before k. k was known all along: its prefetch began at m's switch end (1.0),
    # so 0.8 s of its switch are left at 1.2.
    assert found == {"0/x": 1.1, "2/x": 1.2, "1/x": 2.1}


def test_a_full_group_opens_another_engine() -> None:
    load = replayed(*(run(f"r{n}", call("x", "m")) for n in range(3)))
    found = ends(simulate_aegaeon(load, profiles(["m"]), cluster(3), Settings(2, 1, max_group=2)))
    assert found == {"0/x": 1.1, "1/x": 1.2, "2/x": 1.1}


def warm(*later: tuple[str, float], out: int = 1) -> Workload:
    """m and k once each at 0, so that engine 0 holds m and engine 1 k; then calls of (model, time)."""
    runs = [run("warm-m", call("x", "m")), run("warm-k", call("x", "k"))]
    return replayed(*runs, *(run(f"r{n}", call("x", llm, out=out), at_s=at) for n, (llm, at) in enumerate(later)))


def test_published_dispatch_ignores_resident_models_and_counted_sees_them() -> None:
    load, both = warm(("k", 5.0)), profiles(["m", "k"])
    # Idle engines have equal loads, so the published rule takes engine 0, which holds m: 1 s switch, 0.1 s prompt.
    assert ends(simulate_aegaeon(load, both, cluster(3), Settings(2, 1)))["2/x"] == 6.1
    assert ends(simulate_aegaeon(load, both, cluster(3), Settings(2, 1, dispatch="counted")))["2/x"] == 5.1


def test_counted_dispatch_weighs_a_queue_against_a_switch() -> None:
    load, both = warm(*[("m", 5.0)] * 12), profiles(["m", "k"])
    counted = ends(simulate_aegaeon(load, both, cluster(3), Settings(2, 1, dispatch="counted")))
    # Eleven queue at engine 0: the eleventh would wait 1.0 s there, as long as a switch of engine 1. The twelfth makes it.
    assert sorted(counted.values())[2:] == [round(5 + n / 10, 9) for n in range(1, 12)] + [6.1]
    published = ends(simulate_aegaeon(load, both, cluster(3), Settings(2, 1)))
    # Eight make a full group at engine 0. The ninth goes to the engine without work, whatever it holds; three join it.
    assert sorted(published.values())[2:] == [round(5 + n / 10, 9) for n in range(1, 9)] + [6.1, 6.2, 6.3, 6.4]


def test_published_dispatch_counts_the_switches_that_wait_at_an_engine() -> None:
    load = warm(("m", 5.0), ("j", 5.0), *[("m", 5.0)] * 3, ("i", 5.0))
    found = ends(simulate_aegaeon(load, profiles(["m", "k", "j", "i"]), cluster(3), Settings(2, 1)))
    # Engine 0 holds m and has 0.4 s of it. Engine 1 has to load j, 1.1 s. So i waits at engine 0, where its weights come
    # while m is served; behind j it would end at 7.1.
    assert found["3/x"] == 6.1
    assert found["7/x"] == 6.1


def test_counted_dispatch_keeps_to_the_size_of_a_group() -> None:
    load = replayed(*(run(f"r{n}", call("x", llm)) for n, llm in enumerate("mkmm")))
    found = ends(simulate_aegaeon(load, profiles(["m", "k"]), cluster(2), Settings(1, 1, max_group=2, dispatch="counted")))
    # The second m joins the first. The third finds the group full and comes after k, with a switch of its own.
    assert found == {"0/x": 1.1, "2/x": 1.2, "1/x": 2.1, "3/x": 3.1}


def test_counted_decode_prefers_the_engine_that_holds_the_model() -> None:
    load, both = warm(("k", 0.0), ("m", 9.0), ("k", 9.5), out=11), profiles(["m", "k"], decode_s=0.01)
    settings = Settings(2, 2, dispatch="counted")
    found = {
        row["call"] + row["run"][-1]: row["instance"]
        for row in simulate_aegaeon(load, both, cluster(4), settings).calls.to_pylist()
    }
    assert found["x2"] == "decode-0"  # k came first, so engine 0 holds it
    assert found["x3"] == "decode-1"  # m: both idle, neither holds it; engine 0 holds another
    assert found["x4"] == "decode-0"


@pytest.mark.parametrize(("dispatch", "where"), [("published", [4, 0]), ("balanced", [2, 2]), ("counted", [2, 2])])
def test_published_decode_fills_one_engine_and_the_others_spread(dispatch: Dispatch, where: list[int]) -> None:
    load = replayed(*(run(f"r{n}", call("x", "m", out=500), at_s=n) for n in range(4)))
    records = simulate_aegaeon(load, profiles(["m"], decode_s=0.01), cluster(4), Settings(2, 2, dispatch=dispatch))
    instances = records.calls["instance"].to_pylist()
    assert [instances.count(f"decode-{n}") for n in range(2)] == where


@pytest.mark.parametrize("dispatch", ["published", "balanced", "counted"])
@settings(max_examples=25, deadline=None)
@given(loads=st.lists(st.tuples(st.sampled_from("mkj"), st.floats(0, 3), st.integers(1, 30)), min_size=1, max_size=15))
def test_every_call_ends_and_engines_do_no_more_than_they_can(dispatch: Dispatch, loads: list[tuple[str, float, int]]) -> None:
    runs = [
        run(f"r{n}", call("x", llm, out=out), at_s=at) for n, (llm, at, out) in enumerate(sorted(loads, key=lambda x: x[1]))
    ]
    settings = Settings(2, 1, dispatch=dispatch)
    found = ends(simulate_aegaeon(replayed(*runs), profiles(["m", "k", "j"], decode_s=0.01), cluster(3), settings))
    assert len(found) == len(loads)
    # Two prefill engines at 0.1 s a prompt, the first of each after a switch of 1 s.
    assert max(found.values()) >= 1.0 + 0.1 * len(loads) / 2 - 1e-9


def test_decode_joins_a_running_batch_at_the_next_step() -> None:
    load = replayed(run("a", call("x", "m", out=11)), run("b", call("x", "m", out=6)))
    found = ends(simulate_aegaeon(load, profiles(["m"]), cluster(2), Settings(1, 1)))
    # Prefills end at 1.1 and 1.2; a's KV reaches the decode engine 6.25 us later and comes in with a 1 s switch.
    begin = 1.1 + KV_S + 1.0 + KV_S
    # b waits in the same batch by then (dispatched at 1.2): both start, 0.2 s a step for two, 0.1 s for one.
    # b needs 5 steps, a 10: five together, five alone. b's KV came with the batch only if it was there when the switch began.
    both_end = begin + 5 * 0.2
    assert found["1/x"] == pytest.approx(both_end, abs=2e-5)
    assert found["0/x"] == pytest.approx(both_end + 5 * 0.1, abs=2e-5)


def test_two_models_take_turns_on_one_decode_engine() -> None:
    long = 200
    load = replayed(run("a", call("x", "m", out=long)), run("b", call("x", "k", out=long)))
    settings = Settings(2, 1)
    records = simulate_aegaeon(load, profiles(["m", "k"], decode_s=0.025), cluster(3), settings)
    found = ends(records)
    # n = 4 for both, c = 2: alpha = max(2/16 + 1/2, 0.5) = 0.625, quota = 2 / (4 · 0.125) = 4 s: each makes 160 of 199 steps
    # (4 s), then waits a switch of 1 s less prefetch (10 ms) and the other's turn.
    assert quotas_s([0.025, 0.025], 2.0, settings) == pytest.approx([4.0, 4.0])
    first, second = sorted(found.values())
    alone = 199 * 0.025
    assert first > 1.1 + 1.0 + alone + 3.9  # it sat out the other's quota
    # All steps are made one at a time: the engine decodes 398 steps in all, so the last ends after that and the switches.
    assert second == pytest.approx(1.1 + 1.0 + 398 * 0.025 + 3 * 0.01, abs=0.05)


def test_a_lone_model_is_never_interrupted() -> None:
    load = replayed(run("a", call("x", "m", out=1001)))
    found = ends(simulate_aegaeon(load, profiles(["m"], decode_s=0.01), cluster(2), Settings(1, 1)))
    assert found["0/x"] == pytest.approx(1.1 + KV_S + 1.0 + KV_S + 1000 * 0.01, abs=1e-6)


@given(st.lists(st.floats(0.005, 0.09), min_size=2, max_size=6), st.floats(0.01, 10.0))
def test_quotas_give_every_batch_the_same_pace(steps: list[float], switches: float) -> None:
    settings = Settings(1, 1)
    quotas = quotas_s(steps, switches, settings)
    whole = switches + sum(quotas)
    paces = [quota / step / whole * settings.tbt_target_s for quota, step in zip(quotas, steps, strict=True)]
    # Over a round every batch makes the same number of tokens per second: its target pace divided by alpha.
    assert max(paces) == pytest.approx(min(paces))
    assert max(quotas) <= settings.max_quota_s * (1 + 1e-9) or paces[0] == pytest.approx(1 / settings.least_alpha)


def test_a_switch_is_at_least_ten_milliseconds() -> None:
    assert switch_s(16e9, 100.0, Settings(1, 1)) == 0.01


def test_splits_use_all_gpus() -> None:
    assert all(sum(split) == 16 for split in splits(16))
    with pytest.raises(InputError, match="3:2: must add up to 4 GPUs"):
        simulate_aegaeon(replayed(run("a", call("x", "m"))), profiles(["m"]), cluster(4), Settings(3, 2))


def test_models_too_large_to_prefetch_are_infeasible() -> None:
    with pytest.raises(Infeasible, match="120 GB"):
        simulate_aegaeon(replayed(run("a", call("x", "m"))), profiles(["m"], weight_gb=60), cluster(2), Settings(1, 1))


def test_pooling_serves_many_idle_models_on_few_gpus() -> None:
    """Aegaeon's own result: models far more numerous than GPUs, each rarely called, are all served."""
    names = [f"m{n}" for n in range(12)]
    load = replayed(*(run(f"r{n}", call("x", name, out=21), at_s=4.0 * n) for n, name in enumerate(names)))
    records = simulate_aegaeon(load, profiles(names, decode_s=0.02), cluster(2), Settings(1, 1))
    rows = records.runs.to_pylist()
    assert len(rows) == 12
    assert max(row["end_s"] - row["arrival_s"] for row in rows) < 4.0


def test_an_engine_does_no_more_prompt_work_than_its_gpu() -> None:
    load = replayed(*(run(f"{llm}{n}", call("x", llm)) for n in range(40) for llm in ("m", "k")))
    found = ends(simulate_aegaeon(load, profiles(["m", "k"]), cluster(2), Settings(1, 1)))
    assert max(found.values()) >= 80 * 0.1 - 1e-9


def added_up(engine: PrefillEngine) -> int:
    """What waits at an engine, group by group."""
    total, model = int(engine._busy), engine.device.model
    for group in engine.groups:
        total += engine._switch_ticks(model, group.served) + group.prompt_ticks
        model = group.served.name
    return total


def looked_through(pool: AegaeonPool, served: PooledLlm) -> tuple[PrefillEngine, Group | None]:
    """The published dispatch, by looking at every group of every engine."""
    for engine in pool.prefill:
        for group in engine.groups:
            if group.served is served and group.taken < pool.settings.max_group:
                return engine, group
    return min(pool.prefill, key=lambda engine: (added_up(engine), engine.number)), None


@settings(max_examples=60, deadline=None)
@given(
    dispatch=st.sampled_from(["published", "balanced"]),
    loads=st.lists(st.tuples(st.sampled_from(["m", "k", "n"]), st.floats(0, 6), st.integers(1, 4)), min_size=8, max_size=60),
    size=st.integers(1, 4),
)
def test_the_dispatch_that_remembers_chooses_as_one_that_looks_through_everything(
    dispatch: Dispatch, loads: list[tuple[str, float, int]], size: int
) -> None:
    chosen = AegaeonPool._published
    checked = 0

    def compared(pool: AegaeonPool, served: PooledLlm) -> tuple[PrefillEngine, Group | None]:
        nonlocal checked
        checked += 1
        assert [engine.load_ticks() for engine in pool.prefill] == [added_up(engine) for engine in pool.prefill]
        assert chosen(pool, served) == looked_through(pool, served)
        return chosen(pool, served)

    load = replayed(*(run(f"r{n}", call("x", llm, out=out), at_s=at) for n, (llm, at, out) in enumerate(loads)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(AegaeonPool, "_published", compared)
        simulate_aegaeon(load, profiles(["m", "k", "n"]), cluster(4), Settings(3, 1, max_group=size, dispatch=dispatch))
    assert checked == len(loads)
