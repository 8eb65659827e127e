"""What a deployment started, on disk, so that all of it and nothing else can be stopped, whoever crashed.

Two marks make sure of that. The state file lists processes by pid *and* start time, so that a reused pid is never
mistaken. And every process carries ``SCEPSY_DEPLOYMENT`` in its environment, which its children inherit: what was
started just before a crash, too late for the file, is found by it.
"""

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import psutil

from scepsy.errors import BackendError
from scepsy.files.document import read_json, write_json
from scepsy.value import Value

MARK = "SCEPSY_DEPLOYMENT"

FORMAT, VERSION = "scepsy.local-state", 1

Phase = Literal["starting", "healthy", "restarting", "failed", "stopped"]


class Child(Value, frozen=True, kw_only=True):
    """One process of the deployment."""

    name: str
    pid: int
    born_s: float
    """Its start time, as the kernel tells it: with the pid, its identity."""
    phase: Phase = "starting"
    restarts: int = 0
    llm: str = ""
    url: str = ""
    log: str = ""
    problem: str = ""


class State(Value, frozen=True, kw_only=True):
    """One deployment."""

    deployment: str
    """Random id, the value of ``SCEPSY_DEPLOYMENT``."""
    phase: Phase
    supervisor: Child | None = None
    gateway: Child | None = None
    children: tuple[Child, ...] = ()
    daemons: tuple[str, ...] = ()
    """Names of the MPS daemons, whose pipe directories lie beside the state file."""
    cgroup: str = ""
    notes: tuple[str, ...] = ()
    problem: str = ""


def state_path(folder: Path) -> Path:
    """Where a deployment's state is."""
    return folder / "state.json"


def load_state(folder: Path) -> State | None:
    """The deployment in ``folder``; None when there is none."""
    path = state_path(folder)
    return read_json(path, State, FORMAT, VERSION) if path.exists() else None


def save_state(folder: Path, state: State) -> None:
    """Write the state, atomically."""
    write_json(state_path(folder), state, FORMAT, VERSION)


def born_s(pid: int) -> float:
    """When a process started; 0 when there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def is_alive(child: Child | None) -> bool:
    """Whether this very process runs (not a zombie, not another with its pid)."""
    if child is None:
        return False
    try:
        process = psutil.Process(child.pid)
        return abs(process.create_time() - child.born_s) < 0.02 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def marked(deployment: str) -> list[psutil.Process]:
    """Every process that carries the deployment's mark, this one excepted."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == deployment:
                found.append(process)
    return found


def stop_all(processes: Iterable[psutil.Process], timeout_s: float) -> None:
    """Ask processes to stop, then kill those that do not."""
    asked = list(processes)
    for process in asked:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
    _, stubborn = psutil.wait_procs(asked, timeout=timeout_s)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=5)


def stop_marked(deployment: str, timeout_s: float) -> list[int]:
    """Stop whatever still carries the mark, children that appear meanwhile included; the pids of what was stopped."""
    stopped: set[int] = set()
    deadline = time.monotonic() + timeout_s + 10
    while (left := marked(deployment)) and time.monotonic() < deadline:
        stopped.update(process.pid for process in left)
        stop_all(left, timeout_s)
    if left := marked(deployment):
        raise BackendError(f"deployment {deployment}: processes {', '.join(str(p.pid) for p in left)} do not stop")
    return sorted(stopped)


@contextlib.contextmanager
def locked(folder: Path):  # type: ignore[no-untyped-def]
    """Hold the deployment's lock: one supervisor at a time. Raises ``BackendError`` when another holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BackendError(
                f"deployment {folder}: another supervisor is at work there (status tells, delete stops it)"
            ) from None
        yield
