"""``frontier``, ``admit`` and ``changes`` as a user runs them: what they print says the same as the plans do."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from scepsy.cli import app
from scepsy.files.plan import load_plan

CHAT = "-t chat.jsonl --rate 0.5"


def run(line: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, line.split())
    return result.exit_code, result.stdout, result.stderr


def document(line: str, code: int = 0) -> Any:
    found, out, err = run(f"{line} --json")
    assert found == code, err
    return json.loads(out)


@pytest.fixture(scope="module", autouse=True)
def _case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("advice"))
        assert run("trace generate chat -n 20 -o chat.jsonl")[0] == 0
        # The same calls under another name: two workflows, one LLM to profile.
        Path("talk.jsonl").write_text(Path("chat.jsonl").read_text().replace('"workflow":"chat"', '"workflow":"talk"'))
        assert run(f"plan {CHAT} --gpus 1 -o small.plan.yaml")[0] == 0
        assert run(f"plan {CHAT} --gpus 2 -o large.plan.yaml")[0] == 0
        yield


def test_more_gpus_are_never_slower_and_no_plan_is_faster_than_the_frontier() -> None:
    found = document(f"frontier {CHAT} --gpus 3")
    assert found["targets"] == {"chat": 0.5}
    assert [point["gpus"] for point in found["points"]] == [1, 2, 3]
    latencies, factors = ([point[name] for point in found["points"]] for name in ("latency_s", "rate_factor"))
    assert latencies == sorted(latencies, reverse=True)
    assert factors == sorted(factors)
    for gpus, name in ((1, "small"), (2, "large")):
        planned = load_plan(f"{name}.plan.yaml").expected[0]
        # The frontier interpolates curves at its own points: equal to the plan's expectation but for that.
        assert latencies[gpus - 1] <= planned.latency_s * (1 + 1e-4)
        assert factors[gpus - 1] >= 1


def test_the_frontier_says_where_a_rate_cannot_be_met() -> None:
    factor = document(f"frontier {CHAT} --gpus 2")["points"][0]["rate_factor"]
    rate = 0.5 * factor * 1.2
    first, second = document(f"frontier -t chat.jsonl --rate {rate} --gpus 2")["points"]
    assert first["latency_s"] is None
    assert first["rate_factor"] == pytest.approx(1 / 1.2, rel=1e-6)
    assert second["latency_s"] > 0
    code, out, _ = run(f"frontier -t chat.jsonl --rate {rate} --gpus 2")
    assert (code, "not met" in out, "chat runs/s" in out) == (0, True, True)


def test_workflows_are_admitted_in_the_order_given() -> None:
    most = 0.5 * document(f"frontier {CHAT} --gpus 1")["points"][0]["rate_factor"]
    rate = 0.7 * most
    first, second = document(f"admit -t chat.jsonl --rate {rate} -t talk.jsonl --rate {rate} --gpus 1", code=3)["workflows"]
    assert (first["workflow"], first["served"], first["more_gpus"]) == ("chat", True, 0)
    assert first["possible_rate_per_s"] == first["rate_per_s"] == rate
    assert (second["workflow"], second["served"]) == ("talk", False)
    assert 0 < second["possible_rate_per_s"] < rate
    assert second["more_gpus"] == 1, "1.4 times what one GPU carries needs two"
    enough = document(f"admit -t chat.jsonl --rate {rate} -t talk.jsonl --rate {rate} --gpus {1 + second['more_gpus']}")
    assert all(one["served"] for one in enough["workflows"])
    code, out, _ = run(f"admit -t chat.jsonl --rate {rate} -t talk.jsonl --rate {rate} --gpus 1")
    assert (code, out.splitlines()) == (3, [first["message"], second["message"]])


def test_a_change_keeps_starts_and_stops_every_instance_once() -> None:
    old, new = ({instance.name for instance in load_plan(f"{name}.plan.yaml").instances} for name in ("small", "large"))
    found = document("changes small.plan.yaml large.plan.yaml")
    assert sorted(found["kept"] + found["stopped"]) == sorted(old)
    assert sorted(found["kept"] + found["started"]) == sorted(new)
    assert found["started"]
    assert 0 < found["cold_start_s"] <= found["cold_start_gpu_s"]
    assert found["latency_after_s"]["chat"] < found["latency_before_s"]["chat"]
    code, out, _ = run("changes small.plan.yaml large.plan.yaml")
    assert (code, all(name in out for name in old | new)) == (0, True)


def test_a_change_to_the_same_plan_costs_nothing() -> None:
    found = document("changes large.plan.yaml large.plan.yaml")
    assert (found["started"], found["stopped"], found["cold_start_s"], found["cold_start_gpu_s"]) == ([], [], 0, 0)
    assert run("changes large.plan.yaml large.plan.yaml")[1].startswith("nothing to start or stop")
