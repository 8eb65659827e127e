"""Runs the figure scripts of a checkout, each in a process of its own; one whose table is missing is skipped with a reason."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scepsy.errors import BackendError, InputError

SCRIPTS = Path(__file__).parents[2] / "paper_figures"
SKIPPED = 3
"""Exit status of a script that has nothing to draw."""


@dataclass(frozen=True)
class Drawn:
    """What one script did."""

    name: str
    files: tuple[Path, ...]
    skipped: str = ""
    """Why it drew nothing; empty when it drew."""


def known_scripts() -> list[str]:
    """Names of all figure and table scripts. Raises ``InputError`` where there are none."""
    found = sorted(path.stem for pattern in ("fig_*.py", "tab_*.py") for path in SCRIPTS.glob(pattern))
    if not found:
        raise InputError(f"{SCRIPTS}: holds no figure scripts: run from a checkout of the repository")
    return found


def chosen_scripts(names: list[str]) -> list[str]:
    """The scripts that names or beginnings of names stand for, each once. Raises ``InputError`` where none or several fit.

    >>> chosen_scripts(["fig_05", "tab_01_workflows"])
    ['fig_05_main', 'tab_01_workflows']
    """
    known, chosen = known_scripts(), []
    for name in names:
        fits = [name] if name in known else [one for one in known if one.startswith(name)]
        if len(fits) != 1:
            which = f"fits {', '.join(fits)}: say which" if fits else f"must be one of {', '.join(known)}"
            raise InputError(f"--only is {name!r}: {which}")
        chosen += fits
    return list(dict.fromkeys(chosen))


def draw(names: list[str], data: Path, output: Path) -> Iterator[Drawn]:
    """Draw from the tables in ``data``, one by one. Raises ``BackendError`` with a script's last line when it fails."""
    output.mkdir(parents=True, exist_ok=True)
    for name in names:
        line = [sys.executable, str(SCRIPTS / f"{name}.py"), "--data", str(data), "--output", str(output)]
        result = subprocess.run(line, capture_output=True, text=True, check=False)
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        if result.returncode == SKIPPED:
            yield Drawn(name, (), last.partition("skipped: ")[2] or last)
        elif result.returncode != 0:
            raise BackendError(f"{name}: {last}")
        else:
            yield Drawn(name, tuple(sorted(output.glob(f"{name}.*"))))
