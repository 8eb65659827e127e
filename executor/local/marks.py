"""What tells a deployment's processes from all others, even after its supervisor and its state file are gone.

Every process that a deployment starts carries three marks, and its descendants inherit them:

- ``SCEPSY_DEPLOYMENT`` in its environment, which a program can clear or overwrite (process titles are written over it);
- the soft limit ``RLIMIT_LOCKS``, which Linux keeps, hands on over fork, exec and new sessions, and has not used since 2.4:
  its 63 bits name the state folder, the deployment and the instance;
- where the user may make them, a control group named after the deployment.

A mark begins with a number made from the state folder's path. So what a lost state file listed can still be found.
Nothing without a mark is ever ended, and nothing of another user.
"""

import contextlib
import hashlib
import os
import resource
import secrets
from collections.abc import Iterator
from pathlib import Path

import psutil

from executor.local.identity import PROC, HeldProcess, born, hold, stop_all
from scepsy.errors import BackendError

MARK = "SCEPSY_DEPLOYMENT"

RLIMIT_LOCKS = 10
"""Linux' number on every architecture that vLLM runs on; Python's module leaves it out."""

SUPERVISOR, GATEWAY, FIRST_ENGINE = 0, 1, 2
"""Numbers of the processes within a deployment; engine i has ``FIRST_ENGINE + i``."""

_NUMBERS = 1 << 12
CGROUPS = Path("/sys/fs/cgroup")
_HIERARCHIES = ("", "unified", "cpu", "freezer", "pids")


def folder_key(folder: Path) -> str:
    """Eight hex digits (31 bits) that stand for a state folder on this host."""
    digest = hashlib.blake2b(os.fsencode(os.path.realpath(folder)), digest_size=4).digest()
    return f"{int.from_bytes(digest) & 0x7FFFFFFF:08x}"


def new_deployment(folder: Path) -> str:
    """A new deployment's id: the folder's key and a random part."""
    return f"{folder_key(folder)}-{secrets.token_hex(8)}"


def belongs(deployment: str, folder: Path) -> bool:
    """Whether a deployment's id was made for this folder."""
    return deployment.startswith(f"{folder_key(folder)}-")


def limit_of(deployment: str, number: int) -> int:
    """The value of ``RLIMIT_LOCKS`` that marks process ``number`` of a deployment; 0 for ids that are not of our making."""
    key, _, rest = deployment.partition("-")
    try:
        return int(key, 16) << 32 | (int(rest[:5], 16) & 0xFFFFF) << 12 | number % _NUMBERS
    except ValueError:
        return 0


def put_limit(deployment: str, number: int) -> None:
    """Mark this process; runs in the child before it becomes the program. Does nothing where the system has no such limit."""
    value = limit_of(deployment, number)
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(RLIMIT_LOCKS)[1]
        if value and (hard == resource.RLIM_INFINITY or value <= hard):
            resource.setrlimit(RLIMIT_LOCKS, (value, hard))


def _limit(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (PROC / str(pid) / "limits").read_text().splitlines():
            if line.startswith("Max file locks"):
                return int(line.split()[3])
    return 0


def _environment(pid: int) -> str:
    with contextlib.suppress(psutil.Error, OSError):
        return psutil.Process(pid).environ().get(MARK, "")
    return ""


def _own(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).uids().real == os.getuid())
    except psutil.Error:
        return False


def _grouped(prefix: str, instance: str = "*") -> set[int]:
    """Processes in the control groups of deployments whose id begins with ``prefix`` (of one instance, where it is given)."""
    found: set[int] = set()
    for hierarchy in _HIERARCHIES:
        for group in (CGROUPS / hierarchy).glob(f"scepsy-{prefix}*"):
            for members in group.glob(f"{instance}/cgroup.procs"):
                with contextlib.suppress(OSError, ValueError):
                    found.update(int(pid) for pid in members.read_text().split())
    return found


class Which:
    """Which processes are meant: all of a folder's deployments, those of one, or one process of it with its descendants.

    ``number`` and ``instance`` say which process, by its number and by the name of its control group.
    """

    def __init__(
        self, *, folder: Path | None = None, deployment: str = "", number: int | None = None, instance: str = "*"
    ) -> None:
        self.prefix = f"{folder_key(folder)}-" if folder is not None else deployment
        self._instance = instance
        self._exact, self._number = folder is None, number
        first = limit_of(deployment if folder is None else f"{self.prefix}0", number or 0)
        width = (1 << 32) if folder is not None else _NUMBERS if number is None else 1
        self._limits = range(first, first + width) if first else range(0)

    def carries(self, pid: int) -> bool:
        """Whether a process carries the mark (by its limit or its environment)."""
        if _limit(pid) in self._limits:
            return True
        if self._number is not None:  # the environment does not say which process of the deployment it is
            return False
        mark = _environment(pid)
        return mark == self.prefix if self._exact else mark.startswith(self.prefix)

    def processes(self) -> Iterator[HeldProcess]:
        """Every process that is meant, this one excepted; each is to be closed."""
        grouped = _grouped(self.prefix, self._instance) if self._number is None or self._instance != "*" else set()
        for pid in psutil.pids():
            if pid == os.getpid() or not _own(pid):
                continue
            if (pid in grouped or self.carries(pid)) and (held := hold(pid)) is not None:
                # Looked at once more now that it is held: the id may have passed to another in between.
                if pid in grouped or self.carries(pid):
                    yield held
                else:
                    held.close()


def stop_marked(which: Which, timeout_s: float, rounds: int = 20) -> list[int]:
    """Stop whatever carries the mark, children that appear meanwhile included; the ids of what was stopped.

    Raises ``BackendError`` when something of it does not end even when killed.
    """
    stopped: set[int] = set()
    for _ in range(rounds):
        found = list(which.processes())
        try:
            if not found:
                return sorted(stopped)
            stopped.update(process.pid for process in found)
            stuck = stop_all(found, timeout_s)
        finally:
            for process in found:
                process.close()
        timeout_s = min(timeout_s, 1.0)  # what is started while its parents are asked to stop gets less patience
        if stuck:
            break
    names = ", ".join(str(process.pid) for process in which.processes())
    if not names:
        return sorted(stopped)
    raise BackendError(f"deployment {which.prefix}: processes {names} do not stop, even killed (see `ps`, and dmesg for why)")


def is_ours(pid: int, born_: str, deployment: str) -> bool:
    """Whether this very process runs and is the deployment's: id, start time and mark agree."""
    if not pid or not born_ or born(pid) != born_:
        return False
    return Which(deployment=deployment).carries(pid) or pid in _grouped(deployment)


def remove_groups(prefix: str) -> None:
    """Remove the control groups of deployments whose id begins with ``prefix``; those that still hold processes stay."""
    for hierarchy in _HIERARCHIES:
        for parent in (CGROUPS / hierarchy).glob(f"scepsy-{prefix}*"):
            for group in [*(child for child in parent.iterdir() if child.is_dir()), parent]:
                with contextlib.suppress(OSError):
                    group.rmdir()


def make_pen(deployment: str, name: str) -> Path | None:
    """A control group to keep one instance's processes together, in a hierarchy that changes nothing about their speed.

    None where no such group can be made: then the other two marks are all there is.
    """
    for hierarchy in ("unified", "freezer", "pids"):
        top = CGROUPS / hierarchy
        if not (top / "cgroup.procs").exists() or not os.access(top, os.W_OK):
            continue
        with contextlib.suppress(OSError):
            if hierarchy == "unified" and "cpu" in (top / "cgroup.controllers").read_text().split():
                continue
            group = top / f"scepsy-{deployment}" / name
            group.mkdir(parents=True, exist_ok=True)
            return group
    return None
