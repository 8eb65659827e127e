"""Ports: free ones, taken ones, and who listens. What answers on a port need not be what was started on it."""

import contextlib
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path

from executor.local.identity import PROC
from scepsy.errors import BackendError

PORTS = range(20_000, 32_000)
"""Free ports are looked for here: below the range that the kernel gives to outgoing connections, which would take a port
between its choice and its use, a minute later."""

_LISTEN = "0A"


def is_free(port: int) -> bool:
    """Whether nothing listens on a port of this host."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that nothing listens on now. Raises ``BackendError`` when a hundred tries find none."""
    for _ in range(100):
        port = PORTS.start + secrets.randbelow(len(PORTS))
        if is_free(port):
            return port
    raise BackendError(f"no free port among a hundred from {PORTS.start} to {PORTS.stop}: set base_port and gateway_port")


def require_free(who: str, port: int, field: str) -> None:
    """Raise ``BackendError`` when something listens on a port: it would pass for what is to be started there."""
    if not is_free(port):
        raise BackendError(f"{who}: port {port} is taken: set {field} to a free {'range' if field == 'base_port' else 'port'}")


def _listening(port: int) -> set[str]:
    """Inodes of the sockets that listen on a port."""
    found = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found


def listens(pids: Iterable[int], port: int) -> bool | None:
    """Whether one of these processes listens on ``port``; None when the system does not tell."""
    inodes = _listening(port)
    if not inodes:
        return None
    unreadable = False
    for pid in pids:
        try:
            for link in Path(PROC / str(pid) / "fd").iterdir():
                with contextlib.suppress(OSError):
                    target = str(link.readlink())
                    if target.startswith("socket:[") and target[8:-1] in inodes:
                        return True
        except FileNotFoundError:
            continue
        except OSError:
            unreadable = True
    return None if unreadable else False
