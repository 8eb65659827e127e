"""Reading a recording as it grows, whatever is done to the file meanwhile."""

import os
from pathlib import Path

import msgspec

from scepsy.errors import InputError
from scepsy.importers.recorded.record import CallRecord

FIRST_BYTES = 64 * 2**20
"""At the first look, only so much of the file's end is read: some 50,000 calls."""

_CALL = msgspec.json.Decoder(CallRecord)


class Tail:
    """Gives the records that were written since the last time. A file that was replaced or emptied is read from its start."""

    def __init__(self, path: Path, first_bytes: int = FIRST_BYTES) -> None:
        self.path = path
        self.damaged = 0
        """Lines that could not be read."""
        self._first_bytes = first_bytes
        self._offset: int | None = None
        self._identity = (0, 0)
        self._rest = b""

    def read(self) -> list[CallRecord]:
        """New records, in the order in which calls ended; none where there is no file yet.

        Raises ``InputError`` for a path that cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                identity = (status.st_dev, status.st_ino)
                if self._offset is None:
                    self._offset = max(0, status.st_size - self._first_bytes)
                elif identity != self._identity or status.st_size < self._offset:
                    self._offset, self._rest = 0, b""
                skip = self._offset > 0 and self._identity == (0, 0)  # in the middle of a line, most likely
                self._identity = identity
                file.seek(self._offset)
                data = self._rest + file.read()
                self._offset = file.tell()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror} (is it the gateway's recording?)") from error
        lines = data.split(b"\n")
        self._rest = lines.pop()
        if skip:
            lines = lines[1:]
        return [record for line in lines if (record := self._record(line)) is not None]

    def _record(self, line: bytes) -> CallRecord | None:
        if not line.strip() or line.startswith(b'{"format"'):
            return None
        try:
            return _CALL.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.damaged += 1
            return None
