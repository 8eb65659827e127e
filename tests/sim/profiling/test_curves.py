"""Curves: capacity and latency against what can be worked out by hand, and the same from cache and other processes."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scepsy.backend import Stream
from scepsy.cluster import GpuType
from scepsy.errors import InputError
from scepsy.llm import Llm
from scepsy.profile.curve import Curve
from scepsy.profile.model import EngineLimits, Profile, ProfileSet
from scepsy.profile.share import ColdStartLaw, ContentionLaw, ShareLaw
from scepsy.profile.step import StepModel
from scepsy.workload import Arrivals, Call, Run, Trace, TraceSource
from sim.profiling import curves, points
from sim.profiling.bench import Bench
from sim.profiling.curves import profile_curves
from sim.profiling.load import LlmLoad
from sim.profiling.regression import fit_latency, shared_part, standard_error

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
            assert mean == pytest.approx(0.1 * (1 + load / (2 * (1 - load))), rel=0.1)


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
    source = load.steady(6.0, 50.0, [np.zeros(2)], lambda inputs, outputs: inputs)
    calls, _ = bench.replay(source, 1)
    assert calls.input_tokens.sum() == pytest.approx(6.0 * 50.0 * 50.0, rel=0.01)  # but for a run at the border


def chain(length: int, gap_s: float, runs: int = 20) -> Stream:
    calls = [one("c0")]
    calls += [one(f"c{n}", f"c{n - 1}", gap_s=gap_s) for n in range(1, length)]
    return stream(*calls, runs=runs)


def test_a_replay_begins_with_as_many_runs_under_way_as_the_steady_state_has() -> None:
    load = LlmLoad("m", [chain(8, 5.0)], 16, 0)
    source = load.steady(40.0, 10.0, [np.full(160, 0.1)], lambda inputs, outputs: inputs)
    whole = np.array([len(load.parts[part].calls) == 8 for part in source.part])
    # Little's law: 5 runs/s, each with calls to come for 35.7 s after its first one's start
    assert (~whole).sum() == pytest.approx(5 * 35.7, rel=0.15)
    assert whole.sum() == pytest.approx(50, rel=0.3)
    issued = [t + g for t, part in zip(source.time_s, source.part, strict=True) for g in starts(load.parts[part])]
    in_time = np.histogram(issued, bins=4, range=(0.0, 10.0))[0]
    np.testing.assert_allclose(in_time, 100, rtol=0.35)  # calls come as often from the first second on


@pytest.mark.parametrize("cv", [1.0, 4.0, 12.0])
def test_no_arrival_is_before_the_clock_starts_however_bursty(cv: float) -> None:
    """Bursts bring runs within 1e-14 s of each other: closer than the search for what is left of a run can tell apart."""
    item = chain(3, 50.0, runs=200)
    bursty = Arrivals(kind="gamma", rate_per_s=1.0, cv=cv)
    for seed in range(40):
        source = LlmLoad("m", [msgspec.structs.replace(item, arrivals=bursty)], 16, seed).steady(
            40.0, 10.0, [np.full(600, 0.1)], lambda inputs, outputs: inputs
        )
        assert source.time_s.min() >= 0.0


def starts(run: Run) -> list[float]:
    from scepsy.dag import walk

    return walk(run, [0.1] * len(run.calls))[0]


@given(
    length=st.integers(1, 4), wide=st.integers(1, 3), gap_s=st.sampled_from([0.0, 0.3]), replicas=st.integers(1, 3),
    share=st.sampled_from([50, 100]), seed=st.integers(0, 50), caching=st.booleans(),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_both_engines_replay_the_same(
    length: int, wide: int, gap_s: float, replicas: int, share: int, seed: int, caching: bool
) -> None:
    calls = []
    for n in range(length):
        parents = tuple(f"c{n - 1}.{k}" for k in range(wide)) if n else ()
        calls += [
            Call(
                id=f"c{n}.{k}", llm="m", input_tokens=40 * (n + 1), output_tokens=3 + k, parents=parents, gap_s=gap_s,
                prefix_hashes=tuple(range(n + 1)),
            )
            for k in range(wide)
        ]  # fmt: skip
    runs = tuple(Run(id=f"r{n}", workflow="w", calls=tuple(calls)) for n in range(3))
    trace = Trace(source=TraceSource(origin="test"), runs=runs, prefix_block_tokens=40)
    known = profiles(seqs=4)
    made = tuple(
        msgspec.structs.replace(
            p,
            step=msgspec.structs.replace(p.step, base_s=0.01),
            engine=msgspec.structs.replace(p.engine, prefix_caching=caching),
        )
        for p in known.profiles
    )
    known = msgspec.structs.replace(known, profiles=made)
    seen = []
    for engine in ("compiled", "simpy"):
        load = LlmLoad("m", [Stream(trace=trace, arrivals=Arrivals(rate_per_s=1.0))], 16, seed)
        bench = Bench(load, known.of("m", "G", 1), share, known, engine=engine)
        source = load.steady(4.0 * replicas, 20.0, [np.full(3 * len(calls), 0.1)], lambda inputs, outputs: inputs)
        seen.append(
            [
                bench.replay(source, replicas, warm_runs=5, drain_s=1.0),
                bench.replay(load.users(5, 30), replicas, drain_s=0.0),
                bench.replay(load.users(3, 60, gaps=True), replicas),
            ]
        )
    for (first, one_duty), (second, other_duty) in zip(*seen, strict=True):
        assert one_duty == other_duty
        a, b = (c.where(np.lexsort((c.input_tokens, c.output_tokens, c.issued_s, c.run))) for c in (first, second))
        for name in ("run", "issued_s", "end_s", "cached_tokens"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-14)  # ticks to seconds, in two ways


def test_the_standard_error_is_that_between_repeated_replays() -> None:
    known = profiles(degrees=(1,))
    errors, means = [], []
    for seed in range(12):
        load = LlmLoad("m", [stream(one())], 16, seed)
        bench = Bench(load, known.of("m", "G", 1), 100, known)
        alone = points.unloaded(bench, 1)
        (row,) = points.loaded(bench, 10.0, 0.8, 1, [(points.UNLOADED_LOAD, alone)])
        errors.append(row["mean_error_s"])
        means.append(row["mean_s"])
    assert 0.5 < np.median(errors) / np.std(means, ddof=1) < 2.0
    assert np.mean(means) == pytest.approx(0.1 * (1 + 0.8 / (2 * 0.2)), rel=0.05)  # Pollaczek-Khinchine


def test_the_standard_error_leaves_out_what_the_known_load_explains_and_grows_with_correlation() -> None:
    rng = np.random.default_rng(0)
    load, noise = np.repeat(rng.normal(size=200), 10), rng.normal(size=2000)
    assert standard_error(noise) == pytest.approx(1 / np.sqrt(2000), rel=0.5)
    assert standard_error(5 * load + noise, load) == pytest.approx(standard_error(noise), rel=0.5)
    assert standard_error(np.cumsum(noise)) > 3 * np.std(np.cumsum(noise)) / np.sqrt(2000)
    assert standard_error(np.ones(1)) == np.inf


def test_a_starved_kv_cache_is_given_as_few_users_as_get_most_done() -> None:
    """Users whose prefixes fit together are served from the cache: more users push each other out."""

    def calls(run: int) -> tuple[Call, ...]:
        return tuple(
            Call(
                id=f"c{n}", llm="m", input_tokens=400 * (n + 1), output_tokens=1, parents=(f"c{n - 1}",) if n else (),
                prefix_hashes=tuple(range(1000 * run, 1000 * run + 25 * (n + 1))),
            )
            for n in range(6)
        )  # fmt: skip

    runs = tuple(Run(id=f"r{n}", workflow="w", calls=calls(n)) for n in range(5))
    trace = Trace(source=TraceSource(origin="test"), runs=runs, prefix_block_tokens=16)
    known = profiles(degrees=(1,), seqs=64)
    engine = msgspec.structs.replace(known.profiles[0].engine, prefix_caching=True, max_num_batched_tokens=4096)
    llm = msgspec.structs.replace(known.profiles[0].llm, kv_bytes_per_token=2**21)
    known = msgspec.structs.replace(known, profiles=(msgspec.structs.replace(known.profiles[0], engine=engine, llm=llm),))
    bench = Bench(LlmLoad("m", [Stream(trace=trace, arrivals=Arrivals(rate_per_s=1.0))], 16, 0), known.profiles[0], 100, known)
    many, _ = points.saturated(bench, 1, 80, gaps=True)
    best, cached = points.capacity_per_s(bench, 1, points.unloaded(bench, 1))
    assert best > 1.2 * many
    assert cached > 0.3


def test_the_regression_recovers_a_linear_law_and_shared_luck_is_told_from_private() -> None:
    rng = np.random.default_rng(0)
    runs = [
        Run(id=f"r{n}", workflow="w", calls=tuple(one(f"c{k}", tokens=int(rng.integers(1, 100))) for k in range(1)))
        for n in range(20)
    ]
    trace = Trace(source=TraceSource(origin="test"), runs=tuple(runs))
    load = LlmLoad("m", [Stream(trace=trace, arrivals=Arrivals(rate_per_s=1.0))], 16, 0)
    calls, _ = Bench(load, profiles().of("m", "G", 1), 100, profiles()).replay(load.users(1, 60), 1)
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


def test_no_worker_is_started_for_what_the_cache_holds(
    tmp_path: Path, single: list[Curve], monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*, cache_dir: Path | None = tmp_path) -> list[Curve]:
        return profile_curves([stream(one())], profiles(), ["G"], shares=(50, 100), cache_dir=cache_dir, jobs=2)

    assert asked() == single
    monkeypatch.setattr(curves, "parallel", lambda work, jobs: pytest.fail(f"{jobs} workers were started"))
    assert asked() == single
    (kept,) = tmp_path.iterdir()
    kept.write_text(kept.read_text()[:-9])
    monkeypatch.setattr(curves, "parallel", lambda work, jobs: [single[:1] for _ in work])
    assert asked() == single[:1], "what is damaged is computed"


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
    durations = [np.full(160, 0.3)]
    source = load.steady(0.9 * 4 * curve.capacity_per_s, 900.0, durations, lambda inputs, outputs: inputs)
    replayed, _ = bench.replay(source, 4)
    measured = float(replayed.where(replayed.issued_s > 90.0).latency_s.mean())
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
