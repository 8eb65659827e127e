"""Queueing theory as the oracle: closed forms against many independent seeds, with a stated confidence.

Each check takes one mean per seed and asks whether the closed form lies in Student's 99.9 % interval over the seeds.
"""

import json

import numpy as np
import pytest

from scepsy.metrics import seeds_interval
from scepsy.profile.model import EngineLimits
from scepsy.profile.step import StepModel
from sim.world.run import simulate
from tests.builders.simulated import NO_SHARE_COST, call, load, plan, profile, profile_set, run, single_calls, trace

CONFIDENCE = 0.999
on_both_engines = pytest.mark.parametrize("engine", ["simpy", "compiled"])
ONE_AT_A_TIME = EngineLimits(max_num_seqs=1, prefix_caching=False)


def sojourns(what, rate, *, runs, seeds, step, limits, engine, replicas=1, router="least-outstanding", warmup=0.2):
    """Mean sojourn of the runs after the warm-up, one per seed."""
    one = profile(step=step, engine=limits)
    means = []
    for seed in seeds:
        records = simulate(
            plan((one, 100, replicas)),
            load(what, rate, runs=runs, seed=seed),
            profiles=profile_set(one, law=NO_SHARE_COST),
            router=router,
            engine=engine,
        )
        times = (records.runs["end_s"].to_numpy() - records.runs["arrival_s"].to_numpy())[np.argsort(records.runs["arrival_s"])]
        means.append(times[int(warmup * runs) :].mean())
    return means


def inside(means, wanted):
    low, high = seeds_interval(means, CONFIDENCE)
    assert low <= wanted <= high, (low, wanted, high)
    assert (high - low) / wanted < 0.2, "the interval must be narrow enough to mean something"


@on_both_engines
@pytest.mark.parametrize("load_factor", [0.3, 0.6, 0.8])
def test_m_d_1(load_factor, engine):
    # one call at a time, all alike: 10 ms of prefill. Sojourn = D + ρD / 2(1 − ρ) (Pollaczek–Khinchine)
    service = 0.010
    step = StepModel(base_s=0.005, prefill_s_per_token=0.001)
    what = trace(run([call(5, 1)]))
    means = sojourns(what, load_factor / service, runs=4000, seeds=range(20), step=step, limits=ONE_AT_A_TIME, engine=engine)
    inside(means, service * (1 + load_factor / (2 * (1 - load_factor))))


@on_both_engines
@pytest.mark.parametrize(("servers", "load_factor"), [(1, 0.5), (2, 0.7), (4, 0.8)])
def test_m_m_c(servers, load_factor, engine):
    # exponential prompt lengths, one at a time per instance; a central queue is what least-outstanding only approximates,
    # so the c servers are one instance whose iterations cost the same whatever runs beside: decode-only service in c slots
    mean_tokens = 400
    rng = np.random.default_rng(5)
    outputs = 1 + rng.exponential(mean_tokens, 4000).astype(int)
    what = trace(*(run([call(1, int(n))], id=f"r{k}") for k, n in enumerate(outputs)))
    step = StepModel(base_s=1e-3, prefill_s_per_token=1e-12)
    service = float(outputs.mean()) * 1e-3
    arrival = load_factor * servers / service
    limits = EngineLimits(max_num_seqs=servers, prefix_caching=False)
    means = sojourns(what, arrival, runs=4000, seeds=range(20), step=step, limits=limits, engine=engine)
    offered = servers * load_factor
    below = sum(offered**k / float(np.prod(range(1, k + 1))) for k in range(servers))
    last = offered**servers / float(np.prod(range(1, servers + 1))) / (1 - load_factor)
    wait = last / (below + last) * service / (servers * (1 - load_factor))  # Erlang C
    inside(means, service + wait + 0.5e-3)  # a call waits for half an iteration on average before it can join


@on_both_engines
def test_m_g_1_processor_sharing(engine):
    # an iteration takes time in proportion to its batch: every call gets an equal share. E[T] = S / (1 − ρ), whatever the
    # lengths
    rng = np.random.default_rng(7)
    outputs = np.where(rng.random(3000) < 0.9, rng.integers(50, 150, 3000), rng.integers(800, 1200, 3000))
    what = trace(*(run([call(1, int(n))], id=f"r{k}") for k, n in enumerate(outputs)))
    step = StepModel(base_s=0.0, prefill_s_per_token=1e-4, decode_s_per_sequence=1e-4)
    limits = EngineLimits(max_num_seqs=4096, max_num_batched_tokens=8192, prefix_caching=False)
    service = float(outputs.mean()) * 1e-4
    means = sojourns(what, 0.6 / service, runs=4000, seeds=range(20), step=step, limits=limits, engine=engine)
    inside(means, service / (1 - 0.6))


@on_both_engines
def test_littles_law_on_every_instance(engine):
    # L = λW per instance, exactly: ∫ calls in the system dt equals the sum of their sojourns
    one = profile()
    case = plan((one, 100, 3)), load(single_calls(500), 12.0, runs=4000, seed=3)
    records = simulate(*case, profiles=profile_set(one), engine=engine)
    calls = records.calls.to_pandas()
    for _, mine in calls.groupby("instance"):
        changes = np.concatenate(
            [np.stack([mine.issued_s, np.ones(len(mine))]), np.stack([mine.end_s, -np.ones(len(mine))])], axis=1
        )
        changes = changes[:, np.argsort(changes[0], kind="stable")]
        area = float((np.cumsum(changes[1])[:-1] * np.diff(changes[0])).sum())
        assert area == pytest.approx(float((mine.end_s - mine.issued_s).sum()), rel=1e-9)


@on_both_engines
@pytest.mark.parametrize("seed", range(8))
def test_work_and_tokens_are_conserved(seed, engine):
    step = StepModel(base_s=0.0, prefill_s_per_token=1e-4, decode_s_per_sequence=1e-3)
    one = profile(step=step, engine=EngineLimits(max_num_seqs=64, prefix_caching=False))
    case = plan((one, 100, 2)), load(single_calls(300), 3.0, runs=1500, seed=seed)
    records = simulate(*case, profiles=profile_set(one), engine=engine)
    calls = records.calls.to_pandas()
    use = json.loads(records.meta["instances"])
    for item in use:
        mine = calls[calls.instance == item["instance"]]
        assert item["prefill_tokens"] == mine.input_tokens.sum()
        work = mine.input_tokens.sum() * 1e-4 + (mine.output_tokens - 1).sum() * 1e-3
        assert item["busy_s"] == pytest.approx(work, rel=1e-9)  # without a base, time is work, whatever the order
    assert len(calls) == 1500


@on_both_engines
def test_latency_is_monotone_in_rate(engine):
    # the same runs at the same relative times, closer together: no run can leave the system later relative to its arrival
    # on average
    one = profile()
    what = single_calls(500)
    means = []
    for rate in (2.0, 4.0, 8.0, 16.0, 24.0):
        records = simulate(plan((one, 100, 2)), load(what, rate, runs=3000, seed=1), profiles=profile_set(one), engine=engine)
        means.append(float((records.runs["end_s"].to_numpy() - records.runs["arrival_s"].to_numpy()).mean()))
    assert means == sorted(means)


@on_both_engines
def test_replicas_under_round_robin_are_independent_engines(engine):
    # r whole-GPU replicas behind round robin equal r engines that each get every r-th call, to the last digit
    one = profile()
    what = single_calls(400)
    arrivals = load(what, 15.0, runs=600, seed=4)
    together = (
        simulate(plan((one, 100, 3)), arrivals, profiles=profile_set(one), router="round-robin", engine=engine)
        .runs.to_pandas()
        .set_index("run")
    )
    order = together.sort_values("arrival_s")
    by_id = {item.id: item for item in what.runs}
    for first in range(3):
        mine = order.iloc[first::3]
        alone = trace(
            *(
                run(by_id[row.template].calls, id=name, arrival_s=row.arrival_s - float(mine.arrival_s.iloc[0]))
                for name, row in mine.iterrows()
            )
        )
        records = (
            simulate(plan((one, 100, 1)), load(alone), profiles=profile_set(one), engine=engine)
            .runs.to_pandas()
            .set_index("template")
        )
        sojourn = (records.end_s - records.arrival_s).loc[list(mine.index)].to_numpy()
        assert sojourn == pytest.approx((mine.end_s - mine.arrival_s).to_numpy(), abs=1e-9)


@on_both_engines
def test_the_same_seed_gives_the_same_records_and_another_seed_does_not(engine):
    one = profile()
    what = single_calls(300)
    first, again, other = (
        simulate(plan((one, 100, 2)), load(what, 8.0, runs=400, seed=seed), profiles=profile_set(one), engine=engine)
        for seed in (5, 5, 6)
    )
    assert first.calls.equals(again.calls)
    assert first.runs.equals(again.runs)
    assert not first.runs.equals(other.runs)
