"""The page stands alone and says what it was given; pictures are the same bytes each time."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from scepsy.cluster import Gpu
from scepsy.plans import Allocation, Instance, Plan
from scepsy.profile.catalogue import cluster_preset
from scepsy.report.figures import gpu_map, heat_map, latency_vs_rate
from scepsy.report.page import Picture, Section, Table, cell, png, write_page

CLUSTER = cluster_preset("4x4-a100")
PLAN = Plan(
    planner="by hand",
    cluster=CLUSTER,
    targets=(),
    allocations=(
        Allocation(llm="a", share_pct=40, tensor_parallel=1, replicas=2, gpu_type="A100-80G"),
        Allocation(llm="b", share_pct=100, tensor_parallel=4, replicas=1, gpu_type="A100-80G"),
    ),
    instances=(
        Instance(llm="a", index=0, gpus=(Gpu(node="n0", index=0),), share_pct=40, memory_bytes=10**10),
        Instance(llm="a", index=1, gpus=(Gpu(node="n0", index=0),), share_pct=40, memory_bytes=10**10),
        Instance(llm="b", index=0, gpus=tuple(Gpu(node="n1", index=i) for i in range(4)), share_pct=100, memory_bytes=10**10),
    ),
)
FRAME = pd.DataFrame(
    [
        {
            "planner": planner,
            "workflow": "w",
            "rate_per_s": rate,
            "seed": 1,
            "source": source,
            "latency_mean_s": rate,
            "stable": rate < 3,
        }
        for planner in ("exact", "equal")
        for rate in (1.0, 2.0, 4.0)
        for source in ("predicted", "simulated")
    ]
)


class Outside(HTMLParser):
    """Collects everything a browser would fetch, and which tags stay open."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and value and not value.startswith(("data:", "#")):
                self.fetched.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_self_contained_and_escapes(tmp_path: Path) -> None:
    table = Table("numbers", ["name", "value"], [["<b>x</b>", 1.23456], ["none", None]])
    sections = [Section("One & two", ["a < b"], [table, Picture("map", "where", gpu_map(PLAN))])]
    files = write_page(tmp_path / "page.html", "Title", "lead", sections, [("Seed", "1")])
    html = (tmp_path / "page.html").read_text()
    parser = Outside()
    parser.feed(html)
    assert parser.fetched == []
    assert parser.open == []
    assert "<b>x</b>" not in html
    assert "1.235" in html
    assert "a &lt; b" in html
    assert [file.name for file in files] == ["page.html", "map.png"]
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: gpu_map(PLAN),
        lambda: latency_vs_rate(FRAME, "w"),
        lambda: heat_map(
            pd.DataFrame({"name": ["a", "a", "b"], "time_s": [0.0, 1.0, 0.0], "calls": [1, 2, 3]}), value="calls", title="t"
        ),
    ],
)
def test_pictures_are_the_same_bytes_each_time(draw) -> None:  # type: ignore[no-untyped-def]
    assert png(draw()) == png(draw())


def test_gpu_map_draws_one_box_per_instance_and_gpu() -> None:
    axes = gpu_map(PLAN).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("#0 40%") == 1
    assert texts.count("#1 40%") == 1
    assert texts.count("#0 100% TP4") == 4
    assert sum(bool(re.match(r"GPU \d", text)) for text in texts) == 16


def test_cells() -> None:
    assert [cell(value) for value in (True, float("nan"), 0.000123456, "x")] == ["yes", "–", "0.0001235", "x"]
