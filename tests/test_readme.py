"""README's commands and program run as printed, one after another, in an empty folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands() -> list[str]:
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.strip().startswith("scepsy ")]


def test_readme_commands_run_as_printed(tmp_path: Path) -> None:
    found = commands()
    assert len(found) >= 5
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for line in found:
        done = subprocess.run(shlex.split(line), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def test_readme_program_prints_what_is_printed(tmp_path: Path) -> None:
    (program,) = blocks("python")
    assert len(program.strip().splitlines()) <= 9  # eight and an empty line
    (output,) = blocks("text")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == output


def test_readme_program_passes_mypy_strict_from_outside_the_repository(tmp_path: Path) -> None:
    (program,) = blocks("python")
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    root = str(README.parent)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--follow-imports=silent",
            "--cache-dir",
            str(tmp_path / "cache"),
            "program.py",
        ],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": root, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    assert "Success" in done.stdout
