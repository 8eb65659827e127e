"""The check of what ``scepsy operate`` costs the gateway: what it calls added, and the deployment that it makes up."""

import numpy as np
import pytest

from executor.operate.target import LocalTarget
from experiments.checks.operate_load import _added, deployed


def test_what_is_added_is_the_median_of_differences_within_turns() -> None:
    """The machine gets slower from turn to turn, which is nobody's doing; one turn is disturbed."""
    turns = [np.full(10, base) for base in (1.0, 2.0, 3.0)]
    ways = {
        "direct": turns,
        "gateway": [part + 0.5 for part in turns],
        "operated": [turns[0] + 0.6, turns[1] + 9.0, turns[2] + 0.7],
    }
    found = _added(ways)
    assert found["added_p50_ms"] == pytest.approx(500.0)
    assert found["added_with_operate_p99_ms"] == pytest.approx(700.0)
    assert found["of_operate_p50_ms"] == pytest.approx(200.0)


def test_the_made_up_deployment_can_be_operated(tmp_path) -> None:
    plan_file = deployed(tmp_path, tmp_path / "calls.jsonl")
    assert plan_file.exists()
    target = LocalTarget(tmp_path / "state" / "scepsy" / "local" / "default")
    assert target.recording() == tmp_path / "calls.jsonl"
    assert target.running().instances
