"""Two names of the traffic on the instances of one model: from the trace to the plan, the engines, the gateway, and back."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from typer.testing import CliRunner

import scepsy
from executor.engine import require_llms, vllm_args
from executor.gateway.config import Endpoint
from executor.gateway.pool import InstancePool
from executor.gateway.replies import Refusal
from executor.manifests import read_plan_config_map, render
from executor.operate.live import LiveRuns
from scepsy.cli import app
from scepsy.cli.inputs import plan_inputs
from scepsy.cluster import Cluster, Node
from scepsy.errors import InputError
from scepsy.files.cluster import save_cluster
from scepsy.files.plan import load_plan
from scepsy.files.records import load_records
from scepsy.importers.recorded.reader import load_recording
from scepsy.llm import Served
from scepsy.plans import Plan
from scepsy.profile.catalogue import gpu_type
from scepsy.search.change import diff
from tests.builders import plans
from tests.executor.operating import BORN_S, W, record
from tests.executor.test_local import layout, make_plan

PLAN = "plan -t two.jsonl --rate 0.5 -c own.yaml --judge none --as writer-1=Qwen/Qwen3-4B --as critic-1=qwen3-4b"
NAMES = ("writer-1", "critic-1")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of two names, a cluster, and three plans: the names apart, together, and together in the other order."""
    made: Path = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        gpu = gpu_type("H100-80G")
        node = Node(name="gpu-1", gpu_type=gpu.name, gpus=2, gpu_uuids=("GPU-a", "GPU-b"))
        save_cluster("own.yaml", Cluster(name="own", gpu_types=(gpu,), nodes=(node,)))
        scepsy.save_trace(
            "two.jsonl", scepsy.generate_trace("reflection", runs=20, llms={"writer": NAMES[0], "critic": NAMES[1]})
        )
        run(f"{PLAN} -o apart.plan.yaml")
        run(f"{PLAN} --share {','.join(NAMES)} -o shared.plan.yaml")
    return made


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def run(line: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == code, result.stderr
    return result.stdout if code == 0 else result.stderr


def shared_plan(plan: Plan, llm: str, *also: str) -> Plan:
    """A plan in which one LLM answers to other names too."""
    models = tuple(
        Served(llm=a.llm, model=a.llm, hub_id=f"test/{a.llm}", also=also if a.llm == llm else ()) for a in plan.allocations
    )
    return msgspec.structs.replace(plan, models=models)


# --- the way through -------------------------------------------------------------------------------------------------


def test_the_plan_file_says_which_names_share(here: Path) -> None:
    plan = load_plan("shared.plan.yaml")
    assert [(m.llm, m.also) for m in plan.models] == [("writer-1", ("critic-1",))]
    assert {a.llm for a in plan.allocations} == {"writer-1"}
    assert plan.other_names == {"critic-1": "writer-1"}
    assert "also:" not in Path("apart.plan.yaml").read_text()
    assert "also:" not in Path("apart.profiles.yaml").read_text()


def test_the_plan_says_it_in_words_and_in_json(here: Path) -> None:
    shared = f"{PLAN} --share {','.join(NAMES)}"
    said = " ".join(run(f"{shared} --explain").split())
    assert "writer-1, critic-1 qwen3-4b" in said
    assert "writer-1 and critic-1 share the instances of one model (qwen3-4b)" in said
    document = json.loads(run(f"{shared} --json"))
    assert document["models"]["writer-1"]["also"] == ["critic-1"]
    assert "also" not in json.loads(run(f"{PLAN} --json"))["models"]["writer-1"]
    assert "(--share writer-1,critic-1 would serve them" in " ".join(run(PLAN).split())


def test_the_original_trace_is_simulated_as_calls_to_one_llm(here: Path) -> None:
    run("simulate shared.plan.yaml --runs 60 --records sim")
    calls = load_records("sim.runs.parquet").calls
    assert set(calls["llm"].to_pylist()) == {"writer-1"}
    traced = scepsy.load_trace("two.jsonl")
    assert set(traced.llms) == set(NAMES)
    per_run = sum(len(each.calls) for each in traced.runs) / len(traced.runs)
    assert calls.num_rows == pytest.approx(60 * per_run, rel=0.15), "no call is lost"
    run("validate shared.plan.yaml --max-latency 60")
    document = json.loads(run("predict shared.plan.yaml --json"))
    assert document["by_llm"]["writer-1"]["calls_per_run"] == pytest.approx(per_run)


def test_plan_inputs_of_a_given_profiles_file_know_the_names(here: Path) -> None:
    run("plan -t two.jsonl --rate 0.5 -c own.yaml --judge none -p apart.profiles.yaml --share writer-1,critic-1 -o g.plan.yaml")
    ((trace, _),), profiles = plan_inputs(load_plan("g.plan.yaml"), Path("g.plan.yaml"))
    assert (trace.llms, profiles.other_names) == (("writer-1",), {"critic-1": "writer-1"})
    assert load_plan("g.plan.yaml").allocations == load_plan("shared.plan.yaml").allocations


def test_a_program_shares_as_the_command_line_does(here: Path) -> None:
    trace, models = scepsy.load_trace("two.jsonl"), dict.fromkeys(NAMES, "qwen3-4b")
    plan = scepsy.plan(trace, rate_per_s=0.5, cluster="own.yaml", profiles=models, share=[NAMES])
    assert plan.other_names == {"critic-1": "writer-1"}
    records = scepsy.simulate(plan, trace, runs=20, profiles=models)
    assert set(records.calls["llm"].to_pylist()) == {"writer-1"}
    assert all(check["ok"] for check in scepsy.validate(plan, trace, max_latency_s=60, profiles=models, most_calls=20_000))
    with pytest.raises(InputError, match="--share is 'writer-1,x': 'x' is no LLM of the trace"):
        scepsy.plan(trace, rate_per_s=0.5, cluster="own.yaml", profiles=models, share=[["writer-1", "x"]])


def test_names_together_and_apart_are_compared_over_the_same_runs(here: Path) -> None:
    found = json.loads(run("compare apart.plan.yaml shared.plan.yaml --runs 200 --json"))
    assert [row["plan"] for row in found["rows"]] == ["apart", "shared"]
    assert found["rows"][1]["difference_s"] is not None
    said = " ".join(run("compare apart.plan.yaml shared.plan.yaml --runs 100").split())
    assert "shares those of writer-1" in said


def test_the_page_says_it(here: Path) -> None:
    run("report shared.plan.yaml --runs 40 -o shared.html")
    html = Path("shared.html").read_text(encoding="utf-8")
    assert "writer-1, critic-1" in html
    assert "share the instances of one model" in html
    assert "Several names in one row are served by the same instances" in html


def test_changes_restart_what_gets_another_name(here: Path) -> None:
    found = json.loads(run("changes apart.plan.yaml shared.plan.yaml --json"))
    assert found["models"] == [
        {"llm": "writer-1", "before": "qwen3-4b (bfloat16)", "after": "qwen3-4b (bfloat16) asked for as writer-1 and critic-1"}
    ]
    assert not found["kept"]
    assert {name.rpartition("-")[0] for name in found["stopped"]} == set(NAMES)
    assert "writer-1: other names: qwen3-4b" in run("changes apart.plan.yaml shared.plan.yaml")
    plan = load_plan("shared.plan.yaml")
    assert diff(plan, plan).empty
    run(
        f"{PLAN} --share writer-1,critic-1 --from shared.plan.yaml --max-started 1 -o next.plan.yaml".replace(
            "--judge none ", ""
        )
    )
    assert load_plan("next.plan.yaml").other_names == plan.other_names


async def test_rendered_engines_and_gateway_answer_to_both_names(here: Path, stub, gateway) -> None:
    made = list(yaml.safe_load_all(run("render shared.plan.yaml --gateway-image x:1")))
    engines = [e for e in made if e["kind"] == "Deployment" and "gateway" not in e["metadata"]["name"]]
    assert len(engines) == len(load_plan("shared.plan.yaml").instances)
    args = engines[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    start = args.index("--served-model-name")
    assert args[start + 1 : start + 4] == ["writer-1", "critic-1", "--host"]
    config = next(e["data"]["gateway.yaml"] for e in made if "gateway.yaml" in e.get("data", {}))
    endpoints = [msgspec.convert({**each, "url": stub().url}, Endpoint) for each in yaml.safe_load(config)["endpoints"]]
    served = gateway(endpoints, env={"PYTHONPATH": str(ROOT)})
    assert served.get("/health")["ready"] == dict.fromkeys(NAMES, len(endpoints))
    assert {each["id"] for each in served.get("/v1/models")["data"]} == set(NAMES)
    for number, name in enumerate([*NAMES, "critic-1"]):
        body = {"model": name, "messages": [{"role": "user", "content": f"question {number}"}], "max_tokens": 3}
        assert served.post("/workflow/reflection/run/r1/v1/chat/completions", body)["model"] == name
    with pytest.raises(Exception, match="404"):
        served.post("/v1/chat/completions", {"model": "nobody", "messages": []})
    calls = load_recording(served.recording).calls
    assert Counter(call.llm for call in calls) == {"writer-1": 1, "critic-1": 2}, "as it was asked for"
    live = LiveRuns(["reflection"], 1.0, load_plan("shared.plan.yaml").other_names)
    live.add(calls)
    (seen,) = live.seen(calls[-1].end_s + 10)["reflection"]
    assert seen.values["calls:writer-1"] == 3.0
    assert "calls:critic-1" not in seen.values


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--share writer-1", "--share is 'writer-1': must be NAME,NAME"),
        ("--share writer-1,critic", "'critic' is no LLM of the trace: must be names among writer-1, critic-1"),
        ("--share writer-1,writer-1", "'writer-1' is given twice"),
        ("--share writer-1,critic-1 --as critic-1=qwen3-8b", "give --as 'critic-1=qwen3-4b'"),
        ("--share writer-1,critic-1 --pin critic-1=1:100:1", "--pin names 'critic-1', which shares the instances of writer-1"),
        ("--share writer-1,critic-1 --exclude critic-1=1", "--exclude names 'critic-1', which shares"),
        (
            "--share writer-1,critic-1 --slo critic-1:ttft-p95=1",
            "--slo names 'critic-1', which shares the instances of writer-1",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused_in_one_line(here: Path, line: str, message: str) -> None:
    err = run(f"{PLAN} {line}", code=2)
    assert (message in err, err.count("\n")) == (True, 1), err


@pytest.mark.parametrize("line", ["frontier -t two.jsonl --rate 0.5 --gpus 1", "admit -t two.jsonl --rate 0.5 --gpus 1"])
def test_every_command_that_plans_takes_it(here: Path, line: str) -> None:
    models = " ".join(f"--as {name}=qwen3-4b" for name in NAMES)
    run(f"{line} {models} --share writer-1,critic-1 --json")
    assert "is no LLM of the trace" in run(f"{line} {models} --share writer-1,x", code=2)


def test_deploying_asks_for_the_llm_that_serves(here: Path) -> None:
    err = run("render shared.plan.yaml --gateway-image x:1 --as critic-1=a/b", code=2)
    assert "models has an entry 'critic-1', which shares the instances of writer-1: give it for writer-1" in err
    with pytest.raises(InputError, match="engine_args has an entry 'critic-1', which shares"):
        require_llms(load_plan("shared.plan.yaml"), engine_args=["critic-1"])


# --- the parts -------------------------------------------------------------------------------------------------------


def test_an_engine_is_started_under_every_name() -> None:
    plan, profiles = plans.one_node(), plans.profiles()
    instance = next(i for i in plan.instances if i.llm == "qwen3-8b")
    profile = profiles.of("qwen3-8b", plans.A100.name, 1)
    alone, both = vllm_args(instance, profile), vllm_args(instance, profile, names=("qwen3-8b", "fast"))
    at = alone.index("--served-model-name")
    assert (alone[at + 1 : at + 3], both[at + 1 : at + 4]) == (["qwen3-8b", "--host"], ["qwen3-8b", "fast", "--host"])
    assert [each for each in both if each != "fast"] == alone


def test_manifests_of_a_plan_without_sharing_do_not_change_and_with_it_the_engine_is_another() -> None:
    before, after = (
        render(shared_plan(plans.one_node(), "qwen3-8b", *also), plans.profiles(), plans.OPTIONS) for also in ((), ("fast",))
    )
    assert "also" not in json.dumps(list(before.objects))
    differ = {e.llm for e in after.engines if e.name not in {o.name for o in before.engines}}
    assert differ == {"qwen3-8b"}
    assert read_plan_config_map(after.plan["data"])[0].other_names == {"fast": "qwen3-8b"}


def test_engines_on_this_host_are_started_under_every_name() -> None:
    plan = shared_plan(make_plan({"chat": [((0,), 40)], "judge": [((1,), 40)]}), "chat", "helper")
    chat, judge = layout(plan, "cpu").launches
    at = chat.arguments.index("--served-model-name")
    assert chat.arguments[at + 1 : at + 3] == ("chat", "helper")
    assert (chat.also, judge.also) == (("helper",), ())


def endpoint(name: str, llm: str, **fields: Any) -> Endpoint:
    return Endpoint(name=name, llm=llm, url=f"http://h:{sum(name.encode())}", **fields)


def test_a_pool_chooses_by_any_name_and_counts_each_instance_once() -> None:
    pool = InstancePool([endpoint("a-0", "a", also=("b",)), endpoint("a-1", "a", also=("b",)), endpoint("c-0", "c")])
    assert [u.name for u in pool.upstreams] == ["a-0", "a-1", "c-0"]
    assert (pool.llms, pool.ready()) == (["a", "b", "c"], {"a": 2, "b": 2, "c": 1})
    first = pool.choose("a")
    first.outstanding += 1
    assert (first.name, pool.choose("b").name) == ("a-0", "a-1"), "calls under one name are load for the other"
    with pytest.raises(Refusal, match="d"):
        pool.choose("d")


def test_while_plans_are_switched_a_name_may_have_instances_of_both() -> None:
    pool = InstancePool([endpoint("b-0", "b", draining=True), endpoint("a-0", "a", also=("b",)), endpoint("old-0", "a")])
    assert {pool.choose("b").name for _ in range(3)} == {"a-0"}, "an instance is never asked for a name it does not know"
    assert {pool.choose("a").name for _ in range(3)} == {"a-0", "old-0"}


def test_a_recording_has_the_names_that_were_asked_for_and_features_the_llm() -> None:
    live, plain = LiveRuns([W], 10.0, {"helper": "chat"}), LiveRuns([W], 10.0)
    calls = [record(1, BORN_S), record(2, BORN_S + 2, run="r1", llm="helper")]
    for each in (live, plain):
        each.add(calls)
    assert live.seen(BORN_S + 60)[W][0].values["calls:chat"] == 2.0
    assert plain.seen(BORN_S + 60)[W][0].values["calls:helper"] == 1.0


def test_a_plan_refuses_a_name_of_two_llms() -> None:
    with pytest.raises(ValueError, match=r"models is .*: must be distinct names, those under also included"):
        shared_plan(plans.one_node(), "qwen3-8b", "reranker")
