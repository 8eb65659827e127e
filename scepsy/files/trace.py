"""Trace files: JSON lines. The first line is a header, every further line is one run; ``.gz`` is read and written.

Reading streams: one run is in memory at a time (plus the ids seen, to refuse a second one). The header's ``runs`` lets
a reader notice a file that was cut off between two lines; the writer fills it in when the last run is written
(a gzip stream has an end mark of its own).
"""

import gc
import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import msgspec

from scepsy.errors import InputError
from scepsy.files.atomic import atomic_path
from scepsy.files.document import check_envelope
from scepsy.files.failure import decode_json, explain, fail, reading, shown
from scepsy.progress import Progress, no_progress
from scepsy.value import Value, require
from scepsy.workload import Run, Trace, TraceSource

FORMAT, VERSION = "scepsy.trace", 1
_COUNT_DIGITS = 12

LINE_BYTES = 64 << 20
"""A run whose line is longer is refused: a small packed file could unpack to one line of gigabytes. A call takes some 200 bytes
beside its prefix hashes, so this holds a run of 10^5 calls."""


class TraceHeader(Value, frozen=True, kw_only=True):
    """The first line, beside ``format`` and ``version``."""

    source: TraceSource
    prefix_block_tokens: int = 0
    runs: int | None = None
    """How many runs follow; None when the writer could not know."""

    def __post_init__(self) -> None:
        require(self.prefix_block_tokens >= 0, "prefix_block_tokens", self.prefix_block_tokens, ">= 0")
        if self.runs is not None:
            require(self.runs >= 0, "runs", self.runs, ">= 0")


class TraceReader:
    """An open trace file: its header, and its runs one by one.

    Iterating raises ``InputError`` at the first line that is wrong, at a duplicate run id, and at the end of a file
    that holds no run or fewer than its header says.
    """

    def __init__(self, path: str | Path, progress: Progress = no_progress) -> None:
        self.path = Path(path)
        self._progress = progress
        with self._open() as (_, lines):
            first = next(lines, None)
        if first is None:
            raise fail(path, "is empty: must begin with a header line (was it cut off?)")
        fields = check_envelope(path, decode_json(path, first, line=1), FORMAT, VERSION, line=1)
        try:
            self.header = msgspec.convert(fields, TraceHeader)
        except msgspec.ValidationError as error:
            raise fail(path, explain(error, fields, TraceHeader)[1], line=1) from error

    @property
    def source(self) -> TraceSource:
        """Where the trace comes from."""
        return self.header.source

    @property
    def prefix_block_tokens(self) -> int:
        """Tokens per prefix hash."""
        return self.header.prefix_block_tokens

    def __iter__(self) -> Iterator[Run]:
        decoder = msgspec.json.Decoder(Run)
        seen: set[str] = set()
        reported = 0
        with self._open() as (raw, lines):
            next(lines, None)
            for number, line in enumerate(lines, start=2):
                if line.isspace():
                    continue
                run = self._decode(decoder, line, number)
                if run.id in seen:
                    raise fail(
                        self.path, f"id is {shown(run.id)}: must be unique within the trace (another line has it)", line=number
                    )
                seen.add(run.id)
                yield run
                if number % 64 == 0:
                    position = raw.tell()
                    self._progress(position - reported)
                    reported = position
        self._progress(self.path.stat().st_size - reported)
        self._check_count(len(seen))

    def _decode(self, decoder: msgspec.json.Decoder[Run], line: bytes, number: int) -> Run:
        try:
            return decoder.decode(line)
        except msgspec.ValidationError as error:
            raise fail(self.path, explain(error, _untyped(line), Run)[1], line=number) from error
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            decode_json(self.path, line, number)  # raises with the reason
            raise fail(self.path, f"is not a run: {error}", line=number) from error

    def _check_count(self, runs: int) -> None:
        if runs == 0:
            raise fail(self.path, "holds no run: must hold at least one (an empty trace predicts nothing)")
        if self.header.runs is not None and runs != self.header.runs:
            raise fail(self.path, f"holds {runs} runs: must hold {self.header.runs}, as its header says (was it cut off?)")

    def _open(self) -> "_Opened":
        return _Opened(self.path)


def _untyped(line: bytes) -> object:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None  # a second thing is wrong with the line; the typed error has named the first


class _Opened:
    """The file and its lines, decompressed if need be; everything that goes wrong becomes ``InputError``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> tuple[IO[bytes], Iterator[bytes]]:
        with reading(self._path):
            self._raw = self._path.open("rb")
            zipped = self._raw.read(2) == b"\x1f\x8b"
            self._raw.seek(0)
        lines = cast(IO[bytes], gzip.GzipFile(fileobj=self._raw)) if zipped else self._raw
        return self._raw, self._lines(lines)

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def _lines(self, file: IO[bytes]) -> Iterator[bytes]:
        with reading(self._path):
            try:
                while line := file.readline(LINE_BYTES + 1):
                    if len(line) > LINE_BYTES:
                        raise fail(
                            self._path, f"holds a line of more than {LINE_BYTES >> 20} MiB: must be shorter (a run per line)"
                        )
                    yield line
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise fail(
                    self._path, f"is a damaged gzip file ({error}): must be whole (was it cut off? copy it again)"
                ) from error


def load_trace(path: str | Path, progress: Progress = no_progress) -> Trace:
    """Read a whole trace into memory. Raises ``InputError`` naming file, line, field and remedy."""
    reader = TraceReader(path, progress)
    with _uncollected():
        return Trace(source=reader.source, runs=tuple(reader), prefix_block_tokens=reader.prefix_block_tokens)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection while millions of values that hold no cycles are built: it would walk them over and over."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class TraceWriter:
    """Write runs one by one; the file appears, complete, when the ``with`` block ends well.

    ``source`` may be set until then where it was given as None: what an import left out is known only at its end.

        with TraceWriter("t.jsonl", source) as writer:
            for run in runs:
                writer.write(run)

    The same runs give the same bytes, compressed or not. ``write`` raises ``InputError`` on a second run of one id;
    leaving the block raises it when no run was written.
    """

    def __init__(self, path: str | Path, source: TraceSource | None, prefix_block_tokens: int = 0) -> None:
        self.path = Path(path)
        self.source = source
        self._late = source is None
        self._prefix_block_tokens = prefix_block_tokens
        self._seen: set[str] = set()
        self._encoder = msgspec.json.Encoder()

    def __enter__(self) -> "TraceWriter":
        self._atomic = atomic_path(self.path)
        self._aside = self._atomic.__enter__()
        self._raw = self._aside.open("wb")
        zipped = self.path.suffix == ".gz"
        self._target: Any = gzip.GzipFile(filename="", mode="wb", fileobj=self._raw, mtime=0) if zipped else self._raw
        self._file: Any = self._target
        self._count_at: int | None = None
        if self._late:  # the runs go aside until the header is known
            self._file = tempfile.TemporaryFile()
            return self
        text = self._header_text()
        if not zipped:  # room for the count, which is known at the end
            text += b',"runs":'
            self._count_at = len(text)
            text += b" " * (_COUNT_DIGITS - 1) + b"0"
        self._file.write(text + b"}\n")
        return self

    def _header_text(self) -> bytes:
        header = TraceHeader(source=self.source or TraceSource(origin=""), prefix_block_tokens=self._prefix_block_tokens)
        fields = {"format": FORMAT, "version": VERSION, **cast(dict[str, Any], msgspec.to_builtins(header))}
        return self._encoder.encode(fields)[:-1]

    def write(self, run: Run) -> None:
        """Append one run."""
        if run.id in self._seen:
            raise InputError(f"{self.path}: run id {shown(run.id)} is given twice: must be unique within the trace")
        self._seen.add(run.id)
        self._file.write(self._encoder.encode(run) + b"\n")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._late:
            if kind is None:
                self._target.write(self._header_text() + f',"runs":{len(self._seen)}}}\n'.encode())
                self._file.seek(0)
                shutil.copyfileobj(self._file, self._target, 1 << 20)
            self._file.close()
        if self._target is not self._raw:
            self._target.close()
        elif self._count_at is not None:
            self._raw.seek(self._count_at)
            self._raw.write(str(len(self._seen)).rjust(_COUNT_DIGITS).encode())
        self._raw.close()
        if kind is None and not self._seen:
            error = InputError(f"{self.path}: holds no run: must hold at least one (nothing was written)")
            if not self._atomic.__exit__(InputError, error, None):
                raise error
        self._atomic.__exit__(kind, error, trace)


def save_trace(path: str | Path, trace: Trace) -> None:
    """Write a whole trace, atomically."""
    with TraceWriter(path, trace.source, trace.prefix_block_tokens) as writer:
        for run in trace:
            writer.write(run)
