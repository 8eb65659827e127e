"""Reading the recording files that a gateway writes, whatever crashed while it wrote."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from scepsy.errors import InputError
from scepsy.files.failure import explain, fail, read_bytes
from scepsy.importers.base import Imported, Importer, read_whole
from scepsy.importers.record_reader import FileSample
from scepsy.importers.recorded.record import FORMAT, CallRecord, Header
from scepsy.importers.recorded.trace import to_trace
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally


class Recorded(msgspec.Struct, frozen=True):
    """A recording file's content."""

    calls: tuple[CallRecord, ...]
    sessions: int
    torn_lines: int
    """Lines cut short by a crash or a full disk, skipped."""


_CALL = msgspec.json.Decoder(CallRecord)
_HEADER = msgspec.json.Decoder(Header)


def load_recording(path: str | Path | Source) -> Recorded:
    """Read a recording. Raises ``InputError`` naming file and line for anything but a line cut short."""
    calls, sessions, torn = [], 0, 0
    for number, line in _lines(read_whole(path) if isinstance(path, Source) else read_bytes(path)):
        try:
            if line.startswith(b'{"format"'):
                _HEADER.decode(line)
                sessions += 1
            else:
                calls.append(_CALL.decode(line))
        except msgspec.ValidationError as error:
            document = _plain(line)  # None: a second thing is wrong with the line; the typed error has named the first
            raise fail(str(path), explain(error, document, CallRecord)[1], line=number) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            torn += 1
    if not sessions:
        raise InputError(f"{path}: format is missing: must begin with a scepsy.recording header (is it another file?)")
    return Recorded(tuple(calls), sessions, torn)


def _plain(line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            yield number, line


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    recorded = [load_recording(source) for source in sources]
    calls = _each_once([call for part in recorded for call in part.calls], tally)
    for call in calls:
        if call.outcome == "completed" and call.input_tokens >= 1:
            tally.cached_tokens += min(call.cached_tokens, call.input_tokens)
            if call.counted_by == "bytes":
                tally.estimate("tokens from the recorded bytes, 4 bytes a token")
        else:
            tally.drop(f"{call.outcome} calls" if call.outcome != "completed" else "calls without input tokens")
    origin = ", ".join(source.label for source in sources)
    try:
        trace = to_trace(
            calls, origin, torn_lines=sum(part.torn_lines for part in recorded), found=lambda edge: tally.infer(edge.confidence)
        )
    except ValueError as error:
        raise InputError(f"{origin}: {error}") from error
    return Imported(source=trace.source, runs=iter(trace.runs), prefix_block_tokens=trace.prefix_block_tokens)


def _each_once(calls: Sequence[CallRecord], tally: Tally) -> list[CallRecord]:
    """Calls by run and id; the last one of those given twice."""
    kept = {(call.session, call.workflow, call.run, call.id): call for call in calls}
    tally.duplicates += len(calls) - len(kept)
    return list(kept.values())


def _detect(sample: FileSample) -> str | None:
    first = sample.values[0] if sample.values else None
    return "begins with a scepsy.recording header" if isinstance(first, dict) and first.get("format") == FORMAT else None


RECORDING = Importer("calls recorded by `scepsy gateway`; dependencies inferred from hashes and times", _open, detect=_detect)
