"""``frontier``, ``admit`` and ``changes`` as a user runs them: what they print says the same as the plans do."""

import csv
import json
import re
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
    for point, name in zip(found["points"], ("small", "large"), strict=False):
        plan = load_plan(f"{name}.plan.yaml")
        # The bound is on the sum over LLMs that the search minimises; a plan's own latency is its critical path's.
        assert point["latency_s"] <= plan.objective_s * (1 + 1e-12)
        assert point["planned_latency_s"] == pytest.approx(plan.expected[0].latency_s, rel=1e-12)
        assert point["rate_factor"] >= 1


def test_the_frontier_says_where_a_rate_cannot_be_met() -> None:
    factor = document(f"frontier {CHAT} --gpus 2")["points"][0]["rate_factor"]
    rate = 0.5 * factor * 1.2
    first, second = document(f"frontier -t chat.jsonl --rate {rate} --gpus 2")["points"]
    assert first["latency_s"] is None
    assert first["rate_factor"] == pytest.approx(1 / 1.2, rel=1e-6)
    assert second["latency_s"] > 0
    code, out, _ = run(f"frontier -t chat.jsonl --rate {rate} --gpus 2")
    assert (code, "not met" in out, "at most chat" in out, "runs/s" in out) == (0, True, True, True)  # headings may wrap


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


def test_the_frontier_over_gpu_types_says_the_same_as_json_csv_and_plans(tmp_path: Path) -> None:
    line = f"frontier {CHAT} --gpus 2 --gpu-type A100-80G --gpu-type H100-80G"
    points = document(line)["points"]
    assert [(p["gpu_type"], p["gpus"]) for p in points] == [("A100-80G", 1), ("A100-80G", 2), ("H100-80G", 1), ("H100-80G", 2)]
    for gpus in (1, 2):
        predicted = document(f"plan {CHAT} --gpus {gpus} --judge none")
        assert points[gpus - 1]["planned_latency_s"] == predicted["latency_s"]
    code, out, _ = run(f"{line} --csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert code == 0
    assert [float(row["planned_latency_s"]) for row in rows] == [p["planned_latency_s"] for p in points]
    assert [row["pareto"] == "True" for row in rows] == [p["pareto"] for p in points]
    picture = tmp_path / "cost.svg"
    code, out, _ = run(f"{line} --picture {picture}")
    assert code == 0
    assert "<svg" in picture.read_text()
    assert "RunPod" in out, "prices come with their source"


def test_own_prices_reach_the_plan_and_its_cost(tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("format: scepsy.prices\nversion: 1\nprices: [{gpu_type: A100-80G, usd_per_hour: 1.5, source: ours}]\n")
    plan = tmp_path / "priced.plan.yaml"
    cost = document(f"plan {CHAT} --gpus 2 --prices {prices} -o {plan}")["cost"]
    assert cost["usd_per_hour"] == pytest.approx(1.5 * cost["gpus"])
    assert cost["prices"][0]["source"] == "ours"
    assert load_plan(plan).cluster.gpu_types[0].price == "ours"
    point = document(f"frontier {CHAT} --gpus 1 --prices {prices}")["points"][0]
    assert point["usd_per_hour"] == 1.5


def test_the_cheapest_plan_says_what_the_next_cheaper_one_misses() -> None:
    latency = load_plan("large.plan.yaml").expected[0].latency_s
    slower = load_plan("small.plan.yaml").expected[0].latency_s
    assert latency < slower
    limit = (latency + slower) / 2
    found = document(f"plan {CHAT} --gpus 2 --goal cost --max-latency {limit}")
    assert found["cost"]["gpus"] == 2
    assert found["next_cheaper"]["gpus"] == {"A100-80G": 1}
    assert f"latency limit {limit:.4g} s cannot be met" in found["next_cheaper"]["misses"]
    code, out, _ = run(f"plan {CHAT} --gpus 1 --goal cost --max-latency 100")
    assert code == 0
    assert "Nothing is cheaper" in out


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"frontier {CHAT} --gpu-type A100-80G --gpu-type L4", "give --gpus N too"),
        (f"frontier {CHAT} --gpus 1 --picture cost.gif", "must end in .svg, .png or .pdf"),
        (f"frontier {CHAT} --gpus 1 --picture nowhere/cost.svg", "cannot be written"),
        (f"frontier {CHAT} --gpus 1 --prices absent.yaml", "absent.yaml"),
    ],
)
def test_what_the_frontier_refuses(line: str, told: str) -> None:
    code, _, err = run(line)
    assert code == 2
    assert told in err
    assert len(err.strip().splitlines()) == 1


def test_a_rate_that_is_named_as_possible_is_admitted() -> None:
    most = 0.5 * document(f"frontier {CHAT} --gpus 1")["points"][0]["rate_factor"]
    rate = 0.7 * most
    pair = f"-t chat.jsonl --rate {rate} -t talk.jsonl --gpus 1"
    second = document(f"admit {pair} --rate {rate}", code=3)["workflows"][1]
    named = re.search(r"it can at ([0-9.e-]+)/s", second["message"])
    assert named
    for possible in (second["possible_rate_per_s"], named[1]):
        assert all(one["served"] for one in document(f"admit {pair} --rate {possible}")["workflows"])


def test_predict_says_what_the_plan_says_whatever_seed_and_share_unit_it_was_made_with() -> None:
    said = document(f"plan {CHAT} --gpus 1 --seed 3 --share-unit 25 -o other.plan.yaml")
    told = document("predict other.plan.yaml")
    assert told["latency_s"]["mean"] == said["latency_s"]
    assert told["throughput_per_s"] == said["throughput_per_s"]
    assert told["predictor"] == said["predictor"]
