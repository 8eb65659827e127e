"""Deployments of stub engines on this host, for tests that break them."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil

from executor.local.marks import Which
from executor.local.options import LocalOptions
from executor.random_models import RandomModel
from tests.executor.test_local import make_plan, make_profiles

STUB = Path(__file__).with_name("stub_engine.py")
PLAN = make_plan({"chat": [((0,), 50), ((1,), 50)]})
PROFILES = make_profiles(RandomModel(name="chat"))


def program(folder: Path, before: str = "") -> str:
    """A program that stands for the engine's Python; ``before`` is a line of shell that runs first."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\n{before}\nexec {sys.executable} {STUB} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def options(python: str, **fields: object) -> LocalOptions:
    settings = {"device": "cpu", "start_timeout_s": 30, "stop_timeout_s": 3, "enforce_shares": False, **fields}
    return LocalOptions(python=python, **settings)  # type: ignore[arg-type]


def left(folder: Path) -> list[int]:
    """Processes that still carry the folder's mark."""
    found = list(Which(folder=folder).processes())
    for process in found:
        process.close()
    return [process.pid for process in found]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def scepsy(*arguments: object, env: dict[str, str] | None = None, **how: object) -> subprocess.Popen[str]:
    """The command line as a process of its own."""
    command = [sys.executable, "-c", "from scepsy.cli import main; main()", *map(str, arguments)]
    whole = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **(env or {})}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=whole, **how)  # type: ignore[call-overload,no-any-return]
