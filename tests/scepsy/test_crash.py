"""What is not ours becomes one line: the outermost handler, the programs run with -m, and poor terminals."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from scepsy.cli.outermost import command, require_writable
from scepsy.crash import explain
from scepsy.errors import Infeasible, InputError

ROOT = Path(__file__).parents[2]


def app_of(body: Callable[[], None]) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @command
    def act() -> None:
        body()

    return app


def fail(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (KeyError("x"), 4, "internal error: KeyError: 'x' (in test_crash.py, line"),
        (RecursionError("deep"), 4, "internal error: RecursionError"),
        (AssertionError(), 4, "Please report it"),
        (MemoryError(), 4, "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device", "f"), 4, "f: No space left on device (free some space"),
        (ModuleNotFoundError("No module named 'aiohttp'", name="aiohttp"), 2, "pip install 'scepsy[gateway]'"),
        (InputError("a is\n2: must be 3"), 2, "a is 2: must be 3"),
        (Infeasible("no"), 3, "no"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_whatever_is_raised_is_one_line(error: BaseException, code: int, word: str) -> None:
    result = CliRunner().invoke(app_of(fail(error)), [])
    assert result.exit_code == code
    assert word in result.stderr
    assert result.stderr.count("\n") == (0 if code == 141 else 1)
    assert "Traceback" not in result.stderr


def test_debug_prints_the_traceback_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCEPSY_DEBUG", "")  # so that what --debug sets is taken back
    result = CliRunner().invoke(app_of(fail(ZeroDivisionError("division by zero"))), ["--debug"])
    assert result.exit_code == 4
    assert result.stderr.startswith("Traceback")
    assert result.stderr.splitlines()[-1].startswith("scepsy: internal error: ZeroDivisionError")


def test_a_wrapped_interruption_is_one() -> None:
    def body() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("broken by Ctrl-C") from error

    assert CliRunner().invoke(app_of(body), []).exit_code == 130


def test_messages_are_cut() -> None:
    assert len(explain(ValueError("x" * 100_000))[0]) < 1000


@pytest.mark.parametrize(
    ("module", "missing", "extra"), [("executor.local", "aiohttp", "gateway"), ("experiments.agents", "openai", "agents")]
)
def test_a_missing_extra_in_a_program_is_one_line(module: str, missing: str, extra: str, tmp_path: Path) -> None:
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError('No module named {missing}', name='{missing}')\n")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "SCEPSY_DEPLOYMENT": "x"}
    command_ = [sys.executable, "-m", module, *(["rag"] if module == "experiments.agents" else [str(tmp_path)])]
    done = subprocess.run(command_, capture_output=True, text=True, env=env, check=False, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"{missing} is not installed: pip install 'scepsy[{extra}]'" in done.stderr


def test_output_is_tried_before_the_work(tmp_path: Path) -> None:
    require_writable(tmp_path / "x", folder=False)
    require_writable(tmp_path / "a" / "b", folder=True)
    assert list(tmp_path.iterdir()) == [], "the trial leaves nothing"
    (tmp_path / "file").touch()
    for path, folder in (
        (tmp_path, False), (tmp_path / "none" / "x", False), (tmp_path / "file" / "x", False), (tmp_path / "file", True),
        (Path("/proc/x"), False), (Path("/dev/null"), False),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"cannot be written|must be a file to write"):
            require_writable(path, folder=folder)
