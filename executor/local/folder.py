"""The state folder: its own user's and nobody else's, and no link in it is ever followed.

A folder that another user owns or may write to is refused. What is opened in it must be a plain file of ours with one name,
so that a planted symbolic or hard link cannot make us empty or extend a file elsewhere. Modes are 0700 and 0600.
"""

import contextlib
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from scepsy.errors import BackendError, InputError

COMMAND_LOCK, SUPERVISOR_LOCK = "command.lock", "lock"


def require_own(folder: Path) -> None:
    """Raise ``InputError`` unless ``folder`` is a plain folder of this user that nobody else may write to."""
    try:
        found = folder.lstat()
    except OSError as error:
        raise InputError(f"{folder}: cannot be looked at: {error.strerror} (check its path)") from error
    if not stat.S_ISDIR(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no folder"
        raise InputError(f"{folder}: is {kind}: must be a folder of its own (remove it, or set XDG_STATE_HOME)")
    if found.st_uid != os.geteuid():
        raise InputError(
            f"{folder}: belongs to user {found.st_uid}: must belong to user {os.geteuid()}, who runs this (set XDG_STATE_HOME)"
        )
    if found.st_mode & 0o022:
        raise InputError(
            f"{folder}: mode is {stat.S_IMODE(found.st_mode):04o}, so others may write to it: must be 0700 "
            "(look at what is in it, then chmod 700)"
        )


def make_own(folder: Path) -> None:
    """Make the folder where it is missing, and see that it is ours alone. Raises ``InputError``."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror} (set XDG_STATE_HOME to a folder of yours)") from error
    require_own(folder)
    with contextlib.suppress(OSError):
        folder.chmod(0o700)


def open_own(path: Path, flags: int) -> int:
    """Open (and create, with mode 0600) a plain file of ours; returns the descriptor.

    Raises ``InputError`` for a link, for a file with a second name, for another user's, and for what is no plain file;
    ``OSError`` for what else the system says (a full disk, a missing folder).
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if path.is_symlink():
            raise InputError(f"{path}: is a symbolic link: must be a plain file (who put it there? remove it)") from error
        raise
    found = os.fstat(descriptor)
    problem = ""
    if not stat.S_ISREG(found.st_mode):
        problem = "is no plain file: must be one (remove it)"
    elif found.st_uid != os.geteuid():
        problem = f"belongs to user {found.st_uid}: must belong to user {os.geteuid()} (remove it)"
    elif found.st_nlink != 1:
        problem = "has a second name elsewhere (a hard link): must have one (remove it)"
    if problem:
        os.close(descriptor)
        raise InputError(f"{path}: {problem}")
    if found.st_mode & 0o077:
        os.fchmod(descriptor, 0o600)
    return descriptor


def open_log(path: Path) -> int:
    """A log to append to; nowhere when there is no space for one, since a log is no reason not to serve."""
    try:
        return open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def read_own(path: Path) -> bytes:
    """The whole content. Raises like ``open_own``."""
    with os.fdopen(open_own(path, os.O_RDONLY), "rb") as file:
        return file.read()


def write_own(path: Path, data: bytes) -> None:
    """Replace a file of ours, atomically, mode 0600. Raises ``OSError``, and leaves the old one then."""
    aside = path.with_name(f".{secrets.token_hex(6)}.{path.name}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def subfolder(folder: Path, *names: str) -> Path:
    """A folder below the state folder, made where it is missing, each step ours and no link."""
    for name in names:
        folder = folder / name
        make_own(folder)
    return folder


@contextlib.contextmanager
def locked(folder: Path, name: str, who: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock of the state folder: ``command.lock`` by apply and delete, ``lock`` by the supervisor.

    The kernel lets go of it when its holder ends, however it ends. Raises ``BackendError`` when another still holds it
    after ``wait_s``, and says who.
    """
    descriptor = open_own(folder / name, os.O_RDWR | os.O_CREAT)
    deadline = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    other = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
                    raise BackendError(
                        f"deployment {folder}: {other} is at work there: wait for it (status tells; delete stops it)"
                    ) from None
                time.sleep(0.05)
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{who} (process {os.getpid()})\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
