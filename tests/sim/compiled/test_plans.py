"""Both engines on plans of the committed traces, on real traces, and on a million calls: all records and meters equal.

The plans in ``plans/`` are what the exact planner made of the traces in ``traces/``. They are kept, since profiling their
curves takes a minute. To make them again, from the root of the repository:

    scepsy plan -t traces/rag-rerank.jsonl.gz --rate 3 --gpus 4 -o tests/sim/compiled/plans/rag-rerank.plan.yaml
    scepsy plan -t traces/beam-search.jsonl.gz --rate 0.5 --gpus 4 -o tests/sim/compiled/plans/beam-search.plan.yaml
    scepsy plan -t traces/debate.jsonl.gz --rate 1 --gpus 4 -o tests/sim/compiled/plans/debate.plan.yaml
    scepsy plan -t traces/rag-rerank.jsonl.gz --rate 2 -t traces/beam-search.jsonl.gz --rate 0.3 \\
        -t traces/debate.jsonl.gz --rate 0.5 --gpus 8 -o tests/sim/compiled/plans/together.plan.yaml
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from scepsy.api.prepare import workload_of
from scepsy.backend import Stream, Workload
from scepsy.cli import app
from scepsy.cli.question import read_plan
from scepsy.files.plan import load_plan
from scepsy.importers.registry import IMPORTERS
from scepsy.profile.model import EngineLimits
from scepsy.workload import Arrivals, Trace
from sim.world.run import simulate
from tests.builders.simulated import load, plan, profile, profile_set, single_calls

pytest.importorskip("llvmlite")

PLANS = sorted((Path(__file__).parent / "plans").glob("*.plan.yaml"))


def check(*case, **settings):
    """Both engines on one case; return the records."""
    simpy, compiled = (simulate(*case, engine=name, **settings) for name in ("simpy", "compiled"))
    assert (simpy.meta["engine"], compiled.meta["engine"]) == ("simpy", "compiled")
    assert compiled.calls.equals(simpy.calls)
    assert compiled.runs.equals(simpy.runs)
    assert compiled.meta == simpy.meta | {"engine": "compiled"}  # the instances' meters among it
    return compiled


@pytest.mark.parametrize("factor", [1.0, 3.0])
@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name.partition(".")[0])
def test_equal_on_a_plan(path, factor):
    rates = [factor * (target.arrivals.rate_per_s or 0.0) for target in load_plan(path).targets]
    made, loads, profiles = read_plan(path, rates)
    records = check(made, workload_of(loads, runs=300, seed=1), profiles=profiles)
    assert records.calls.num_rows >= 1500
    assert set(records.runs["status"].to_pylist()) == {"completed"}


@pytest.mark.parametrize(
    ("router", "order"),
    [("affinity", "plas"), ("hash-affinity", "shortest-remaining"), ("power-of-two", "fcfs"), ("plas", "plas")],
)
def test_equal_on_a_plan_of_three_workflows_with_other_routers_and_orders(router, order):
    made, loads, profiles = read_plan(next(path for path in PLANS if path.name.startswith("together")), None)
    workload = msgspec.structs.replace(workload_of(loads, runs=200, seed=2), drain_s=5.0)
    check(made, workload, profiles=profiles, router=router, queue_order=order)


def test_the_command_says_which_engine_ran_and_refuses_in_one_line():
    path = str(next(path for path in PLANS if path.name.startswith("debate")))

    def command(*words):
        return CliRunner().invoke(app, ["simulate", path, "--runs", "100", *words])

    found = {name: json.loads(command("--engine", name, "--json").stdout) for name in ("simpy", "compiled", "auto")}
    assert [found[name].pop("engine") for name in found] == ["simpy", "compiled", "compiled"]
    assert [found[name].pop("engine_why") for name in found] == ["asked for", "asked for", "it models this case"]
    for one in found.values():
        del one["wall_s"], one["calls_per_wall_s"]
    assert found["simpy"] == found["compiled"] == found["auto"]
    assert json.loads(command("--json").stdout)["engine"] == "compiled", "auto is the default"
    other = json.loads(command("--router", "ayo", "--json").stdout)
    assert (other["engine"], other["engine_why"]) == ("simpy", "router 'ayo' is not one of its own")
    for words, why in (
        (("--engine", "compiled", "--router", "ayo"), "router 'ayo' is not one of its own"),
        (("--engine", "compiled", "--queue-order", "topology"), "queue order 'topology' is not one of its own"),
        (("--engine", "compiled", "--system", "aegaeon"), "does not model --system aegaeon"),
        (("--engine", "compiled", "--system", "hpa"), "policies act on the cluster while it runs"),
        (("--engine", "fast"), "'fast'"),
    ):
        refused = command(*words)
        assert refused.exit_code == 2, words
        assert refused.stderr.count("\n") == 1, refused.stderr
        assert why in refused.stderr


@pytest.mark.data
@pytest.mark.parametrize("router", ["affinity", "least-kv-load"])
def test_equal_on_coding_agents_with_prefix_hashes_and_a_small_cache(scepsy_data, router):
    files = sorted((scepsy_data / "kvct_neon").glob("*.json"))[:8]
    found = IMPORTERS["kv-cache-tester"](files, {"split": "sessions"})
    runs = tuple(msgspec.structs.replace(run, arrival_s=30.0 * n) for n, run in enumerate(found.runs))
    trace = Trace(source=found.source, runs=runs, prefix_block_tokens=found.prefix_block_tokens)
    profiles = [profile(name, kv_bytes_per_token=150_000, context_limit=1 << 20) for name in trace.llms]
    workload = Workload(streams=(Stream(trace=trace, arrivals=Arrivals(kind="trace")),), runs=len(runs))
    records = check(plan(*((each, 100, 2) for each in profiles)), workload, profiles=profile_set(*profiles), router=router)
    calls = records.calls.to_pandas()
    assert calls.cached_tokens.gt(0).any()


@pytest.mark.data
def test_equal_on_customer_service_loops(scepsy_data):
    trace = IMPORTERS["tau2"](sorted((scepsy_data / "tau2").glob("*.json"))).of("tau2-airline")
    profiles = [profile(name, engine=EngineLimits(), context_limit=1 << 20) for name in trace.llms]
    workload = Workload(streams=(Stream(trace=trace, arrivals=Arrivals(kind="trace", rate_per_s=0.5)),), runs=len(trace.runs))
    check(plan(*((each, 50, 2) for each in profiles)), workload, profiles=profile_set(*profiles))


@pytest.mark.slow
def test_a_million_calls_have_the_same_digest():
    one = profile()
    case = plan((one, 50, 8)), load(single_calls(), 34.0, runs=1_000_000, seed=1)

    def digests(engine):
        found, rows = defaultdict(sha256), Counter()

        def sink(table, batch):
            rows[table] += batch.num_rows
            for row in batch.to_pylist():  # values, however the batches are cut
                found[table].update(repr(row).encode())

        meta = simulate(*case, profiles=profile_set(one), sink=sink, engine=engine).meta
        return dict(rows), {table: each.hexdigest() for table, each in found.items()}, meta["simulated_s"], meta["instances"]

    simpy, compiled = digests("simpy"), digests("compiled")
    assert simpy[0] == {"runs": 1_000_000, "calls": 1_000_000}
    assert compiled == simpy
