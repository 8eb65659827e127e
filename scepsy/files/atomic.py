"""Nothing half-written: a file is written aside, in the same folder, and renamed over its target once complete."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scepsy.errors import InputError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it replaces ``path`` when the block ends well, else it is removed.

    The name ends like the target's, so that writers which look at the suffix behave. Raises ``InputError`` when the
    target is a folder, or its folder does not exist or cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"{target}: is a directory: must be a file to write (name the file)")
    suffixes = "".join(target.suffixes[-3:])
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", suffix=suffixes, dir=target.parent)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written: {error.strerror or error} (create its folder or choose another)"
        ) from error
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        _sync(aside)
        aside.chmod(0o666 & ~_umask())
        try:
            os.replace(aside, target)
        except OSError as error:
            raise InputError(f"{target}: cannot be written: {error.strerror or error} (choose another file)") from error
    finally:
        aside.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a whole file at once, atomically."""
    with atomic_path(path) as aside:
        aside.write_bytes(data)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
