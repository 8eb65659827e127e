"""The check that accepted plans keep up: it must be able to find one that does not, and its table must not hide one."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.checks.stability import judge, main, ready, table
from scepsy.errors import InputError
from scepsy.search import PLANNERS
from scepsy.search.goals import at_factor


@pytest.fixture(scope="module")
def judged_at() -> dict[float, str]:
    """Verdicts on rag-rerank's plan for half of the highest rate, at parts of what that plan itself carries."""
    trace, problem, top = ready("rag-rerank", 40, None)
    planned = at_factor(problem, 0.5 * top)
    plan = PLANNERS["exact"](planned)
    carries = plan.expected[0].throughput_per_s / planned.rates_per_s[0]
    return {
        part: judge(plan, trace, at_factor(planned, part * carries), seed=1, most_calls=400_000)["verdict"]
        for part in (0.5, 1.5)
    }


def test_a_plan_at_half_of_its_rate_keeps_up_and_one_beyond_its_rate_does_not(judged_at: dict[float, str]) -> None:
    assert judged_at == {0.5: "stable", 1.5: "unstable"}


def test_rows_say_what_was_decided_and_are_counted_by_planner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.parquet"
    main(["--cases", "2", "--workflow", "rag-rerank", "--calls", "3000", "--traces", "40", "--out", str(out)])
    rows = pd.read_parquet(out)
    assert list(rows["case"]) == [1, 2]
    assert set(rows["verdict"]) <= {"stable", "undecided", "unstable"}
    assert table(rows) in capsys.readouterr().out


def test_a_plan_that_does_not_keep_up_is_counted_and_named() -> None:
    same = {"workflow": "chat", "planner": "exact", "rate_per_s": 2.0}
    rows = pd.DataFrame(
        [
            same | {"case": 1, "verdict": "stable", "why": ""},
            same | {"case": 2, "verdict": "unstable", "why": "7 % of the work that arrives stays behind"},
            same | {"case": 3, "verdict": "undecided", "planner": "equal", "why": "not settled"},
        ]
    )
    lines = table(rows).splitlines()
    assert "| planner | cases | stable | undecided | unstable |" in lines
    assert "| exact | 2 | 1 | 0 | 1 |" in lines
    assert "| all | 3 | 1 | 1 | 1 |" in lines
    assert "Case 2, chat planned by exact for 2/s: 7 % of the work that arrives stays behind." in lines
    assert "Case 3, chat planned by equal for 2/s: not settled." in lines


def test_rows_of_the_older_rule_are_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r"no column 'verdict'.*without --table"):
        table(pd.DataFrame({"planner": ["exact"], "stable": [True]}))
