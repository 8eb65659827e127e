"""Curves: capacity and latency against what can be worked out by hand, and the same from cache and other processes."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from scepsy.backend import Stream
from scepsy.cluster import GpuType
from scepsy.errors import InputError
from scepsy.llm import Llm
from scepsy.profile.curve import Curve
from scepsy.profile.model import EngineLimits, Profile, ProfileSet
from scepsy.profile.share import ColdStartLaw, ContentionLaw, ShareLaw
from scepsy.profile.step import StepModel
from scepsy.workload import Arrivals, Call, Run, Trace, TraceSource
from sim.profiling.bench import Bench, LlmLoad, fit_latency, shared_part
from sim.profiling.curves import profile_curves

GIB = 1024**3
GPU = GpuType(name="G", memory_bytes=40 * GIB, bandwidth_bytes_per_s=2e12, flops_per_s=3e14)


def profiles(*, degrees: tuple[int, ...] = (1, 2), seqs: int = 1) -> ProfileSet:
    """One call at a time at 1 ms per prompt token: an M/D/1 queue when all prompts are alike."""
    llm = Llm(name="m", parameters=2e9, weight_bytes=4 * GIB, kv_bytes_per_token=65536, context_limit=8192)
    engine = EngineLimits(max_num_seqs=seqs, max_num_batched_tokens=100, activation_bytes=GIB, prefix_caching=False)
    made = tuple(
        Profile(
            llm=llm,
            gpu=GPU,
            tensor_parallel=degree,
            step=StepModel(base_s=0.0, prefill_s_per_token=1e-3 / degree),
            engine=engine,
            source="test",
        )
        for degree in degrees
    )
    # No cost of a small share, so that shares differ in memory only.
    law = ShareLaw(prefill_k=0.0, prefill_small_k=0.0, decode_k=0.0, decode_large_k=0.0)
    return ProfileSet(
        profiles=made,
        share_law=law,
        contention=ContentionLaw(interference=0.5),
        cold_start=ColdStartLaw(base_s=1.0, s_per_billion=1.0),
    )


def stream(*calls: Call, runs: int = 3) -> Stream:
    made = tuple(Run(id=f"r{n}", workflow="w", calls=calls) for n in range(runs))
    return Stream(trace=Trace(source=TraceSource(origin="test"), runs=made), arrivals=Arrivals(rate_per_s=1.0))


def one(name: str = "c", *parents: str, tokens: int = 100, gap_s: float = 0.0) -> Call:
    return Call(id=name, llm="m", input_tokens=tokens, output_tokens=1, parents=parents, gap_s=gap_s)


def pick(curves: list[Curve], degree: int = 1, share: int = 100, replicas: int = 1) -> Curve:
    (found,) = [c for c in curves if (c.tensor_parallel, c.share_pct, c.replicas) == (degree, share, replicas)]
    return found


@pytest.fixture(scope="module")
def single() -> list[Curve]:
    return profile_curves([stream(one())], profiles(), ["G"], shares=(50, 100))


def test_capacity_and_unloaded_latency_are_the_service_time(single: list[Curve]) -> None:
    for degree in (1, 2):
        found = pick(single, degree)
        assert found.capacity_per_s == pytest.approx(10.0 * degree, rel=0.03)
        assert found.busy_s[0] == pytest.approx(0.1 / degree, rel=1e-6)
        assert found.parallelism[0] == pytest.approx(1.0)


def test_latency_under_load_is_that_of_a_single_server_queue_with_fixed_service(single: list[Curve]) -> None:
    found = pick(single)
    for load, mean in zip(found.utilisation, found.mean_s, strict=True):
        if 0.1 < load <= 0.8:  # Pollaczek-Khinchine, coefficient of variation 0
            assert mean == pytest.approx(0.1 * (1 + load / (2 * (1 - load))), rel=0.2)


def test_more_replicas_at_the_same_load_wait_less(single: list[Curve]) -> None:
    at = single[0].utilisation.index(0.8)
    waits = [pick(single, replicas=r).mean_s[at] - 0.1 for r in (1, 4, 16)]
    assert waits[0] > waits[1] > waits[2] >= 0


def test_columns_never_fall_with_load_and_regressions_give_the_mean(single: list[Curve]) -> None:
    for found in single:
        for name in ("mean_s", "p50_s", "p95_s", "p99_s", "busy_s"):
            assert list(getattr(found, name)) == sorted(getattr(found, name))
        rebuilt = (
            np.array(found.call_base_s) + 100 * np.array(found.call_s_per_input_token) + np.array(found.call_s_per_output_token)
        )
        np.testing.assert_allclose(rebuilt, found.mean_s, rtol=1e-6)


def test_siblings_queue_behind_each_other_on_one_instance_and_spread_over_several() -> None:
    fan = [one(f"c{n}") for n in range(4)]
    curves = profile_curves([stream(*fan)], profiles(degrees=(1,)), ["G"], shares=(100,))
    alone, four = pick(curves), pick(curves, replicas=4)
    assert alone.busy_s[0] == pytest.approx(0.4, rel=0.01)
    assert four.busy_s[0] == pytest.approx(0.1, rel=0.01)
    assert alone.mean_s[0] == pytest.approx(0.25, rel=0.01)
    assert alone.capacity_per_s == pytest.approx(10.0, rel=0.03)


def test_busy_seconds_leave_out_the_gaps_between_calls() -> None:
    curves = profile_curves([stream(one("a"), one("b", "a", gap_s=5.0))], profiles(degrees=(1,)), ["G"], shares=(100,))
    assert pick(curves).busy_s[0] == pytest.approx(0.2, rel=0.01)


def test_runs_that_never_call_the_llm_count_in_the_mean() -> None:
    calling = Run(id="a", workflow="w", calls=(one(),))
    other = Run(id="b", workflow="w", calls=(Call(id="c", llm="x", input_tokens=10, output_tokens=1),))
    trace = Trace(source=TraceSource(origin="test"), runs=(calling, other))
    load = LlmLoad("m", [Stream(trace=trace, arrivals=Arrivals(rate_per_s=1.0))], 16, 0)
    assert load.calling == [0.5]
    assert load.mix.tolist() == pytest.approx([1.0])


def test_the_offered_work_is_exactly_what_was_asked_for() -> None:
    sizes = [one(tokens=tokens) for tokens in (10, 90)]
    runs = tuple(Run(id=f"r{n}", workflow="w", calls=(call,)) for n, call in enumerate(sizes))
    trace = Trace(source=TraceSource(origin="test"), runs=runs)
    load = LlmLoad("m", [Stream(trace=trace, arrivals=Arrivals(rate_per_s=1.0))], 16, 0)
    bench = Bench(load, profiles().of("m", "G", 1), 100, profiles())
    workload = load.offering(6.0, 60, lambda inputs, outputs: float(inputs.sum()))
    calls, _ = bench.replay(workload, 1)
    offered = calls.input_tokens.sum() / calls.issued_s.max()
    assert offered == pytest.approx(6.0 * 50.0, rel=1e-6)


def test_the_regression_recovers_a_linear_law_and_shared_luck_is_told_from_private() -> None:
    rng = np.random.default_rng(0)
    runs = [
        Run(id=f"r{n}", workflow="w", calls=tuple(one(f"c{k}", tokens=int(rng.integers(1, 100))) for k in range(1)))
        for n in range(20)
    ]
    trace = Trace(source=TraceSource(origin="test"), runs=tuple(runs))
    load = LlmLoad("m", [Stream(trace=trace, arrivals=Arrivals(rate_per_s=1.0))], 16, 0)
    calls, _ = Bench(load, profiles().of("m", "G", 1), 100, profiles()).replay(load.closed(1, 60), 1)
    fit = fit_latency(calls)
    assert fit.s_per_input_token == pytest.approx(1e-3, rel=1e-6)
    assert fit.group_factor == pytest.approx(1.0)
    run = np.repeat(np.arange(200), 5)
    common = np.repeat(rng.normal(size=200), 5)
    assert shared_part(common, run) == pytest.approx(1.0)
    assert shared_part(rng.normal(size=1000), run) == pytest.approx(0.0, abs=0.08)
    assert shared_part(common + rng.normal(size=1000), run) == pytest.approx(0.5, abs=0.1)


def test_curves_are_the_same_again_from_the_cache_and_from_two_processes(tmp_path: Path, single: list[Curve]) -> None:
    seen: list[tuple[int, int | None]] = []
    again = profile_curves(
        [stream(one())],
        profiles(),
        ["G"],
        shares=(50, 100),
        cache_dir=tmp_path / "cache",
        jobs=2,
        progress=lambda amount=1, *, total=None, what=None: seen.append((amount, total)),
    )
    assert again == single
    assert seen == [(0, 1), (1, None)]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert profile_curves([stream(one())], profiles(), ["G"], shares=(50, 100), cache_dir=tmp_path / "cache") == single
    profile_curves([stream(one())], profiles(degrees=(1,)), ["G"], shares=(100,), cache_dir=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_an_llm_without_profile_or_room_is_named() -> None:
    with pytest.raises(InputError, match="LLM m: no profile on H"):
        profile_curves([stream(one())], profiles(), ["H"])
    tiny = profiles(degrees=(1,))
    llm = msgspec.structs.replace(tiny.profiles[0].llm, weight_bytes=60 * GIB)
    big = msgspec.structs.replace(tiny, profiles=(msgspec.structs.replace(tiny.profiles[0], llm=llm),))
    with pytest.raises(InputError, match="LLM m: its longest call fits no instance"):
        profile_curves([stream(one())], big, ["G"])
    with pytest.raises(InputError, match="replica_counts holds 0"):
        profile_curves([stream(one())], profiles(), ["G"], replica_counts=(0,))


def test_an_embedder_whose_time_is_all_per_step_has_a_capacity() -> None:
    known = profiles(degrees=(1,), seqs=4)
    step = StepModel(base_s=0.1, prefill_s_per_token=0.0)
    made = msgspec.structs.replace(known, profiles=(msgspec.structs.replace(known.profiles[0], step=step),))
    pooled = msgspec.structs.replace(one(), kind="rerank", output_tokens=0)
    (curve,) = profile_curves([stream(pooled)], made, ["G"], shares=(100,), replica_counts=(1,))
    # Steps of 0.1 s with 100 prompt tokens each, which is one call.
    assert curve.capacity_per_s == pytest.approx(10.0, rel=0.03)
    assert curve.mean_s[0] == pytest.approx(0.1, rel=1e-6)


def test_waiting_of_many_instances_is_not_cut_short() -> None:
    """Runs of many calls with gaps: their number in flight wanders, and with it the load; a short replay misses it."""
    calls = [one("c0", gap_s=5.0)]
    calls += [one(f"c{n}", f"c{n - 1}", gap_s=5.0) for n in range(1, 8)]
    load = LlmLoad("m", [stream(*calls, runs=20)], 16, seed=3)
    known = profiles(degrees=(1,))
    bench = Bench(load, known.of("m", "G", 1), 100, known)
    curves = profile_curves([stream(*calls, runs=20)], known, ["G"], shares=(100,), degrees=(1,), replica_counts=(1, 4))
    curve = pick(curves, replicas=4)
    workload = load.open(0.9 * 4 * curve.capacity_per_s, 4000)
    replayed, _ = bench.replay(workload, 4)
    measured = float(replayed.where(replayed.run > 400).latency_s.mean())
    assert curve.mean_s[curve.utilisation.index(0.9)] == pytest.approx(measured, rel=0.25)


def test_curves_serve_every_target_rate_and_do_not_mind_workflows_that_never_call(tmp_path: Path) -> None:
    def at(rate: float, name: str = "w", llm: str = "m") -> Stream:
        calls = (msgspec.structs.replace(one(), llm=llm),)
        runs = tuple(Run(id=f"r{n}", workflow=name, calls=calls) for n in range(3))
        trace = Trace(source=TraceSource(origin="test"), runs=runs)
        return Stream(trace=trace, arrivals=Arrivals(rate_per_s=rate))

    def curves(*streams: Stream) -> list[Curve]:
        known = profiles(degrees=(1,))
        other = msgspec.structs.replace(known.profiles[0], llm=msgspec.structs.replace(known.profiles[0].llm, name="k"))
        both = msgspec.structs.replace(known, profiles=(known.profiles[0], other))
        made = profile_curves(list(streams), both, ["G"], shares=(100,), cache_dir=tmp_path)
        return [curve for curve in made if curve.llm == "m"]

    def files() -> int:
        return len(list(tmp_path.iterdir()))

    alone = curves(at(1.0))
    assert curves(at(7.3)) == alone
    assert files() == 1
    assert curves(at(0.2), at(5.0, "x", "k")) == alone
    assert files() == 2  # k's own
    assert curves(at(2.0), at(1.0, "y")) == curves(at(4.0), at(2.0, "y"))
    assert files() == 3
    assert curves(at(1.0), at(1.0, "y")) != curves(at(4.0), at(2.0, "y"))
