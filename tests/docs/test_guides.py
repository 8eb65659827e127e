"""Tutorial and how-to guides do what they say: every sh and python block of a page runs, in order, in an empty folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from typer.main import get_command

from scepsy.cli import app

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted([DOCS / "tutorial.md", DOCS / "reference" / "api.md", *(DOCS / "howto").glob("*.md")])
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def script_of(page: Path) -> tuple[str, str]:
    """All shell blocks as one script, all Python blocks as one program."""
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    shell = "\n".join(text for language, text in blocks if language == "sh")
    return shell, "\n".join(text for language, text in blocks if language == "python")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_works_as_written(page: Path, tmp_path: Path) -> None:
    shell, program = script_of(page)
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "SCEPSY_DOCS": str(DOCS),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for words, text in ((["bash", "-eu", "-c", shell], shell), ([sys.executable, "-c", program], program)):
        if text:
            done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, f"{page.name}\n{done.stdout}\n{done.stderr}"
            assert done.stdout.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_that_are_shown_and_not_run_have_these_options(page: Path) -> None:
    """Indented commands need a deployment or take for ever, so they are parsed only."""
    for line in re.findall(r"^    scepsy (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        words = shlex.split(line.partition("|")[0].partition(" #")[0])
        command: click.Command = get_command(app)
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        command.make_context(command.name, words)


def test_pages_with_code_are_found() -> None:
    assert sum(any(script_of(page)) for page in PAGES) >= 6
