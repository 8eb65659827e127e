"""The recording file: JSON Lines, one ``write`` per call, readable after any crash.

Each gateway process appends a header line, then one line per call. A line reaches the kernel in one ``write`` before the
client sees the end of its call, so a kill loses at most the calls in flight. A line cut short (by a full disk, or a
kill within the write) is removed, or skipped when reading.

Whatever becomes of the file meanwhile, the next record goes where the path points: a file that was deleted or moved away
(logrotate) is made anew, one that was emptied (logrotate's copytruncate) is gone on with, and both begin with the header.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path

import msgspec

from scepsy.errors import BackendError, InputError
from scepsy.importers.recorded.record import CallRecord, Header


class RecordLog:
    """Appends call records to one file. ``write`` keeps a record whole, or raises ``OSError`` and keeps none of it."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self._encoder = msgspec.json.Encoder()
        self._header = (
            b'{"format":"%b","version":%d,' % (header.format.encode(), header.version)
            + self._encoder.encode(header)[1:]
            + b"\n"
        )
        self._name = os.fspath(path)  # looked at for every record
        self._file = -1
        self._identity = (0, 0)
        self._size = 0
        _refuse_what_is_no_file(path)
        try:
            self._open()
        except OSError as error:
            raise InputError(f"recording path {path} cannot be opened: {error.strerror} (choose another)") from error
        try:
            self._begin()
        except OSError as error:
            self.close()
            raise BackendError(f"recording path {path} cannot be written: {error.strerror} (free some space)") from error

    def _open(self) -> None:
        """Open or make the file, and nothing that is no file: writing to a pipe would block every call."""
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            os.close(file)
            raise OSError(errno.EINVAL, "no regular file")
        self.close()
        self._file, self._identity, self._size = file, (status.st_dev, status.st_ino), status.st_size

    def _begin(self) -> None:
        """The header, after whatever the file ends with."""
        if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
            self._append(b"\n")
        self._append(self._header)

    def _append(self, line: bytes) -> None:
        written = os.write(self._file, line)
        if written != len(line):
            with contextlib.suppress(OSError):  # what matters to the caller is that the write failed
                os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written

    def _follow(self) -> None:
        """See that the next line goes where the path points, after a header."""
        try:
            status = os.stat(self._name)
        except FileNotFoundError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._identity:
            self._open()
            self._begin()
        elif status.st_size < self._size:  # emptied, or cut
            self._size = status.st_size
            self._begin()

    def write(self, record: CallRecord) -> None:
        """Append one record."""
        self._follow()
        self._append(self._encoder.encode(record) + b"\n")

    def sync(self) -> None:
        """Wait until everything written is on the disk (survives a power cut too)."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _refuse_what_is_no_file(path: Path) -> None:
    """Raises ``InputError`` for a path that would swallow records, or block: a device, a pipe, a folder."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # opening says why
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "no regular file")
        raise InputError(f"recording path {path} is {kind}: must be a regular file or none yet (choose another)")
