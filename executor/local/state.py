"""What a deployment is and was, on disk and from its supervisor's mouth.

The state file lists processes by id and start time. It is never the only proof: a process that it names is ours only when it
also carries the deployment's mark (``marks``), and what it fails to name is found by the mark. So a state file that is lost,
damaged, from another version or from elsewhere can neither lose a process nor end a stranger's.
"""

import socket
import struct
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from executor.local.folder import read_own, require_own, write_own
from executor.local.identity import born
from executor.local.marks import MARK, Which, belongs, is_ours
from scepsy.errors import InputError
from scepsy.files.document import check_envelope
from scepsy.files.failure import decode_json, explain, fail
from scepsy.value import Value

FORMAT, VERSION = "scepsy.local-state", 2

Phase = Literal["starting", "healthy", "unhealthy", "restarting", "failed", "stopped"]

STATE_TIMEOUT_S = 3.0
"""A supervisor that does not tell its state within this is taken not to answer."""


class Child(Value, frozen=True, kw_only=True):
    """One process of the deployment."""

    name: str
    pid: int
    born: str
    """Its start in ticks since boot, with the boot's id: with the process id, its identity."""
    phase: Phase = "starting"
    restarts: int = 0
    llm: str = ""
    url: str = ""
    log: str = ""
    problem: str = ""


SwitchPhase = Literal["draining", "starting", "retiring", "done", "rolling back", "rolled back", "refused"]


class Switch(Value, frozen=True, kw_only=True):
    """How far the latest switch to another plan has come (``switching``)."""

    token: str
    phase: SwitchPhase
    problem: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.phase in ("done", "rolled back", "refused")


class State(Value, frozen=True, kw_only=True):
    """One deployment."""

    deployment: str
    """The value of ``SCEPSY_DEPLOYMENT``: the folder's key and a random part."""
    phase: Phase
    supervisor: Child | None = None
    gateway: Child | None = None
    children: tuple[Child, ...] = ()
    daemons: tuple[str, ...] = ()
    """Names of the MPS daemons, whose pipe directories lie beside the state file."""
    notes: tuple[str, ...] = ()
    problem: str = ""
    plan: str = ""
    """Fingerprint of the plan that is served (``scepsy.operate.naming``)."""
    switch: Switch | None = None
    since_s: float = 0.0
    """When that plan began to serve (Unix seconds); 0: it does not yet."""


class Damaged(InputError):
    """The state file cannot be trusted: the message says why and how to recover."""


def state_path(folder: Path) -> Path:
    """Where a deployment's state is."""
    return folder / "state.json"


def load_state(folder: Path) -> State | None:
    """The deployment in ``folder`` as its file has it; None when there is no file.

    Raises ``Damaged`` for a file that is empty, cut off, of another version, of another folder or of another user, with
    the remedy; ``InputError`` when the folder itself is not this user's.
    """
    path = state_path(folder)
    if not path.exists() and not path.is_symlink():
        return None
    require_own(folder)
    try:
        return _decode(folder, read_own(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Damaged(_remedy(folder, fail(path, f"cannot be read: {error.strerror}"))) from error
    except InputError as error:
        raise Damaged(_remedy(folder, error)) from error


def _decode(folder: Path, data: bytes) -> State:
    path = state_path(folder)
    if not data.strip():
        raise fail(path, "is empty")
    rest = check_envelope(path, decode_json(path, data), FORMAT, VERSION)
    try:
        state = msgspec.convert(rest, State)
    except msgspec.ValidationError as error:
        raise fail(path, explain(error, rest, State)[1]) from error
    except (RecursionError, OverflowError) as error:
        raise fail(path, f"cannot be a State: {error}") from error
    if not belongs(state.deployment, folder):
        raise fail(path, f"deployment is {state.deployment!r}: belongs to another folder (copied, or the folder was moved)")
    for name in state.daemons:
        if not name or "/" in name or name.startswith("."):
            raise fail(path, f"daemons holds {name!r}: must be a plain name")
    return state


def _remedy(folder: Path, error: InputError) -> str:
    release = "" if folder.name == "default" else f" --release {folder.name}"
    return (
        f"{error}; to recover: `scepsy delete --target local{release} --force` ends what is provably this deployment's "
        "(by process marks, without the file), then apply again"
    )


def save_state(folder: Path, state: State) -> None:
    """Write the state, atomically. Raises ``OSError`` when that cannot be done (a full disk)."""
    document = {"format": FORMAT, "version": VERSION, **msgspec.to_builtins(state)}
    write_own(state_path(folder), msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")


def is_alive(child: Child | None) -> bool:
    """Whether this very process runs (not a zombie, not another with its id)."""
    return child is not None and bool(child.born) and born(child.pid) == child.born


def is_child(child: Child | None, deployment: str) -> bool:
    """Whether this very process runs and is the deployment's: id, start time and mark agree."""
    return child is not None and is_ours(child.pid, child.born, deployment)


def marked(deployment: str) -> list[psutil.Process]:
    """Every process that carries the deployment's mark, this one excepted."""
    found = []
    for held in Which(deployment=deployment).processes():
        try:
            found.append(psutil.Process(held.pid))
        except psutil.Error:
            continue
        finally:
            held.close()
    return found


def voice(deployment: str) -> str:
    """The name of the socket on which a supervisor tells its state: an abstract one, which needs no space on any disk."""
    return f"\0scepsy-local-{deployment}"


def peer(connection: socket.socket) -> tuple[int, int]:
    """(process id, user id) at the other end of a Unix socket."""
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid


def ask(deployment: str, timeout_s: float = STATE_TIMEOUT_S) -> State | None:
    """What the deployment's supervisor itself says; None when none answers (or where there are no abstract sockets).

    Only an answer from a process that carries the deployment's mark counts: anyone may take a socket's name.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(voice(deployment))
            pid, _ = peer(connection)
            if not is_ours(pid, born(pid), deployment):
                return None
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
        return msgspec.json.decode(b"".join(parts), type=State)
    except (OSError, AttributeError, msgspec.DecodeError):
        return None


def folder_deployments(folder: Path) -> list[str]:
    """Ids of deployments of this folder that still have processes, from the processes themselves."""
    found = set()
    for held in Which(folder=folder).processes():
        try:
            mark = psutil.Process(held.pid).environ().get(MARK, "")
            if belongs(mark, folder):
                found.add(mark)
        except (psutil.Error, OSError):
            continue
        finally:
            held.close()
    return sorted(found)
