"""Regret: how it is counted, and its table."""

import pandas as pd
import pytest

from experiments.checks.regret import regret, table
from tests.api.test_judge import replayed


def test_regret_is_what_the_default_takes_more_over_the_same_runs() -> None:
    common = [1.0 + 0.1 * (n % 7) for n in range(400)]
    best = replayed(common, 2, "best")
    mine = replayed([2.0 * value for value in common], 3, "mine")
    best.plan.allocations, mine.plan.allocations = ("a",), ("b",)
    found = regret(mine, best)
    assert found["regret_pct"] == pytest.approx(100.0)
    assert 0 < found["half_width_pct"] < 5.0
    assert regret(best, best) == {"regret_pct": 0.0, "half_width_pct": 0.0}
    mine.outcome["w"].grows = True
    assert regret(mine, best)["regret_pct"] == float("inf")


def test_the_table_has_a_row_per_workflow_and_says_what_is_not_settled() -> None:
    rows = pd.DataFrame(
        {
            "workflow": ["chat", "chat"],
            "gpus": [4, 4],
            "load": [0.5, 0.9],
            "regret_pct": [0.0, 3.2],
            "half_width_pct": [0.0, 1.0],
            "default_stable": [True, False],
        }
    )
    assert table(rows).splitlines()[-1] == "| chat | 4 | 0 % | 3.2 ± 1.0 % (not settled) |"
