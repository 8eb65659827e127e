"""One input of an import: a file, a member of a folder or standard input, read as a bounded stream.

Compressed input (``.gz``, ``.zst``, told by its first bytes) is decompressed on the way, a byte order mark is skipped.
Nothing here holds more than one record: a line has at most ``LINE_BYTES``, and a JSON document above ``WHOLE_BYTES`` is
read item by item.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import zstandard

from scepsy.errors import InputError
from scepsy.files.failure import fail, reading
from scepsy.progress import Progress, no_progress

LINE_BYTES = 64 << 20
"""Most bytes of one line or of one item of a JSON document."""

WHOLE_BYTES = 16 << 20
"""A JSON document up to this size is decoded at once; decoding takes about six times as much memory."""

MOST_BYTES, MOST_RATIO = 4 << 30, 200
"""Decompressed size that is read in any case, and beyond it the most per compressed byte (chosen)."""

_UNREAD = {b"PK\x03\x04": "zip", b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"PAR1": "parquet", b"\xff\xfe": "UTF-16 text",
           b"\xfe\xff": "UTF-16 text"}  # fmt: skip


@dataclass
class Source:
    """One input. ``str(source)`` is the name by which messages call it."""

    path: Path
    """Where the bytes are; for standard input a temporary file."""
    name: str = ""
    progress: Progress = no_progress
    """Called with compressed bytes consumed since the last call."""

    def __str__(self) -> str:
        return self.name or str(self.path)

    @property
    def label(self) -> str:
        """The name without its folder, for the header of a trace."""
        return self.name or self.path.name

    @property
    def bytes(self) -> int:
        """Size as stored."""
        with reading(str(self)):
            return self.path.stat().st_size

    @contextmanager
    def open(self) -> Iterator["InputStream"]:
        """The decompressed bytes. Raises ``InputError`` when the file is missing, damaged or of a kind that is not read."""
        with reading(str(self)), self.path.open("rb") as raw:
            start = raw.read(6)
            raw.seek(0)
            for mark, kind in _UNREAD.items():
                if start.startswith(mark):
                    raise fail(str(self), f"is {kind}: must be UTF-8 text, .gz or .zst (convert it)")
            plain: IO[bytes] = raw
            if start.startswith(b"\x1f\x8b"):
                plain = cast(IO[bytes], gzip.GzipFile(fileobj=raw))
            elif start.startswith(b"\x28\xb5\x2f\xfd"):
                reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(raw, read_across_frames=True)
                plain = cast(IO[bytes], io.BufferedReader(cast(io.RawIOBase, reader)))
            stream = InputStream(self, raw, plain)
            try:
                stream.skip_mark()
                yield stream
                stream.report()
            except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
                raise fail(
                    str(self), f"is a damaged compressed file ({error}): must be whole (was it cut off? copy it again)"
                ) from error


class InputStream:
    """Decompressed bytes with their limits; ``read`` and ``readline`` as of a file."""

    def __init__(self, source: Source, raw: IO[bytes], plain: IO[bytes]) -> None:
        self._source, self._raw, self._plain = source, raw, plain
        self._most = max(MOST_BYTES, MOST_RATIO * source.bytes) if plain is not raw else None
        self._held = io.BytesIO()
        self._taken = self._reported = self._since = 0

    def skip_mark(self) -> None:
        """Leave out a UTF-8 byte order mark."""
        self.push_back(self._plain.read(3).removeprefix(b"\xef\xbb\xbf"))

    def push_back(self, data: bytes) -> None:
        """Put bytes back in front."""
        self._held = io.BytesIO(data + self._held.read())

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        data = self._held.read(size)
        if not data:
            data = self._plain.read(size)
            self._count(len(data))
        return data

    def readline(self, size: int) -> bytes:
        """Up to ``size`` bytes of a line, its end included."""
        data = self._held.readline(size)
        if len(data) < size and not data.endswith(b"\n"):
            more = self._plain.readline(size - len(data))
            self._count(len(more))
            data += more
        return data

    def lines(self) -> Iterator[tuple[int, bytes | None]]:
        """Every line that is not blank, with its number; None for one of more than ``LINE_BYTES``, whose bytes are skipped."""
        number = 0
        while line := self.readline(LINE_BYTES + 1):
            number += 1
            if len(line) > LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = self.readline(1 << 20)
                yield number, None
            elif not line.isspace():
                yield number, line

    def report(self) -> None:
        """Tell the progress made."""
        at = self._raw.tell()
        self._source.progress(at - self._reported)
        self._reported = at

    def _count(self, amount: int) -> None:
        self._taken += amount
        self._since += amount
        if self._since >= 1 << 20:
            self._since = 0
            self.report()
        if self._most is not None and self._taken > self._most:
            raise InputError(
                f"{self._source}: has more than {self._most >> 30} GiB when decompressed, {MOST_RATIO} times its size: must "
                "have less (decompress it first if that is meant)"
            )
