"""Fixtures that every package's tests share."""

import builtins
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.benchmark_table import lines_of

# A loaded machine must not fail a test by its clock; continuous integration looks at the same examples every time.
settings.register_profile("anywhere", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "anywhere")


OURS = ("scepsy.", "sim.", "executor.", "experiments.")
_sum = builtins.sum


def _sum_that_rounds_alike(values: Iterable[Any], /, start: Any = 0) -> Any:
    """``sum``, refusing to add plain floats for our modules: it rounds differently from Python 3.12 on."""
    total = _sum(values, start)
    if type(total) is float and str(sys._getframe(1).f_globals.get("__name__", "")).startswith(OURS):
        raise AssertionError(f"{sys._getframe(1).f_globals['__name__']} adds floats by sum(): use math.fsum, which rounds once")
    return total


builtins.sum = _sum_that_rounds_alike


@pytest.fixture(scope="session")
def scepsy_data() -> Path:
    """The folder of real traces; tests that ask for it are marked ``data`` and skip without it."""
    folder = os.environ.get("SCEPSY_DATA")
    if not folder:
        pytest.skip("SCEPSY_DATA is not set: the real traces are not here")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"SCEPSY_DATA is {folder!r}: no such folder")
    return path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tables of what was measured, and of the faults that were tried."""
    measured = getattr(terminalreporter.config, "_benchmarksession", None)
    for line in lines_of(measured.benchmarks if measured is not None else ()):
        terminalreporter.write_line(line)
    _say_faults(terminalreporter)


def _say_faults(terminalreporter: pytest.TerminalReporter) -> None:
    """Tests that do something evil say so with ``record_property("fault", what)``."""
    tried: dict[str, list[int]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", ()):
                if name == "fault":
                    what, _, times = str(value).partition(" ×")
                    counts = tried.setdefault(what, [0, 0])
                    counts[0] += int(times or 1)
                    counts[1] += int(times or 1) if outcome == "passed" else 0
    if tried:
        terminalreporter.write_line(f"{'fault':<94} {'tried':>6} {'survived':>8}")
        for what, (times, survived) in sorted(tried.items()):
            terminalreporter.write_line(f"{what:<94} {times:>6} {survived:>8}")
        total = [sum(counts[part] for counts in tried.values()) for part in (0, 1)]
        terminalreporter.write_line(f"{'together':<94} {total[0]:>6} {total[1]:>8}")
