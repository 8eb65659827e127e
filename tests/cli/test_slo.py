"""Objectives as data: read, planned for, kept in the plan, checked by validate, simulate and report."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from scepsy.api.objectives import kept
from scepsy.cli import app
from scepsy.errors import InputError
from scepsy.files.plan import load_plan
from scepsy.files.slo import load_slo, read_slo, save_slo
from scepsy.slo import Limits, Slo, WorkflowSlo
from scepsy.steady import drift

PLAN = "plan -t chat.jsonl --rate 0.5 --gpus 2"
SLO = """format: scepsy.slo
version: 1
goal: gpus
workflows:
  chat:
    latency_s: {mean: 60, p95: 120}
    min_throughput_per_s: 0.4
    error_budget_pct: 2
llms:
  llama-3.1-8b:
    ttft_s: {p95: 5}
    tpot_s: {mean: 1}
"""


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [part for word in words for part in word.split()])
    return result.exit_code, result.stdout, result.stderr


def document(*words: str, code: int = 0) -> Any:
    found, out, err = run(*words, "--json")
    assert found == code, err
    return json.loads(out)


@pytest.fixture(scope="module", autouse=True)
def _case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("slo"))
        assert run("trace generate chat -n 20 -o chat.jsonl")[0] == 0
        Path("slo.yaml").write_text(SLO)
        assert run(PLAN, "--slo slo.yaml -o chat.plan.yaml")[0] == 0
        yield


def test_the_plan_keeps_its_objectives_and_its_goal() -> None:
    plan = load_plan("chat.plan.yaml")
    assert plan.slo == load_slo("slo.yaml")
    assert len(plan.gpu_shares) == 1, "fewest GPUs was the goal"
    assert any("TTFT and TPOT are not predicted" in note for note in plan.assumptions)
    assert plan.judged is None
    assert any("not judged by simulation: the goal is the fewest GPUs" in note for note in plan.assumptions)
    save_slo("again.yaml", load_slo("slo.yaml"))
    assert load_slo("again.yaml") == load_slo("slo.yaml")


def test_objectives_given_as_text_are_the_same_as_a_file() -> None:
    texts = ["chat:mean=60", "chat:p95=120", "chat:throughput=0.4", "chat:errors=2"]
    found = read_slo([*texts, "llama-3.1-8b:ttft-p95=5", "llama-3.1-8b:tpot-mean=1"])
    assert found is not None
    assert (found.workflows, found.llms) == (load_slo("slo.yaml").workflows, load_slo("slo.yaml").llms)
    added = read_slo(["slo.yaml", "p99=200"])
    assert added is not None
    assert added.workflow("another").latency_s == Limits(p99=200.0)
    assert read_slo([]) is None


@pytest.mark.parametrize("text", ["p96=1", "p95=fast", "chat:=1", "ttft=1", "p95=-1", "errors=100", "nofile.yaml"])
def test_what_is_no_objective_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        read_slo([text])
    assert "\n" not in str(caught.value)
    code, _, err = run(PLAN, f"--slo {text}")
    assert (code, err.count("\n")) == (2, 1), err


def test_a_plan_for_the_lowest_latency_within_objectives_is_judged() -> None:
    told = document(PLAN, "--slo p95=120", "--judge-budget 0.2")
    assert told["judged"]["candidates"] > 1
    assert told["judged"]["misses"] == []
    assert not any("not judged" in note for note in told["assumptions"])


def test_objectives_for_what_is_not_there_are_refused() -> None:
    for text, message in (("talk:p95=9", "workflows names 'talk'"), ("gpt-4o:ttft-p95=1", "llms names 'gpt-4o'")):
        code, _, err = run(PLAN, f"--slo {text}")
        assert (code, message in err, err.count("\n")) == (2, True, 1), err
    code, _, err = run(PLAN, "--slo chat:throughput=0.6")
    assert (code, "asks for at least 0.6 runs/s" in err) == (2, True), err


def test_the_planner_keeps_percentiles_or_says_what_it_can_do() -> None:
    free = document(PLAN)
    two = document(PLAN, "--slo slo.yaml -o two.plan.yaml")
    told = document("predict two.plan.yaml")["latency_s"]
    tight = (told["mean"] + free["latency_s"]) / 2
    better = document(PLAN, f"--slo slo.yaml --slo chat:mean={tight}")
    assert better["latency_s"] <= tight
    assert better["gpus"] > two["gpus"]
    code, _, err = run(PLAN, f"--slo p95={0.1 * free['latency_s']}")
    assert (code, "(p95) cannot be met" in err, err.count("\n")) == (3, True, 1), err
    code, _, err = run(PLAN, f"--planner equal --slo p95={0.1 * free['latency_s']}")
    assert (code, "misses an objective" in err) == (3, True), err


def test_validate_checks_the_plans_own_objectives_and_writes_junit() -> None:
    found = document("validate chat.plan.yaml --runs 400 --junit report.xml")
    assert found["ok"]
    names = {check["name"] for check in found["checks"]}
    assert {"keeps_up", "latency_s mean", "latency_s p95", "min_throughput_per_s", "ttft_s p95", "tpot_s mean"} <= names
    assert "completed_runs (error budget 2 %)" in names
    suite = ElementTree.parse("report.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == (str(len(found["checks"])), "0")
    assert {case.get("classname") for case in suite.iter("testcase")} == {"chat", "llama-3.1-8b"}
    [good] = found["slo"]["goodput"]
    assert (good["within"], good["within_s"], good["good_pct"]) == ("p95", 120.0, 100.0)


def test_a_missed_objective_fails_the_pipeline_and_its_report() -> None:
    found = document("validate chat.plan.yaml --runs 400 --slo p95=0.5 --junit missed.xml", code=1)
    assert not found["ok"]
    missed = [check["name"] for check in found["checks"] if not check["ok"]]
    assert missed == ["latency_s p95"]
    suite = ElementTree.parse("missed.xml").getroot()
    assert suite.get("failures") == "1"
    failure = next(suite.iter("failure"))
    assert "limit 0.5" in (failure.get("message") or "")
    assert found["slo"]["goodput"][0]["good_pct"] < 50
    assert "The SLO is not kept, 1 of" in found["slo"]["verdict"]


def test_the_error_budget_is_what_may_fail() -> None:
    strict, lenient = (WorkflowSlo(error_budget_pct=pct) for pct in (0.0, 5.0))
    slo = Slo(workflows={"a": strict, "*": lenient})
    assert slo.workflow("a").error_budget_pct == 0.0
    assert slo.workflow("b").error_budget_pct == 5.0


def test_what_a_short_simulation_cannot_tell_is_not_called_a_miss() -> None:
    found = document("validate chat.plan.yaml --runs 30", code=1)
    assert found["slo"]["verdict"].startswith("Whether the SLO is kept is not shown")
    assert {check["known"] for check in found["slo"]["checks"] if not check["ok"]} == {False}
    assert kept([{"ok": False, "known": False}, {"ok": True, "known": True}]) is None
    assert kept([{"ok": False, "known": False}, {"ok": False, "known": True}]) is False


def test_simulate_ends_with_1_where_the_plan_does_not_keep_up() -> None:
    assert run("simulate chat.plan.yaml --runs 400")[0] == 0
    code, out, _ = run("simulate chat.plan.yaml --rate 40 --most-calls 20000")
    assert (code, "stays behind" in out or "not settled" in out) == (1, True), out
    assert document("simulate chat.plan.yaml --rate 40 --most-calls 20000", code=1)["stable"] is False
    assert run("simulate chat.plan.yaml --rate 1000 --most-calls 20000")[0] == 1, "so far beyond that it cannot even settle"


def test_simulate_of_a_number_of_runs_ends_with_1_where_work_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = "simulate chat.plan.yaml --rate 6 --runs 3000"
    assert document(asked, code=1)["workflows"]["chat"]["verdict"] == "unstable"
    monkeypatch.setattr(drift, "GOES_ON", 10.0)  # the same growth, which may be filling by this
    found = document(asked, code=1)["workflows"]["chat"]
    assert found["verdict"] == "undecided"
    assert found["why"].endswith("the system may only be filling")


def test_runs_that_were_to_be_cut_off_are_no_failure_and_a_bad_drain_is_bad_input() -> None:
    told = document("simulate chat.plan.yaml --runs 60 --drain 0")
    assert told["runs"]["unfinished"] > 0
    for text in ("-1", "nan", "inf"):
        code, _, err = run(f"simulate chat.plan.yaml --runs 10 --drain {text}")
        assert (code, err.startswith("scepsy: --drain is "), err.count("\n")) == (2, True, 1), err


def test_simulate_and_report_show_the_objectives() -> None:
    told = document("simulate chat.plan.yaml --runs 400")
    assert told["slo"]["ok"]
    code, out, _ = run("simulate chat.plan.yaml --runs 400")
    assert (code, "Goodput" in out, "The SLO is kept" in out) == (0, True, True)
    assert run("report chat.plan.yaml --runs 200 --jobs 1 -o chat.html")[0] == 0
    page = Path("chat.html").read_text()
    assert "Objectives" in page
    assert "SLO is kept" in page  # said outright, or that so few runs do not show it
