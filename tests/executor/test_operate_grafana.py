"""Grafana's dashboard of what operates: it shows what is exported, all of it, and Grafana is told where it lies."""

import json
import re

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from executor.operate.grafana import SOURCE, bundle
from executor.operate.page import metrics, snapshot
from tests.executor.operating import Clock, DiskTarget, look_until, operator, write_recording


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> dict[str, set[str]]:
    """Sample name → its labels, of a controller that has switched."""
    folder, clock = tmp_path_factory.mktemp("one"), Clock()
    end = write_recording(folder / "calls.jsonl", [(600.0, 2.0), (300.0, 6.0)])
    one = operator(folder, DiskTarget(folder), clock)
    one.start()
    look_until(one, clock, end)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics(snapshot(one))):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.fixture
def board(tmp_path) -> dict:
    return json.loads(bundle(tmp_path, 9464)["dashboards/operate.json"])


def expressions(board: dict) -> list[tuple[str, str]]:
    return [(target["expr"], target["legendFormat"]) for panel in board["panels"] for target in panel["targets"]]


def test_every_metric_on_the_dashboard_is_exported_and_the_other_way_round(board, exported) -> None:
    shown = {name for expr, _ in expressions(board) for name in re.findall(r"scepsy_\w+", expr)}
    shown |= {name for variable in board["templating"]["list"] for name in re.findall(r"scepsy_\w+", str(variable["query"]))}
    assert shown == set(exported)


def test_every_label_that_the_dashboard_asks_for_is_exported(board, exported) -> None:
    for expr, legend in expressions(board):
        [metric] = re.findall(r"scepsy_\w+", expr)
        inside, _, rest = expr.partition("{")[2].partition("}")
        asked = set(re.findall(r"(\w+)=", inside)) - {"job"}
        asked |= {label for group in re.findall(r"by \(([^)]*)\)", expr) for label in group.split(", ")}
        asked |= set(re.findall(r"{{(\w+)}}", legend))
        assert asked <= exported[metric], (expr, rest)


def test_panels_have_numbers_of_their_own_and_do_not_overlap(board) -> None:
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    cells: list[tuple[int, int]] = []
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells += [(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
    assert len(set(cells)) == len(cells)


def test_grafana_and_prometheus_are_told_where_everything_is(tmp_path) -> None:
    made = {name: yaml.safe_load(text) for name, text in bundle(tmp_path / "g", 9465).items()}
    [provider] = made["provisioning/dashboards/scepsy.yaml"]["providers"]
    assert provider["options"]["path"] == str(tmp_path / "g" / "dashboards")
    [source] = made["provisioning/datasources/scepsy.yaml"]["datasources"]
    assert (source["type"], source["uid"]) == ("prometheus", SOURCE)
    [scrape] = made["prometheus.yml"]["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["127.0.0.1:9465"]}]
