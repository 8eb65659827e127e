"""Which process is meant: its id together with its start time, held by a descriptor while it is asked to end.

A process id alone names another process as soon as the first one is gone. The start time is what the kernel keeps: ticks
since boot, with the boot's own id, so that neither a reused id, nor a set clock, nor a reboot makes one process pass for
another. Where the kernel has pidfds (Linux 5.3), a signal goes to the process that was looked at and to no other.
"""

import contextlib
import functools
import os
import select
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

PROC = Path("/proc")


@functools.cache
def _boot() -> str:
    """The id of this boot; empty where the system tells none."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def born(pid: int) -> str:
    """When a process started, as ``<boot id>/<ticks since boot>``; empty when there is none, or only its zombie."""
    try:
        fields = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else f"{_boot()}/{fields[19]}"
    except (OSError, IndexError):
        if PROC.joinpath("self/stat").exists() or pid <= 0:
            return ""
    try:  # a system without /proc
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"/{process.create_time():.2f}"
    except psutil.Error:
        return ""


class HeldProcess:
    """One process that was looked at and is meant from now on, whatever becomes of its id."""

    def __init__(self, pid: int, born_: str) -> None:
        self.pid, self.born = pid, born_
        self._fd = -1
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._fd = os.pidfd_open(pid)

    def close(self) -> None:
        """Let go of it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def gone(self) -> bool:
        """Whether it has ended (a zombie has)."""
        if self._fd >= 0:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            return bool(poll.poll(0))
        return born(self.pid) != self.born

    def send(self, number: int) -> None:
        """Send a signal; nothing happens when it is gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._fd >= 0:
                signal.pidfd_send_signal(self._fd, number)
            elif not self.gone:
                os.kill(self.pid, number)


def hold(pid: int, born_: str = "") -> HeldProcess | None:
    """Take hold of the process ``pid`` that started at ``born_`` (empty: whichever it is now); None when it is not that one."""
    held = HeldProcess(pid, born_ or born(pid))
    # The descriptor is open now: if the start time agrees after that, the descriptor is of that very process.
    if not held.born or born(pid) != held.born:
        held.close()
        return None
    return held


def wait_gone(processes: Iterable[HeldProcess], timeout_s: float) -> list[HeldProcess]:
    """Wait until all have ended, at most ``timeout_s``; those that have not."""
    left, deadline = list(processes), time.monotonic() + timeout_s
    while (left := [process for process in left if not process.gone]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def stop_all(processes: Sequence[HeldProcess], timeout_s: float) -> list[HeldProcess]:
    """Ask processes to stop (a stopped one is continued for it), then kill those that do not; those that even then remain."""
    for process in processes:
        process.send(signal.SIGTERM)
        process.send(signal.SIGCONT)
    stubborn = wait_gone(processes, timeout_s)
    for process in stubborn:
        process.send(signal.SIGKILL)
    return wait_gone(stubborn, 5)
