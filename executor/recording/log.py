"""The recording file: JSON Lines, one ``write`` per call, readable after any crash.

Each gateway process appends a header line, then one line per call. A line reaches the kernel in one ``write`` before the
client sees the end of its call, so a kill loses at most the calls in flight. A line cut short (by a full disk, or a
kill within the write) is removed, or skipped when reading.
"""

import contextlib
import errno
import os
from pathlib import Path

import msgspec

from scepsy.errors import BackendError, InputError
from scepsy.importers.recorded.record import CallRecord, Header


class RecordLog:
    """Appends call records to one file. ``write`` keeps a record whole, or raises ``OSError`` and keeps none of it."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self._encoder = msgspec.json.Encoder()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InputError(f"recording path {path} cannot be opened: {error.strerror} (choose another)") from error
        try:
            self._end_torn_line()
            self._append(
                b'{"format":"%b","version":%d,' % (header.format.encode(), header.version)
                + self._encoder.encode(header)[1:]
                + b"\n"
            )
        except OSError as error:
            os.close(self._file)
            raise BackendError(f"recording path {path} cannot be written: {error.strerror} (free some space)") from error

    def _end_torn_line(self) -> None:
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            self._append(b"\n")

    def _append(self, line: bytes) -> None:
        written = os.write(self._file, line)
        if written != len(line):
            with contextlib.suppress(OSError):  # what matters to the caller is that the write failed
                os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, record: CallRecord) -> None:
        """Append one record."""
        self._append(self._encoder.encode(record) + b"\n")

    def sync(self) -> None:
        """Wait until everything written is on the disk (survives a power cut too)."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
