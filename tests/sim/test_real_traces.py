"""Real traces replayed: coding agents with prefix hashes, customer-service loops at their own timestamps and faster."""

import msgspec
import numpy as np
import pytest

from scepsy.backend import Stream, Workload
from scepsy.importers.registry import IMPORTERS
from scepsy.metrics import summarise
from scepsy.profile.model import EngineLimits
from scepsy.workload import Arrivals, Trace
from sim.engine.prefix import PrefixKeys
from sim.world.run import simulate
from tests.builders.simulated import plan, profile, profile_set

pytestmark = pytest.mark.data

ROOMY = EngineLimits(max_num_seqs=512, max_num_batched_tokens=1 << 20)
"""Every prompt in one iteration, so that its blocks are known as soon as it is scheduled."""


def coding_agents(folder, sessions=12):
    """Whole sessions, one starting every ten minutes."""
    files = sorted((folder / "kvct_neon").glob("*.json"))[:sessions]
    trace = IMPORTERS["kv-cache-tester"](files, {"split": "sessions"})
    runs = tuple(msgspec.structs.replace(run, arrival_s=600.0 * n) for n, run in enumerate(trace.runs))
    return Trace(source=trace.source, runs=runs, prefix_block_tokens=trace.prefix_block_tokens)


def cluster(trace, *, engine=ROOMY, kv_bytes_per_token=1, replicas=1):
    profiles = [
        profile(name, engine=engine, kv_bytes_per_token=kv_bytes_per_token, context_limit=1 << 20) for name in trace.llms
    ]
    return plan(*((each, 100, replicas) for each in profiles)), profile_set(*profiles)


def implied_hits(trace, calls):
    """What a cache that forgets nothing would hit: per call in order of scheduling, the longest prefix seen before."""
    keys = PrefixKeys([(trace, False)], {})
    by_call = {
        (run.id, call.id): (each[0], call) for run in trace.runs for call, each in zip(run.calls, keys.of(run), strict=True)
    }
    known: dict[str, set[int]] = {}
    hits = []
    for row in calls.itertuples():
        shared, call = by_call[row.template, row.call]
        seen = known.setdefault(call.llm, set())
        limit = (call.input_tokens - 1) // 16
        count = next((n for n, key in enumerate(shared[:limit]) if key not in seen), min(limit, len(shared)))
        hits.append(16 * count)
        seen.update(shared)
    return np.array(hits)


def replayed(trace, *, rate=None, **options):
    the_plan, profiles = cluster(trace, **options)
    workload = Workload(streams=(Stream(trace=trace, arrivals=Arrivals(kind="trace", rate_per_s=rate)),), runs=len(trace.runs))
    records = simulate(the_plan, workload, profiles=profiles, router="affinity")
    calls = records.calls.to_pandas()
    calls["template"] = calls.run.map(records.runs.to_pandas().set_index("run").template)
    return records, calls


@pytest.mark.parametrize("rate", [None, 1 / 20])
def test_prefix_hits_are_those_that_the_hashes_imply(scepsy_data, rate):
    trace = coding_agents(scepsy_data)
    _, calls = replayed(trace, rate=rate)
    assert len(calls) == sum(len(run.calls) for run in trace.runs)
    # calls scheduled in one iteration know each other's blocks in order of admission, which is order of issue
    calls = calls.sort_values(["scheduled_s", "issued_s"], kind="stable")
    implied = implied_hits(trace, calls)
    simulated = calls.cached_tokens.to_numpy()
    assert simulated.sum() == pytest.approx(implied.sum(), rel=1e-3)
    assert (simulated == implied).mean() > 0.99
    assert simulated.sum() / calls.input_tokens.sum() > 0.2


def test_a_small_cache_hits_less_and_never_more(scepsy_data):
    trace = coding_agents(scepsy_data, 6)
    shares = []
    for kv_bytes_per_token in (1, 40_000, 150_000):  # unlimited, 1.4 million and 380 thousand tokens
        records, calls = replayed(trace, rate=1 / 30, kv_bytes_per_token=kv_bytes_per_token)
        assert set(records.runs["status"].to_pylist()) == {"completed"}
        shares.append(calls.cached_tokens.sum() / calls.input_tokens.sum())
    assert shares[0] >= shares[1] >= shares[2] > 0


@pytest.mark.parametrize("name", ["tau2-airline", "tau2-retail", "tau2-telecom"])
def test_customer_service_loops_at_their_own_times_and_ten_times_faster(scepsy_data, name):
    trace = IMPORTERS["tau2"](sorted((scepsy_data / "tau2").glob("*.json"))).of(name)
    recorded = sorted(run.arrival_s for run in trace.runs)
    own = (len(recorded) - 1) / (recorded[-1] - recorded[0])
    means = []
    for factor in (1, 10):
        records, calls = replayed(trace, rate=factor * own, engine=EngineLimits(), kv_bytes_per_token=57344)
        arrivals = sorted(records.runs["arrival_s"].to_pylist())
        assert arrivals == pytest.approx([(at - recorded[0]) / factor for at in recorded], abs=1e-6)
        document = summarise(records)
        assert document["calls"]["completed"] == sum(len(run.calls) for run in trace.runs)
        means.append(document["latency_s"]["mean"])
        # strictly sequential conversations: no run has two calls in flight
        for _, mine in calls.sort_values("issued_s").groupby("run"):
            assert (mine.issued_s.to_numpy()[1:] >= mine.end_s.to_numpy()[:-1] - 1e-9).all()
    assert means[1] >= means[0]
