"""The page of a plan: what it says is what was simulated, and the sweep goes through the knee."""

import re
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

import scepsy
from scepsy.api import plan_page
from scepsy.api.inputs import profiles_of
from scepsy.api.plan_page import factors_of, in_flight, sweep_plan, verdict_of, write_plan_page
from scepsy.api.prepare import Load, prepare
from scepsy.search.goals import at_factor
from scepsy.slo import Limits, Slo, WorkflowSlo
from scepsy.workload import Arrivals

RATE_PER_S = 0.5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, pd.DataFrame]:
    trace = scepsy.generate_trace("chat", runs=20, seed=1)
    plan = scepsy.plan(trace, rate_per_s=RATE_PER_S, cluster=1)
    load = Load(trace=trace, arrivals=Arrivals(rate_per_s=RATE_PER_S))
    problem = prepare([load], plan.cluster, profiles_of(trace.llms, plan.cluster))
    factors = factors_of(plan, problem)
    assert factors == tuple(sorted(factors))
    assert 1.0 in factors
    assert factors[-1] * RATE_PER_S > plan.expected[0].throughput_per_s, "beyond the highest rate"
    frame = sweep_plan(plan, [load], lambda factor: at_factor(problem, factor), runs=60, seed=0)
    path = tmp_path_factory.mktemp("page") / "chat.html"
    files = write_plan_page(path, plan, [load], frame, problem, seed=0)
    assert [file.suffix for file in files] == [".html", ".svg", ".svg", ".svg", ".svg"]
    return path.read_text(), frame


def test_it_says_what_was_simulated_what_it_costs_and_what_is_assumed(made: tuple[str, pd.DataFrame]) -> None:
    html, frame = made
    row = frame[(frame["factor"] == 1.0) & (frame["source"] == "simulated")].iloc[0]
    assert f"{row['latency_mean_s']:.3g} s in the mean" in html
    assert "$2.45 per hour" in html
    for word in ("TTFT mean ms", "KV cache, tokens", "longest calls it holds", "Energy: an estimate", "RunPod", "Assumed"):
        assert word in html, word
    assert html.index("per hour") < html.index("<h2")
    assert html.index("What to expect") < html.index("Assumed")


def test_numbers_carry_no_noise(made: tuple[str, pd.DataFrame]) -> None:
    html = re.sub(r"<svg.*?</svg>", "", made[0], flags=re.DOTALL)
    cells = re.findall(r'<td class="n">([^<]*)</td>', html)
    assert cells
    assert not [text for text in cells if re.search(r"\\.\\d{5,}", text)]


def test_objectives_stand_on_top_and_in_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_page, "factors_of", lambda plan, problem: (1.0,))
    trace = scepsy.generate_trace("chat", runs=20, seed=1)
    plan = scepsy.plan(trace, rate_per_s=RATE_PER_S, cluster=1)
    load = Load(trace=trace, arrivals=Arrivals(rate_per_s=RATE_PER_S))
    problem = prepare([load], plan.cluster, profiles_of(trace.llms, plan.cluster))
    frame = sweep_plan(plan, [load], lambda factor: at_factor(problem, factor), runs=3000, seed=0)
    for limit_s, look, told in ((1000.0, "good", "The SLO is kept"), (0.01, "bad", "The SLO is not kept")):
        slo = Slo(workflows={"*": WorkflowSlo(latency_s=Limits(p95=limit_s))})
        write_plan_page(tmp_path / "p.html", msgspec.structs.replace(plan, slo=slo), [load], frame, problem, seed=0)
        html = (tmp_path / "p.html").read_text()
        assert told in html
        assert f'class="verdict {look}"' in html
        assert "limit of the p95" in html
        assert "oodput" in html


def rows(**of: object) -> pd.DataFrame:
    base = {"workflow": "w", "source": "simulated", "latency_mean_s": 1.0, "latency_p95_s": 2.0, "rate_per_s": 3.0,
            "issued": 10, "completed": 10, "verdict": "stable"}  # fmt: skip
    return pd.DataFrame([base | of])


@pytest.mark.parametrize(
    ("of", "good", "told"),
    [
        ({}, True, "keeps up in simulation: w takes 1 s in the mean and 2 s at the 95th percentile, at 3 runs/s"),
        ({"verdict": "unstable"}, False, "does not keep up with its target rates: w falls behind"),
        ({"completed": 8}, False, "2 did not complete"),
        ({"verdict": "undecided"}, None, "is not shown for w"),
    ],
)
def test_the_verdict_is_one_sentence(of: dict[str, object], good: bool | None, told: str) -> None:
    found = verdict_of(rows(**of))
    assert found.good is good
    assert told in found.sentence
    assert found.sentence.count(". ") == 0


def test_instances_come_in_the_order_they_are_named() -> None:
    trace = scepsy.generate_trace("chat", runs=5, seed=1)
    plan = scepsy.plan(trace, rate_per_s=0.2, cluster=1)
    records = scepsy.simulate(plan, trace, runs=5)
    names = [*(f"x-{n}" for n in range(12)), plan.instances[0].name]
    table = in_flight(records, names)
    assert list(dict.fromkeys(table["name"])) == names
    assert np.isfinite(table["calls"]).all()
