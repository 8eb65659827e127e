"""Nothing half-written: a file is written aside, in the same folder, and renamed over its target once complete."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scepsy.errors import InputError

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it replaces ``path`` when the block ends well, else it is removed.

    The name ends like the target's, so that writers which look at the suffix behave. Raises ``InputError`` when the
    target is no regular file, when its folder does not exist or cannot be written, and when the disk is full.
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        kind = "a directory" if target.is_dir() else "no regular file"
        raise InputError(f"{target}: is {kind}: must be a file to write (name another)")
    aside = target.with_name(f".{secrets.token_hex(6)}.{target.name[-80:]}")
    try:
        os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror} (create its folder or choose another)") from error
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, target)
    except OSError as error:
        if error.errno in _DISK:
            raise InputError(f"{target}: cannot be written: {error.strerror} (free some space or choose another)") from error
        raise
    finally:
        aside.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a whole file at once, atomically."""
    with atomic_path(path) as aside:
        aside.write_bytes(data)
