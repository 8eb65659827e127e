"""``scepsy operate --kubernetes`` as a command: a real planner, a release on the double, a recording of more load."""

import datetime
import json
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml
from typer.testing import CliRunner

import scepsy
from executor.cluster.snapshot import annotation
from executor.manifests.names import CONTENT, SINCE
from executor.operate.cluster_target import ClusterTarget
from scepsy.cli import app
from scepsy.files.plan import save_plan
from scepsy.files.profiles import save_profiles
from scepsy.files.trace import save_trace
from scepsy.importers.recorded.record import CallRecord
from scepsy.operate.naming import fingerprint
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.rng import stream
from scepsy.search.problem import Goal
from scepsy.workload import Call, Run, Trace, TraceSource
from tests.builders import plans
from tests.executor.cluster.double import NAMESPACE, Double, serve
from tests.executor.cluster.lab import DoubleLab, placement, planned

W, LLM, LIMIT_S = "chat", "qwen3-8b", 2.5
APPLY = (
    "apply", "chat.plan.yaml", "--no-validate", "--gateway-image", plans.IMAGE, "--context", "here"
)  # fmt: skip
AIM = ("--goal", "gpus", "--max-latency", str(LIMIT_S), "--run-idle", "2")


def traced() -> Trace:
    calls = ((n, Call(id="a", llm=LLM, input_tokens=90 + n % 20, output_tokens=90 + n % 21)) for n in range(60))
    runs = tuple(Run(id=f"t{n}", workflow=W, calls=(call,)) for n, call in calls)
    return Trace(source=TraceSource(origin="made up by a test"), runs=runs)


@pytest.fixture(scope="module")
def made() -> tuple[Plan, ProfileSet, Trace, float]:
    """A plan for a low rate, and a rate that it cannot carry."""
    trace, known = traced(), plans.profiles()
    [one] = [each for each in known.profiles if each.llm.name == LLM and each.tensor_parallel == 1]
    alone = (msgspec.structs.replace(one, engine=msgspec.structs.replace(one.engine, max_num_seqs=4)),)  # some runs a second
    profiles = msgspec.structs.replace(known, profiles=alone)
    cluster = plans.cluster(plans.node("n1", 3))
    goal = Goal(kind="gpus", limits_s={W: LIMIT_S})
    plan = scepsy.plan(trace, rate_per_s=1.0, cluster=cluster, profiles=profiles, goal=goal)
    assert len(plan.gpu_shares) == 1
    return plan, profiles, trace, 2.0 * plan.expected[0].throughput_per_s


@pytest.fixture
def double(made) -> Iterator[Double]:
    with serve(made[0].cluster) as running:
        yield running


@pytest.fixture
def here(tmp_path: Path, double: Double, made, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the plan, which serves on the double, and a KUBECONFIG that points there."""
    plan, profiles, trace, _ = made
    monkeypatch.chdir(tmp_path)
    save_trace(Path("chat.jsonl"), trace)
    save_profiles(Path("p.yaml"), profiles)
    targets = tuple(msgspec.structs.replace(target, trace="chat.jsonl") for target in plan.targets)
    save_plan(Path("chat.plan.yaml"), msgspec.structs.replace(plan, targets=targets, profiles="p.yaml"))
    context = {"cluster": "c", "user": "u", "namespace": NAMESPACE}
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "elsewhere",
        "contexts": [{"name": "here", "context": context}, {"name": "elsewhere", "context": {"cluster": "no", "user": "u"}}],
        "clusters": [
            {"name": "c", "cluster": {"server": double.url}},
            {"name": "no", "cluster": {"server": "http://127.0.0.1:9"}},
        ],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    Path("kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    said(*APPLY)
    return tmp_path


def said(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, result.output
    return result.stdout


def operate(*words: str, code: int = 0) -> str:
    where = ("--kubernetes", "--context", "here", "--namespace", NAMESPACE)
    return said("operate", "chat.plan.yaml", *where, *words, code=code)


def write_calls(path: Path, trace: Trace, rate_per_s: float, begin_s: float, end_s: float) -> None:
    """One run after another, each a call of a second."""
    rng, now = stream(1, "cluster command"), begin_s
    lines = [b'{"format":"scepsy.recording","version":1,"session":"s","started_s":1}']
    while (now := now + float(rng.exponential(1 / rate_per_s))) < end_s:
        [call] = trace.runs[int(rng.integers(len(trace.runs)))].calls
        record = CallRecord(
            id=f"c{len(lines)}", session="s", run=f"r{len(lines)}", rung="header", workflow=W, llm=LLM,
            endpoint="completions", kind="generate", start_s=now, end_s=now + 1.0, outcome="completed",
            input_tokens=call.input_tokens, output_tokens=call.output_tokens,
        )  # fmt: skip
        lines.append(msgspec.json.encode(record))
    path.write_bytes(b"\n".join(lines) + b"\n")


def has_served(double: Double, seconds: float) -> float:
    """Make believe that the plan has served for so long; returns since when."""
    begun = time.time() - seconds
    stamp = datetime.datetime.fromtimestamp(begun, tz=datetime.UTC).isoformat()
    [key] = [k for k, v in double.store.objects.items() if SINCE in v["metadata"].get("annotations", {})]
    double.store.change(key, lambda obj: obj["metadata"]["annotations"].update({SINCE: stamp}))
    return begun


def test_it_counts_from_when_the_plan_serves(here, double, made) -> None:
    target = ClusterTarget(double.api(), "scepsy", made[1])
    assert time.time() - 60 < target.since_s() <= time.time()
    begun = has_served(double, 500.0)
    assert target.since_s() == pytest.approx(begun, abs=0.01)
    [key] = [k for k, v in double.store.objects.items() if SINCE in v["metadata"].get("annotations", {})]
    double.store.change(key, lambda obj: obj["metadata"]["annotations"].update({CONTENT: "somebody's"}))
    said(*APPLY)
    assert annotation(double.store.objects[key], CONTENT) != "somebody's", "the record was written again"
    assert target.since_s() == pytest.approx(begun, abs=0.01), "a plan that served already goes on serving"


def test_advice_changes_nothing_and_acting_brings_the_release_to_the_plan(here, double, made) -> None:
    plan, profiles, trace, rate = made
    begun = has_served(double, 200.0)
    write_calls(here / "calls.jsonl", trace, rate, begun, time.time())
    seen = len(double.server.seen)
    advised = json.loads(operate("--recording", "calls.jsonl", *AIM, "--once", "--json"))
    assert (advised["found"], advised["decision"]["act"]) == ("drift", "switch"), (advised["loads"], advised["running"])
    assert {call.verb for call in double.server.seen[seen:]} <= {"get", "list"}
    [folder] = (here / "state" / "scepsy" / "kubernetes").rglob("operate")
    assert folder.parent.parts[-2:] == (NAMESPACE, "scepsy")

    done = json.loads(operate("--recording", "calls.jsonl", *AIM, "--once", "--act", "--json"))
    assert (done["kind"], done["result"]) == ("outcome", "serving")
    running = ClusterTarget(double.api(), "scepsy", profiles).running()
    assert fingerprint(running) == done["wanted"] != fingerprint(plan)
    assert placement(DoubleLab(double)) == planned(running)
    assert len(running.gpu_shares) > 1
    assert "Decision: switch" in operate("--explain", "LAST")
    assert "the load is what the plan was made for" in operate("--recording", "calls.jsonl", *AIM, "--once")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--kubernetes", "--context", "here", "--release", "x"], 2, "release x: no plan serves in namespace scepsy of http"),
        (["--kubernetes", "--context", "here", "--once"], 2, "--kubernetes: give --recording FILE"),
        (["--kubernetes", "--context", "nope"], 4, "no usable cluster configuration"),
        (["--kubernetes", "--release", "Not_OK"], 2, "release is 'Not_OK': must be a DNS label"),
        (["--kubernetes", "--context", "here", "--timeout", "0"], 2, "--timeout is 0: must be a number of seconds > 0"),
        (["--context", "here"], 2, "--context: goes with --kubernetes only"),
        (["--namespace", "x"], 2, "--namespace: goes with --kubernetes only"),
        (["--timeout", "5"], 2, "--timeout: goes with --kubernetes only"),
    ],
)
def test_one_line_and_the_exit_code(here, words: list[str], code: int, message: str) -> None:
    result = CliRunner().invoke(app, ["operate", "chat.plan.yaml", *words])
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert message in " ".join(result.stderr.split()), result.stderr
