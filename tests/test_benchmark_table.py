"""The table that ``make bench`` ends with."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from tests.benchmark_table import lines_of


def one(name: str, best_s: float, rounds: int = 3, **extra: object) -> SimpleNamespace:
    return SimpleNamespace(name=name, stats=SimpleNamespace(min=best_s, rounds=rounds), extra_info=extra)


def test_a_row_says_the_best_round_and_what_the_benchmark_says_of_itself() -> None:
    lines = lines_of([one("calls[compiled]", 0.047, calls_per_s=426_000, optimal=True, gap=0.01234), one("never ran", 1.0, 0)])
    assert lines[2:] == ["| calls[compiled] | 47 ms | calls_per_s 426,000, optimal True, gap 0.01234 |"]


def test_nothing_is_printed_where_nothing_was_measured() -> None:
    assert lines_of([]) == []


def test_a_measuring_run_of_pytest_ends_with_the_table() -> None:
    root = Path(__file__).parents[1]
    test = "tests/search/test_bench_planners.py::test_bench_aggregate_predictions"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test, "--benchmark-only", "--benchmark-enable"]
    # Under xdist the benchmark plugin switches itself off: this is a run of its own.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=env)
    assert "| benchmark | best round | what it says |" in done.stdout, done.stdout + done.stderr
    assert "| test_bench_aggregate_predictions |" in done.stdout
    assert "predictions " in done.stdout.partition("| what it says |")[2]
