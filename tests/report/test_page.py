"""The page stands alone and says what it was given; pictures are the same bytes each time."""

import re
import warnings
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scepsy.cluster import Gpu
from scepsy.plans import Allocation, Instance, Plan
from scepsy.profile.catalogue import cluster_preset
from scepsy.report.figures import gpu_map, heat_map, latency_vs_rate, prediction_error
from scepsy.report.page import Picture, Section, Table, Verdict, cell, inline, svg, with_width, write_page
from scepsy.report.style import log_ticks

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
    assert "1.23" in html
    assert "a &lt; b" in html
    assert [file.name for file in files] == ["page.html", "map.svg"]
    assert "<svg" in (tmp_path / "map.svg").read_text()
    assert "<svg" in html
    assert "<img" not in html
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
    assert svg(draw()) == svg(draw())


def test_a_drawing_follows_the_theme_and_the_width_of_the_page() -> None:
    drawing = svg(latency_vs_rate(FRAME, "w"))
    shown = inline(drawing, 'a "picture"')
    assert "#000000" not in shown
    assert "currentColor" in shown
    assert 'aria-label="a &quot;picture&quot;"' in shown
    head = shown[: shown.index(">")]
    assert " height=" not in head
    assert "width:100%" in head
    assert "<text" in shown, "text stays text"


def test_the_verdict_stands_on_top(tmp_path: Path) -> None:
    write_page(tmp_path / "p.html", "T", "the lead text", [], [("Assumed", ("one", "two"))], Verdict(False, "It fails."))
    html = (tmp_path / "p.html").read_text()
    assert html.index("It fails.") < html.index("the lead text")
    assert 'class="verdict bad"' in html
    assert html.count("<li>") == 2


@pytest.mark.parametrize("count", [1, 2])
def test_latency_has_readable_ticks_and_every_curve_its_name_outside_the_plot(count: int) -> None:
    planners = ["exact", "equal"][:count]
    frame = FRAME[FRAME["planner"].isin(planners)].assign(latency_p95_s=lambda d: 1.5 * d["latency_mean_s"])
    axes = latency_vs_rate(frame, "w", target_per_s=2.0, limits_s={"p95": 3.0}).axes[0]
    low, high = axes.get_ylim()
    assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 3
    named = {text.get_text(): text for text in axes.texts}
    wanted = {"mean, simulated", "95th percentile, simulated", "mean, predicted"} if count == 1 else {"exact", "equal"}
    assert {*wanted, "limit of the p95", "target"} == set(named)
    heights = sorted(named[name].xy[1] for name in {*wanted, "limit of the p95"})  # type: ignore[attr-defined]
    assert min(b - a for a, b in pairwise(heights)) > 0.05


@given(low=st.floats(1e-4, 1e4), factor=st.floats(1, 1e5))
def test_a_log_axis_has_three_to_a_dozen_labels(low: float, factor: float) -> None:
    ticks = log_ticks([low, low * factor])
    assert 3 <= len(ticks) <= 13
    assert ticks == sorted(set(ticks))
    assert ticks[0] <= low * 1.001


def test_an_empty_comparison_is_drawn_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plt.close(prediction_error(pd.DataFrame({"planner": [], "workflow": [], "load": [], "ratio": []})))
        plt.close(latency_vs_rate(FRAME[:0].assign(latency_p95_s=[]), "w"))


def test_widths_decide_the_digits() -> None:
    assert with_width(1.23456, 0.0123) == "1.235 ± 0.012"
    assert with_width(1234.5, 120.0) == "1234 ± 120"
    assert with_width(float("nan"), 1.0) == "–"


def test_gpu_map_draws_one_box_per_instance_and_gpu() -> None:
    axes = gpu_map(PLAN).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("#0 40%") == 1
    assert texts.count("#1 40%") == 1
    assert texts.count("#0 100% TP4") == 4
    assert sum(bool(re.match(r"GPU \d", text)) for text in texts) == 16


def test_cells() -> None:
    assert [cell(value) for value in (True, float("nan"), 0.000123456, "x")] == ["yes", "–", "0.000123", "x"]
