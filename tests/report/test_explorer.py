"""The interactive page: its data are the planner's own plans, and in a real browser the sliders move everything."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import scepsy
from scepsy.api.explore import Explored, explore
from scepsy.api.inputs import profiles_of
from scepsy.api.prepare import Load, prepare
from scepsy.cli.explore import counts_of
from scepsy.profile.catalogue import cluster_of
from scepsy.report.explorer import write_explorer
from scepsy.search.goals import at_factor, least_latency
from scepsy.search.offers import side_by_side
from scepsy.search.problem import Problem
from scepsy.workload import Arrivals
from tests.report.browser import PROGRAM, browser

RATE_PER_S = 2.0
FACTORS = (0.5, 1.0, 2.0, 40.0)
TYPES = ("A100-80G", "H100-80G")

needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on the PATH (or in $CHROMIUM)")


@pytest.fixture(scope="module")
def made() -> tuple[Problem, Explored]:
    trace = scepsy.generate_trace("chat", runs=20, seed=1)
    clusters = [[cluster_of(count, name) for count in (1, 2)] for name in TYPES]
    both = side_by_side([row[-1] for row in clusters])
    load = Load(trace=trace, arrivals=Arrivals(rate_per_s=RATE_PER_S))
    problem = prepare([load], both, profiles_of(trace.llms, both))
    return problem, explore(problem, clusters, FACTORS)


@pytest.fixture(scope="module")
def page(made: tuple[Problem, Explored], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    write_explorer(path, made[1], title="What if: </script><b>chat</b>", notes=["a note"], start={"rate": 1, "limit": 30.0})
    return path


def test_every_position_is_the_plan_that_the_planner_makes(made: tuple[Problem, Explored]) -> None:
    problem, found = made
    assert [kind["name"] for kind in found.types] == list(TYPES)
    for name in TYPES:
        for count in (1, 2):
            numbers = found.chosen[name][str(count)]
            assert numbers[-1] is None, "forty times the rate is beyond two GPUs"
            for factor, number in zip(FACTORS[:3], numbers, strict=False):
                if number is None:
                    continue
                asked = at_factor(replace(problem, cluster=cluster_of(count, name)), factor)
                plan = least_latency(asked)
                shown = found.plans[number]
                assert shown["gpus"] == len(plan.gpu_shares) <= count
                assert [row[1:] for row in shown["allocations"]] == [
                    [a.tensor_parallel, a.share_pct, a.replicas] for a in plan.allocations
                ]
                here = shown["latency_s"][0]["mean"][FACTORS.index(factor)]
                assert here == pytest.approx(plan.expected[0].latency_s, abs=1e-3)
                assert here < shown["latency_s"][0]["p95"][FACTORS.index(factor)]
    for plan in found.plans:
        values = [value for value in plan["latency_s"][0]["mean"] if value is not None]
        assert values == sorted(values), "never faster under more load"
        used: dict[int, int] = {}
        for gpu, _, share, _, _ in plan["boxes"]:
            used[gpu] = used.get(gpu, 0) + share
        assert max(used.values()) <= 100


def test_the_page_stands_alone_and_carries_the_licence(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    assert "Permission is hereby granted" in text
    assert "<b>chat</b>" not in text
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', text, flags=re.DOTALL)[1])  # type: ignore[index]
    assert data["factors"] == list(FACTORS)


def test_counts_reach_from_one_to_all() -> None:
    for gpus in (1, 5, 12, 13, 100):
        found = counts_of(gpus)
        assert found[0] == 1
        assert found[-1] == gpus
        assert found == sorted(set(found))
        assert len(found) <= 12


MOVE = """((id, value, event) => {{
  const e = document.getElementById(id);
  e.value = value;
  e.dispatchEvent(new Event(event));
}})({id!r}, {value!r}, {event!r})"""


def move(name: str, value: object, event: str = "input") -> str:
    return MOVE.format(id=name, value=str(value), event=event)


TEXT = "document.getElementById({!r}).textContent"


@needs_browser
async def test_in_a_browser_the_sliders_move_everything(made: tuple[Problem, Explored], page: Path) -> None:
    found = made[1]
    async with browser() as tab:
        await tab.width(1400)
        await tab.open(page.as_uri())

        async def shown() -> dict[str, Any]:
            return {name: await tab.ask(TEXT.format(name)) for name in ("verdict", "facts", "cheapest", "allocation")}

        assert await tab.ask(TEXT.format("rate-out")) == "chat 2/s"
        assert await tab.ask("document.querySelectorAll('#map .gpu').length") == 2
        assert await tab.ask("document.querySelectorAll('.chart canvas').length") == 2
        first = await shown()
        mean = found.plans[found.chosen["A100-80G"]["2"][1] or 0]["latency_s"][0]["mean"][1]
        assert f"{mean:.3g} s" in first["verdict"]
        assert "$4.90" in first["facts"]
        await tab.ask(move("gpus", 0))
        assert await tab.ask("document.querySelectorAll('#map .gpu').length") == 1
        assert "$2.45" in (await shown())["facts"]
        await tab.ask(move("type", "H100-80G", "change"))
        second = await shown()
        assert "$4.76" in second["facts"]
        assert second["verdict"] != first["verdict"]
        await tab.ask(move("limit", 0))
        assert "Misses the SLO" in (await shown())["verdict"]
        assert "Nothing on this page keeps the SLO" in (await shown())["cheapest"]
        await tab.ask(move("limit", 100))
        assert "Keeps the SLO" in (await shown())["verdict"]
        await tab.ask("document.querySelector('#cheapest button').click()")
        assert "$2.45" in (await shown())["facts"], "the cheapest that keeps it"
        await tab.ask(move("rate", 3))
        assert "cannot carry chat 80/s" in (await shown())["verdict"]
        assert "gpus=1" in await tab.ask("location.hash")
        assert tab.problems == []


@needs_browser
async def test_on_a_phone_in_the_dark_and_on_paper(page: Path) -> None:
    async with browser() as tab:
        await tab.width(390)
        await tab.open(page.as_uri() + "#type=H100-80G&gpus=2&rate=0&limit=5&stat=p95")
        assert await tab.ask("document.getElementById('stat').value") == "p95", "the address holds the position"
        assert await tab.ask("document.documentElement.scrollWidth") <= 390
        light = await tab.ask("getComputedStyle(document.body).backgroundColor")
        await tab.media(scheme="dark")
        dark = await tab.ask("getComputedStyle(document.body).backgroundColor")
        assert (light, dark) == ("rgb(255, 255, 255)", "rgb(22, 24, 28)")
        await tab.media("print", "dark")
        assert await tab.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert await tab.ask("getComputedStyle(document.getElementById('rate')).display") == "none"
        assert await tab.ask("getComputedStyle(document.getElementById('type')).display") != "none", "the choice is printed"
        paper = await tab.call("Page.printToPDF", printBackground=True)
        assert len(paper["data"]) > 5000
        assert tab.problems == []
