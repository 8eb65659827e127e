"""Plans under the same runs: the difference has the right sign, is none for equal plans; other questions are refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

import scepsy
from scepsy.api.inputs import profiles_of
from scepsy.api.paired import Contender, compare_paired, verdict
from scepsy.api.prepare import Load
from scepsy.cli import app
from scepsy.errors import InputError
from scepsy.steady.pairs import compared
from scepsy.workload import Arrivals

RATE_PER_S = 0.5


@pytest.fixture(scope="module")
def contenders() -> dict[str, Contender]:
    trace = scepsy.generate_trace("chat", runs=20, seed=1)
    load = Load(trace=trace, arrivals=Arrivals(rate_per_s=RATE_PER_S))
    found = {}
    for name, gpus in (("one", 1), ("two", 2)):
        plan = scepsy.plan(trace, rate_per_s=RATE_PER_S, cluster=gpus)
        found[name] = Contender(name, plan, (load,), profiles_of(trace.llms, plan.cluster))
    return found


def test_the_same_plan_differs_by_nothing(contenders: dict[str, Contender]) -> None:
    one = contenders["one"]
    _, again = compare_paired([one, replace(one, name="again")], runs=300)[0]
    assert again.against is not None
    assert (again.against.value, again.against.significant, again.against.p_value, again.p95_gap_s) == (0.0, False, 1.0, 0.0)
    assert "no difference" in verdict(again, "one")


def test_more_gpus_are_faster_and_the_other_way_round_slower(contenders: dict[str, Contender]) -> None:
    one, two = contenders["one"], contenders["two"]
    gap = compare_paired([one, two], runs=300)[0][1].against
    back = compare_paired([two, one], runs=300)[0][1].against
    assert gap is not None
    assert back is not None
    assert gap.value < 0
    assert gap.significant
    assert gap.p_value < 0.01
    assert back.value == pytest.approx(-gap.value)
    assert back.half_width == pytest.approx(gap.half_width)


def test_pairing_is_sharper_than_two_means(contenders: dict[str, Contender]) -> None:
    base, other = compare_paired(list(contenders.values()), runs=400)[0]
    assert other.against is not None
    assert other.against.half_width < np.hypot(base.measured.latency.half_width, other.measured.latency.half_width)


def test_a_plan_that_does_not_keep_up_is_said_and_not_compared(contenders: dict[str, Contender]) -> None:
    far = [replace(c, loads=(replace(c.loads[0], arrivals=Arrivals(rate_per_s=6.0)),)) for c in contenders.values()]
    _, short = compare_paired(far, runs=300)[0]
    assert not short.shown
    assert "do not show that both keep up" in verdict(short, "one")
    base, other = compare_paired(far[::-1], runs=3000)[0]
    assert base.measured.verdict == "unstable"
    assert other.against is None
    assert "two does not keep up" in verdict(other, "two")


def test_alarms_without_a_difference_are_as_rare_as_the_interval_says() -> None:
    rng = np.random.default_rng(5)
    alarms, small = 0, 0
    for _ in range(400):
        common = rng.exponential(1.0, 400)
        found = compared(common + rng.normal(0, 0.1, 400), common + rng.normal(0, 0.1, 400))
        alarms += found.significant
        small += found.p_value < 0.05
    assert alarms == small, "the p-value is the interval read the other way round"
    assert alarms <= 0.08 * 400


def test_plans_for_other_questions_are_refused(contenders: dict[str, Contender]) -> None:
    one = contenders["one"]
    faster = replace(one, name="fast", loads=(replace(one.loads[0], arrivals=Arrivals(rate_per_s=0.7)),))
    with pytest.raises(InputError, match=r"one is for 0\.5 runs/s of chat, fast for 0\.7: give --rate"):
        compare_paired([one, faster], runs=100)
    less = msgspec.structs.replace(one.loads[0].trace, runs=one.loads[0].trace.runs[:-1])
    with pytest.raises(InputError, match="different traces of chat"):
        compare_paired([one, replace(one, name="less", loads=(replace(one.loads[0], trace=less),))], runs=100)
    renamed = [msgspec.structs.replace(run, workflow="talk") for run in one.loads[0].trace.runs]
    talk = msgspec.structs.replace(one.loads[0].trace, runs=tuple(renamed))
    with pytest.raises(InputError, match="must be for the same workflows"):
        compare_paired([one, replace(one, name="t", loads=(replace(one.loads[0], trace=talk),))], runs=100)


@pytest.fixture(scope="module")
def _files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("paired"))
        for line in (
            "trace generate chat -n 20 -o chat.jsonl",
            "plan -t chat.jsonl --rate 0.5 --gpus 1 -o one.plan.yaml",
            "plan -t chat.jsonl --rate 0.5 --gpus 2 --pin llama-3.1-8b=2:100:1 -o two.plan.yaml",
        ):
            assert CliRunner().invoke(app, line.split()).exit_code == 0, line
        yield


@pytest.mark.usefixtures("_files")
def test_on_the_command_line() -> None:
    words = ["compare", "one.plan.yaml", "two.plan.yaml", "--runs", "3000"]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.stderr
    assert "chat: two is" in said.stdout
    assert "faster than one (p < 0.001)" in said.stdout
    document = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert document["plans"][1]["allocations"]["llama-3.1-8b"]["tensor_parallel"] == 2
    first, second = document["rows"]
    assert first["difference_s"] is None
    assert second["difference_s"] == pytest.approx(second["latency_mean_s"] - first["latency_mean_s"], rel=0.1)
    assert second["significant"] is True
    for wrong in ("--measure", "--load 0.5", "--seed 1 --seed 2"):
        refused = CliRunner().invoke(app, [*words, *wrong.split()])
        assert (refused.exit_code, "only --rate, --runs, one --seed" in refused.stderr) == (2, True)
    alone = CliRunner().invoke(app, ["compare", "one.plan.yaml", "--rate", "1"])
    assert (alone.exit_code, "--rate goes with several plans" in alone.stderr) == (2, True)


@pytest.mark.usefixtures("_files")
def test_pins_and_exclusions_are_in_the_plan() -> None:
    assert "pinned, not searched: llama-3.1-8b at TP 2" in Path("two.plan.yaml").read_text()
    for words, told in (
        ("--exclude n9", "must be a node or GPU type (A100-80G, n0)"),
        ("--exclude n0", "nothing is left of cluster"),
        ("--pin llama-3.1-8b=2", "must be LLM=TP:SHARE:REPLICAS"),
        ("--pin llama-3.1-8b=2:100:1 --planner equal", "go with the exact planner"),
    ):
        found = CliRunner().invoke(app, ["plan", "-t", "chat.jsonl", "--rate", "0.5", "--gpus", "2", *words.split()])
        assert (found.exit_code, told in found.stderr) == (2, True), found.stderr
