"""The records of an input, one at a time: lines of JSON, items of a JSON document, rows of CSV; and a sample of the first ones.

A record that is no JSON, or is longer than the limit, is dropped and counted. A document that is cut off is refused: what is
missing at its end cannot be known.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import ijson
import msgspec

from scepsy.errors import InputError
from scepsy.files.failure import fail
from scepsy.importers.fields import DEEPEST, walk
from scepsy.importers.source import LINE_BYTES, WHOLE_BYTES, InputStream, Source
from scepsy.importers.tally import Tally

SAMPLE_BYTES = 1 << 20
SAMPLE_RECORDS = 50
MOST_OPEN = 5000
"""Brackets that a large document may have open at once."""


@dataclass(frozen=True)
class Record:
    """One record as decoded, and where it was."""

    value: Any
    line: int | None
    """Line number where the input has one record per line."""
    outer: Any = None
    """The document or the line that holds the record (of a very large document, its beginning)."""


def decode(data: bytes) -> Any:
    """JSON as plain values; NaN and Infinity, which are none, are accepted as numbers that no field may be.

    Raises ``ValueError`` with the reason, without any of the text.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise ValueError("is nested too deeply") from None
        if isinstance(error, UnicodeDecodeError):
            raise ValueError(f"is not UTF-8 (byte {data[error.start]:#04x})") from None
        try:
            return json.loads(data)
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        except ValueError:
            cut = "truncated" in str(error)
            raise ValueError("ends in the middle of a value" if cut else f"is not JSON ({error})") from None


def json_records(source: Source, tally: Tally, *paths: str) -> Iterator[Record]:
    """The records of an input, whatever holds them: one per line, a list, or a document with a list inside.

    ``paths`` are dotted places of lists (``resourceSpans.scopeSpans.spans``; lists on the way are gone through). A value
    that has one of them gives its items; one that has none is itself a record, a list its items.
    """
    with source.open() as stream:
        first = stream.readline(LINE_BYTES + 1)
        while first and first.isspace():
            first = stream.readline(LINE_BYTES + 1)
        if not first:
            raise fail(str(source), "is empty: must hold a document (was it cut off while being written?)")
        stream.push_back(first)
        if _is_lines(first):
            for line, data in stream.lines():
                yield from _line_records(source, tally, data, line, paths)
        else:
            yield from _document_records(source, stream, paths)


def _is_lines(first: bytes) -> bool:
    """Whether a first line is a whole value (or was meant as one): then every line is."""
    if len(first) > LINE_BYTES or not first.endswith(b"\n"):
        return False
    text = first.strip()
    if text[:1] == b"{" and text[-1:] == b"}":
        return True
    try:
        decode(text)
    except ValueError:
        return False
    return True


def _line_records(source: Source, tally: Tally, data: bytes | None, line: int, paths: Sequence[str]) -> Iterator[Record]:
    if data is None:
        tally.drop(f"a line is longer than {LINE_BYTES >> 20} MiB", source, line, kind="lines")
        return
    if len(data) > WHOLE_BYTES:
        yield from _large(source, io.BytesIO(data), data[:SAMPLE_BYTES], paths, line)
        return
    try:
        value = decode(data)
    except ValueError as error:
        tally.drop(f"a line {str(error).partition(' (')[0]}", source, line, kind="lines")
        return
    yield from _within(value, line, paths)


def _document_records(source: Source, stream: InputStream, paths: Sequence[str]) -> Iterator[Record]:
    parts, size = [], 0
    while size <= WHOLE_BYTES and (part := stream.read(1 << 20)):
        parts.append(part)
        size += len(part)
    data = b"".join(parts)
    if size > WHOLE_BYTES:
        stream.push_back(data)
        yield from _large(source, stream, data[: SAMPLE_BYTES * 4], paths, None)
        return
    try:
        value = decode(data)
    except ValueError as error:
        values = _concatenated(data)
        if len(values) < 2:
            raise fail(str(source), f"{error}: must be complete JSON (was it cut off? write it again)") from None
        for value in values:
            yield from _within(value, None, paths)
        return
    yield from _within(value, None, paths)


def _concatenated(data: bytes) -> list[Any]:
    """Several documents one after the other, as pretty-printing exporters append them; empty when it is not that."""
    values: list[Any] = []
    try:
        text, at = data.decode(), 0
        decoder = json.JSONDecoder()
        while at < len(text):
            value, at = decoder.raw_decode(text, at)
            values.append(value)
            while at < len(text) and text[at].isspace():
                at += 1
    except (ValueError, RecursionError):
        return []
    return values


def _within(value: Any, line: int | None, paths: Sequence[str]) -> Iterator[Record]:
    for outer in value if isinstance(value, list) else [value]:
        held = [path for path in paths if _has(outer, path)]
        if not held:
            yield Record(outer, line)
        for path in held:
            for item in walk(outer, path):
                yield Record(item, line, outer)


def _has(value: Any, path: str) -> bool:
    """Whether a path leads to a list, if only an empty one; further lists below are not looked at."""
    for step in path.split("."):
        if not isinstance(value, dict) or step not in value:
            return False
        value = value[step]
        if isinstance(value, list):
            return True
    return False


class _Item:
    """Bytes for ijson, with a bound on what one item may take."""

    def __init__(self, source: Source, stream: Any) -> None:
        self._source, self._stream = source, stream
        self.taken = self.open = 0

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(size)
        self.taken += len(data)
        if self.taken > LINE_BYTES:
            raise InputError(f"{self._source}: holds an item of more than {LINE_BYTES >> 20} MiB: must be smaller")
        # ijson keeps the path of every level, so that depth costs its square. Brackets in texts count too, which is rare.
        self.open += sum(map(data.count, (b"[", b"{"))) - sum(map(data.count, (b"]", b"}")))
        if self.open > MOST_OPEN:
            raise InputError(f"{self._source}: is nested too deeply: must follow the schema")
        return data


def _large(source: Source, stream: Any, head: bytes, paths: Sequence[str], line: int | None) -> Iterator[Record]:
    """The items of one large document, streamed."""
    outer = skeleton(head)
    first = outer[0] if isinstance(outer, list) and outer else outer
    inner = next((path for path in paths if _has(first, path)), None)
    if isinstance(outer, dict) and inner is None:
        raise fail(
            str(source),
            f"is a JSON value of more than {WHOLE_BYTES >> 20} MiB without a list of records near its begin: must be split",
            line=line,
        )
    steps = inner.split(".") if inner and isinstance(outer, dict) else []
    prefix = _prefix(outer, steps)
    item = _Item(source, stream)
    try:
        for value in ijson.items(item, prefix, use_float=True):
            item.taken = item.open = 0
            if steps:
                yield Record(value, line, outer)
            else:
                yield from _within(value, line, paths)
    except (ijson.JSONError, UnicodeDecodeError) as error:
        cut = isinstance(error, ijson.IncompleteJSONError) and "premature" in str(error)
        why = "ends in the middle of a value" if cut else "is not JSON (or holds NaN, which is none)"
        raise fail(str(source), f"{why}: must be complete JSON (was it cut off? write it again)", line=line) from None
    except RecursionError:
        raise fail(str(source), "is nested too deeply: must follow the schema", line=line) from None


def _prefix(outer: Any, steps: Sequence[str]) -> str:
    """ijson's name of the items at a path, by what the document's beginning holds there."""
    if not steps:
        return "item"
    prefix = ""
    for step in steps:
        outer = outer.get(step) if isinstance(outer, dict) else None
        prefix += f".{step}"
        if isinstance(outer, list) or outer is None:
            prefix += ".item"
            outer = outer[0] if outer else None
    return prefix[1:]


def skeleton(head: bytes) -> Any:
    """What the beginning of a document holds, as far as it goes; None when it is no JSON."""
    builder = ijson.ObjectBuilder()
    events = depth = 0
    try:
        for event, value in ijson.basic_parse(io.BytesIO(head), use_float=True):
            depth += event.startswith("start_") - event.startswith("end_")
            if depth > DEEPEST:
                break
            builder.event(event, value)
            events += 1
    except (ijson.JSONError, UnicodeDecodeError, ValueError, RecursionError, IndexError):
        pass
    return getattr(builder, "value", None) if events else None


def csv_rows(source: Source, tally: Tally, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(line number, the named columns' texts) of every row of a CSV input with a header. A row of other width is dropped."""
    with source.open() as stream:
        header, number = None, 0
        for number, line in stream.lines():
            row = _csv(line)
            if header is None:
                header = [name.strip() for name in row or []]
                missing = [name for name in columns if name not in header]
                if missing:
                    raise fail(str(source), f"column {missing[0]} is missing: must have {', '.join(columns)}", line=number)
                places = [header.index(name) for name in columns]
            elif row is None or len(row) != len(header):
                width = "no text" if row is None else f"{len(row)} columns"
                tally.drop(f"a row has {width}: must have {len(header)} columns (was it cut off?)", source, number)
            else:
                yield number, [row[place] for place in places]
        if header is None:
            raise fail(str(source), f"is empty: must begin with the columns {', '.join(columns)}")


def _csv(line: bytes | None) -> list[str] | None:
    """One row; quoted line breaks are in none of the formats."""
    try:
        return next(csv.reader([line.decode()])) if line is not None else None
    except (csv.Error, UnicodeDecodeError, StopIteration):
        return None


@dataclass(frozen=True)
class FileSample:
    """The beginning of an input, for finding out what it is."""

    source: Source
    form: Literal["json lines", "json", "csv", "text", "empty"]
    values: list[Any] = field(default_factory=list)
    """The first lines decoded, or the document (of a large one, its beginning)."""
    columns: tuple[str, ...] = ()
    """The header of a CSV input."""

    def records(self, *paths: str) -> list[Any]:
        """The first records, as ``json_records`` would give them."""
        found = [record.value for value in self.values for record in _within(value, None, paths)]
        return found[: SAMPLE_RECORDS * 4]


def take_sample(source: Source) -> FileSample:
    """Read the beginning of an input. Raises ``InputError`` when it cannot be read at all."""
    with source.open() as stream:
        first = stream.readline(LINE_BYTES + 1)
        while first and first.isspace():
            first = stream.readline(LINE_BYTES + 1)
        if not first:
            return FileSample(source, "empty")
        if first.lstrip()[:1] in (b"{", b"["):
            return _json_sample(source, stream, first)
        row = _csv(first)
        if row and len(row) > 1:
            return FileSample(source, "csv", columns=tuple(name.strip() for name in row))
        return FileSample(source, "text")


def _json_sample(source: Source, stream: InputStream, first: bytes) -> FileSample:
    if _is_lines(first):
        values, size = [], 0
        for line in chain((first,), _some(stream)):
            size += len(line)
            try:
                values.append(decode(line) if len(line) <= WHOLE_BYTES else skeleton(line[: SAMPLE_BYTES * 4]))
            except ValueError:
                continue
            if size > SAMPLE_BYTES * 4 or len(values) >= SAMPLE_RECORDS:
                break
        return FileSample(source, "json lines", values)
    parts, size = [first], len(first)
    while size <= WHOLE_BYTES and (part := stream.read(SAMPLE_BYTES)):
        parts.append(part)
        size += len(part)
    data = b"".join(parts)
    try:
        whole = decode(data) if size <= WHOLE_BYTES else skeleton(data[: SAMPLE_BYTES * 4])
    except ValueError:
        whole = skeleton(data[: SAMPLE_BYTES * 4])
    return FileSample(source, "json", [] if whole is None else [whole])


def _some(stream: InputStream) -> Iterator[bytes]:
    for _, line in stream.lines():
        yield line or b""
