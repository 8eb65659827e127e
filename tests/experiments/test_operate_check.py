"""The check of the controller: loads that change as they say, and numbers by hand."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.checks.operate.markdown import RESULTS, detection, table
from experiments.checks.operate.measuring import Runs, gpu_seconds, timeline
from experiments.checks.operate.scenarios import (
    BRANCH_LLM,
    NEW_LLM,
    REPLACED_LLM,
    azure_arrivals,
    branching,
    replaced,
    scenarios,
)
from experiments.points.variants import drift
from scepsy.api.inputs import generate_trace
from scepsy.arrivals import issue
from scepsy.cluster import Gpu
from scepsy.workload import Run

USUAL = generate_trace("reflection", runs=200, seed=1)
A, B = Gpu(node="n0", index=0), Gpu(node="n0", index=1)


def called(run: Run) -> set[str]:
    return {call.llm for call in run.calls}


def test_loads_change_as_they_say() -> None:
    tokens = sum(call.output_tokens for run in USUAL.runs for call in run.calls)
    assert sum(c.output_tokens for run in drift(USUAL, 3.0).runs for c in run.calls) == pytest.approx(3 * tokens)
    for part in (0.05, 0.6):
        assert sum(BRANCH_LLM in called(run) for run in branching(USUAL, part).runs) == 200 * part
    for part in (0.05, 0.95):
        trace = replaced(USUAL, part)
        assert sum(NEW_LLM in called(run) for run in trace.runs) == 200 * part
        assert sum(REPLACED_LLM in called(run) for run in trace.runs) == 200 - 200 * part
        assert [len(run.calls) for run in trace.runs] == [len(run.calls) for run in USUAL.runs]


def test_arrivals_have_the_rates_of_the_parts() -> None:
    for scenario in scenarios(300.0, 600.0, None):
        times = np.array([at for at, _, _ in issue(scenario.workload(0))])
        assert times[-1] <= scenario.horizon_s
        for begin, part in zip([0.0, *scenario.changes_s], scenario.parts, strict=True):
            count = ((times >= begin) & (times < begin + part.duration_s)).sum()
            wanted = part.rate_per_s * part.duration_s
            assert abs(count - wanted) < 4 * math.sqrt(wanted), scenario.name


def test_recorded_arrivals_come_when_they_did_twice_as_fast(tmp_path: Path) -> None:
    path = tmp_path / "conv.csv"
    lines = [f"2023-11-16 18:{n // 60:02d}:{n % 60:02d}.0000000,10,10" for n in range(1200)]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]), encoding="utf-8")
    scenario = azure_arrivals(path, USUAL)
    times = [at for at, _, _ in issue(scenario.workload(0))]
    assert len(times) == 1200, "1 a second, twice as fast, is less than what it is thinned to"
    assert np.diff(times) == pytest.approx(0.5)
    assert scenario.parts[0].rate_per_s == pytest.approx(2.0)


def test_numbers_by_hand() -> None:
    runs = Runs(np.array([0.0, 10.0, 30.0]), np.array([4.0, 20.0, 70.0]), np.array([True, True, False]))
    whole = runs.numbers()
    assert whole["mean_s"] == pytest.approx(94 / 3)
    assert (whole["runs"], whole["unfinished"]) == (3, 1)
    assert whole["within_limit_pct"] == pytest.approx(100 / 3)
    assert runs.within([(5.0, 31.0)]).numbers()["mean_s"] == pytest.approx(45)
    held = {A: [(0.0, 10.0), (5.0, 20.0)], B: [(30.0, 50.0)]}
    assert gpu_seconds(held, [(0.0, 100.0)]) == pytest.approx(40.0)
    assert gpu_seconds(held, [(8.0, 12.0), (40.0, 45.0)]) == pytest.approx(9.0)
    bins = timeline(runs, held, 45.0)
    assert [(each["begin_s"], each["runs"]) for each in bins] == [(0.0, 2), (20.0, 1), (40.0, 0)]
    assert [each["gpus"] for each in bins] == pytest.approx([1.0, 0.5, 1.0])


def test_the_page_has_the_committed_tables() -> None:
    page = (RESULTS.parents[1] / "docs" / "operate-results.md").read_text(encoding="utf-8")
    assert table(pd.read_csv(RESULTS / "operate.csv")) in page
    assert detection(pd.read_csv(RESULTS / "drift_detection.csv")) in page
