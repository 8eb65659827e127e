"""``scepsy operate`` on a deployment's folder: one look, its explanation, its schema, and what it refuses."""

import json
import time
from pathlib import Path

import jsonschema
import msgspec
import pytest
from typer.testing import CliRunner

import scepsy
from experiments.checks.operate_load import without_processes
from scepsy.api.inputs import load_cluster, profiles_of
from scepsy.cli import app
from scepsy.cli.schemas import schemas
from scepsy.importers.recorded.record import CallRecord
from scepsy.plans import Plan
from scepsy.rng import stream
from scepsy.workload import Trace

W, RATE = "chat", 0.5


@pytest.fixture(scope="module")
def planned() -> tuple[Trace, Plan, object]:
    trace = scepsy.generate_trace(W, runs=60, seed=1)
    cluster = load_cluster(4)
    profiles = profiles_of({name: name for name in trace.llms}, cluster)
    return trace, scepsy.plan(trace, rate_per_s=RATE, cluster=cluster, profiles=profiles), profiles


@pytest.fixture
def here(tmp_path, monkeypatch, planned) -> Path:
    """A plan file with its trace, and the state folder of a deployment of it that has no processes."""
    trace, plan, profiles = planned
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    without_processes(tmp_path, "chat", trace, plan, profiles, tmp_path / "calls.jsonl")
    return tmp_path


def record_runs(path: Path, trace: Trace, rate_per_s: float, begin_s: float, end_s: float) -> None:
    """The trace's runs one after another, arriving at a rate; every call takes a second."""
    rng, lines, now, number = (
        stream(1, "cli"),
        [b'{"format":"scepsy.recording","version":1,"session":"s","started_s":1}'],
        begin_s,
        0,
    )
    while (now := now + float(rng.exponential(1 / rate_per_s))) < end_s:
        run = trace.runs[int(rng.integers(len(trace.runs)))]
        number += 1
        for place, call in enumerate(run.calls):
            lines.append(
                msgspec.json.encode(
                    CallRecord(
                        id=f"{number}-{place}", session="s", run=f"r{number}", rung="header", workflow=W, llm=call.llm,
                        endpoint="completions", kind="generate", start_s=now + place, end_s=now + place + 1.0,
                        outcome="completed", input_tokens=call.input_tokens, output_tokens=call.output_tokens,
                    )
                )
            )  # fmt: skip
    path.write_bytes(b"\n".join(lines) + b"\n")


def call(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["operate", *words])
    assert result.exit_code == code, result.output
    return result.stdout


def since(here: Path, seconds: float) -> float:
    """Make believe that the plan has served for so long; returns when it began."""
    import os

    begun = time.time() - seconds
    os.utime(here / "state" / "scepsy" / "local" / "default" / "plan.yaml", (begun, begun))
    return begun


def test_one_look_at_the_planned_load_finds_nothing(here, planned) -> None:
    begun = since(here, 2000.0)
    record_runs(here / "calls.jsonl", planned[0], RATE, begun, time.time() - 40)
    assert "the load is what the plan was made for" in call("chat.plan.yaml", "--once")


def test_one_look_without_a_recording_says_nothing_of_the_load(here) -> None:
    since(here, 2000.0)
    result = CliRunner().invoke(app, ["operate", "chat.plan.yaml", "--once"])
    assert result.stdout == "nothing can be said of the load\n"
    said = " ".join(result.stderr.split())
    assert "no calls were read from" in said
    assert "does the gateway record there?" in said


def test_one_look_at_three_times_the_load_advises_and_changes_nothing(here, planned) -> None:
    begun = since(here, 1000.0)
    record_runs(here / "calls.jsonl", planned[0], 3 * RATE, begun, time.time())
    folder = here / "state" / "scepsy" / "local" / "default"
    before = (folder / "plan.yaml").read_bytes()
    told = json.loads(call("chat.plan.yaml", "--once", "--json"))
    jsonschema.validate(told, schemas()["operate"])
    assert (told["kind"], told["mode"], told["drifts"][0]["number"]) == ("decided", "advise", "rate")
    assert told["loads"][0]["rate_per_s"]["value"] == pytest.approx(1.5, rel=0.2)
    assert (folder / "plan.yaml").read_bytes() == before
    again = json.loads(call("chat.plan.yaml", "--explain", "LAST", "--json"))
    assert again == told
    text = call("chat.plan.yaml", "--explain", str(told["number"]))
    assert "chat: rate was 0.5 in the load known before" in text
    assert "Decision:" in text
    for line in (folder / "operate" / "log.jsonl").read_text().splitlines():
        jsonschema.validate(json.loads(line), schemas()["operate"])


def test_what_cannot_be_operated_is_refused_in_one_line(here, planned, monkeypatch) -> None:
    for words, reason in (
        (("--goal", "gpus"), "--goal gpus needs a limit: give --max-latency SECONDS"),
        (("--max-latency", "-1"), "--max-latency is -1"),
        (("--gpus-to", "0"), "--gpus-to is 0"),
        (("--look", "0"), "--look is 0"),
        (("--explain", "LAST"), "no decisions yet"),
        (("--release", "nobody"), "no deployment: apply a plan first"),
    ):
        result = CliRunner().invoke(app, ["operate", "chat.plan.yaml", "--once", *words])
        assert result.exit_code == 2
        assert reason in " ".join(result.output.split())
