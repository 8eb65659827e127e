"""What is given to an import: files, folders, patterns, compressed ones, standard input; how the format is found; limits."""

import gzip
import io
import json
import subprocess
import sys
import textwrap

import pytest
import zstandard

from scepsy.errors import InputError
from scepsy.importers import record_reader
from scepsy.importers import source as source_module
from scepsy.importers.detect import find_format
from scepsy.importers.inputs import gather
from scepsy.importers.record_reader import json_records
from scepsy.importers.registry import IMPORTERS
from scepsy.importers.source import LINE_BYTES, WHOLE_BYTES, Source
from scepsy.importers.tally import Tally
from tests.builders.memory import PEAK_KIB
from tests.importers.samples import FOLDER

ROW = {"timestamp": 0, "input_length": 600, "output_length": 52, "hash_ids": [46]}


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def found(*paths: object) -> str:
    return find_format(gather(list(map(str, paths)), Tally()), IMPORTERS).format


@pytest.mark.parametrize(
    "pack",
    [
        bytes,
        gzip.compress,
        zstandard.ZstdCompressor().compress,
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: gzip.compress(b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n")),
        lambda data: b"[" + data.strip().replace(b"\n", b",") + b"]",
        lambda data: json.dumps([json.loads(line) for line in data.splitlines()], indent=1).encode(),
        lambda data: b"\n".join(json.dumps(json.loads(line), indent=1).encode() for line in data.splitlines()),
    ],
    ids=["plain", "gz", "zst", "bom", "crlf", "all", "list", "pretty", "concatenated"],
)
def test_the_same_rows_in_every_wrapping(tmp_path, pack):
    path = tmp_path / "x.data"
    path.write_bytes(pack(lines(ROW, ROW | {"timestamp": 5})))
    assert found(path) == "mooncake"
    trace = IMPORTERS["mooncake"]([path])
    assert [run.arrival_s for run in trace] == [0.0, 0.005]


def test_folders_patterns_and_standard_input(tmp_path):
    for name in ("a/one.jsonl", "a/b/two.jsonl.gz", "a/README.md", "a/.hidden.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = lines(ROW | {"timestamp": len(name)})
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    tally = Tally()
    assert [source.path.name for source in gather([tmp_path], tally)] == ["two.jsonl.gz", "one.jsonl"]
    assert tally.facts.total() == 1  # the read-me; hidden files are not even looked at
    assert len(gather([f"{tmp_path}/**/*.json*"], Tally())) == 2
    (source,) = gather(["-"], Tally(), io.BytesIO(lines(ROW)))
    assert str(source) == "standard input"
    assert [record.value for record in json_records(source, Tally())] == [ROW]
    for name, message in (("*.nothing", "matches no file"), ("a/b/none.json", "does not exist")):
        with pytest.raises(InputError, match=message):
            gather([tmp_path / name], Tally())
    with pytest.raises(InputError, match="standard input is empty"):
        gather(["-"], Tally(), io.BytesIO(b""))


def test_what_is_found_and_why_not(tmp_path):
    unknown = tmp_path / "u.jsonl"
    unknown.write_bytes(lines({"timestamp": 1, "input_length": 3, "colour": "a secret"}))
    with pytest.raises(InputError) as caught:
        found(unknown)
    assert "mooncake has no output_length" in str(caught.value)
    assert "secret" not in str(caught.value)
    rows, table = tmp_path / "m.jsonl", tmp_path / "a.csv"
    rows.write_bytes(lines(ROW))
    table.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,3,4\n")
    with pytest.raises(InputError, match=r"2 formats, mooncake \(.*m.jsonl\), azure \(.*a.csv\): must be of one"):
        found(rows, table)
    ours = tmp_path / "t.jsonl"
    ours.write_bytes(lines({"format": "scepsy.trace", "version": 1}))
    with pytest.raises(InputError, match="is a Scepsy trace already"):
        found(ours)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"PK\x03\x04xx", "is zip"), (b"\xff\xfe{\x00", "is UTF-16"), (gzip.compress(b"x" * 99)[:-9], "damaged compressed file")],
    ids=["zip", "utf-16", "cut"],
)
def test_what_cannot_be_read_is_named(tmp_path, data, message):
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        found(path)


def test_lines_that_are_no_json_are_dropped_and_counted(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines(ROW) + b'{"timestamp": 3, "inp}\n' + b"[" * 5000 + b"\n" + b"{truth}\n")
    trace = IMPORTERS["mooncake"]([path])
    assert len(trace.runs) == 1
    assert sum("left out: a line " in note for note in trace.source.notes) == 2  # two are no JSON, one is nested too deeply


def test_a_large_document_is_streamed_item_by_item(tmp_path):
    path = tmp_path / "x.json"
    span = json.dumps({"traceId": "t", "text": "x" * (1 << 20)})
    count = 3 * WHOLE_BYTES >> 20
    path.write_text('{"resourceSpans": [{"scopeSpans": [{"spans": [' + ",".join([span] * count) + "]}]}]}")
    assert sum(1 for _ in json_records(Source(path), Tally(), "resourceSpans.scopeSpans.spans")) == count
    path.write_text(path.read_text()[:-9])
    with pytest.raises(InputError, match="ends in the middle of a value"):
        list(json_records(Source(path), Tally(), "resourceSpans.scopeSpans.spans"))


def test_a_document_of_one_line_that_is_longer_than_any_line_may_be(tmp_path, monkeypatch):
    """Lines are bounded, documents are not: nothing breaks the line of an export that one program wrote at once."""
    for module in (record_reader, source_module):
        monkeypatch.setattr(module, "LINE_BYTES", 1 << 18)
    monkeypatch.setattr(record_reader, "WHOLE_BYTES", 1 << 16)
    spans = json.loads((FOLDER / "otel" / "request.json").read_text())["resourceSpans"][0]["scopeSpans"][0]["spans"]
    path = tmp_path / "x.json"
    many = [span | {"traceId": f"{number:032x}"} for number in range(200) for span in spans]
    path.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": many}]}]}))
    assert path.stat().st_size > 1 << 18
    assert found(path) == "otel"
    assert len(IMPORTERS["otel"]([path]).runs) == 200


def test_deep_nesting_of_a_large_document_does_not_take_all_memory(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"[" * (WHOLE_BYTES + 10))
    with pytest.raises(InputError, match="nested too deeply"):
        list(json_records(Source(path), Tally()))


PEAK = textwrap.dedent(
    f"""
    import sys
    from scepsy.importers.registry import IMPORTERS
    calls = sum(len(run.calls) for run in IMPORTERS[sys.argv[1]].stream(sys.argv[2:]).runs)
    print(calls, {PEAK_KIB})
    """
)


def peak_mib(name: str, *paths: object) -> tuple[int, float]:
    """Calls read and most memory of a process of its own, in MiB."""
    done = subprocess.run([sys.executable, "-c", PEAK, name, *map(str, paths)], capture_output=True, text=True, check=True)
    calls, kib = done.stdout.split()
    return int(calls), int(kib) / 1024


def test_one_enormous_line_in_a_small_file_is_skipped(tmp_path):
    """A small gzip file with a line three times too long: that line is dropped, the others are read in bounded memory."""
    path = tmp_path / "x.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(lines(ROW))
        for _ in range(3 * LINE_BYTES >> 20):
            file.write(b" " * (1 << 20))
        file.write(b"\n" + lines(ROW))
    assert path.stat().st_size < 1_000_000
    calls, mib = peak_mib("mooncake", path)
    assert calls == 2
    assert mib < 500
