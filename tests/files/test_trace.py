"""Trace files: every message, streaming, counts, compression."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from scepsy.errors import InputError
from scepsy.files.trace import TraceReader, TraceWriter, load_trace, save_trace
from scepsy.workload import Call, Run, Trace, TraceSource

SOURCE = TraceSource(origin="test", seed=3, assumptions=("a",))


def make_run(number: int, calls: int = 2) -> Run:
    return Run(
        id=f"r{number}",
        workflow="w",
        calls=tuple(
            Call(id=f"c{i}", llm="m", input_tokens=10, output_tokens=2, parents=(f"c{i - 1}",) if i else ())
            for i in range(calls)
        ),
    )


def make_trace(runs: int = 3) -> Trace:
    return Trace(source=SOURCE, runs=tuple(make_run(i) for i in range(runs)), prefix_block_tokens=64)


def write_lines(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


HEADER = '{"format":"scepsy.trace","version":1,"source":{"origin":"x"}}'
RUN = '{"id":"r","workflow":"w","calls":[{"id":"a","llm":"m","input_tokens":3,"output_tokens":1}]}'


def test_the_file_as_text(tmp_path):
    save_trace(tmp_path / "t.jsonl", Trace(source=TraceSource(origin="x"), runs=(make_run(0, calls=1),)))
    assert (tmp_path / "t.jsonl").read_text() == (
        '{"format":"scepsy.trace","version":1,"source":{"origin":"x"},"runs":           1}\n'
        '{"id":"r0","workflow":"w","calls":[{"id":"c0","llm":"m","input_tokens":10,"output_tokens":2}]}\n'
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([RUN], "line 1: format is missing: must be scepsy.trace"),
        ([HEADER.replace(":1,", ":2,")], "line 1: version is 2: must be 1 (written by a newer Scepsy: upgrade)"),
        ([HEADER.replace(":1,", ':"1",')], "line 1: version is '1': must be 1 (write it again)"),
        ([HEADER.replace(":1,", ":true,")], "line 1: version is True: must be 1"),
        ([HEADER.replace("scepsy.trace", "scepsy.plan")], "line 1: format is 'scepsy.plan': must be scepsy.trace"),
        ([HEADER.replace('"origin"', '"orign"')], "line 1: source.orign is not a known field: must be left out (did you mean 'origin'?)"),  # noqa: E501
        ([HEADER.replace("{\"origin", "{\"license\":\"\",\"origin")], "source.license is not a known field: must be left out (did you mean 'licence'?)"),  # noqa: E501
        ([HEADER], "holds no run: must hold at least one"),
        ([HEADER, RUN, RUN], "line 3: id is 'r': must be unique within the trace"),
        ([HEADER, RUN.replace(":3", ":-5")], "line 2: calls[0].input_tokens is -5: must be >= 1"),
        ([HEADER, RUN.replace(":3", ":NaN")], "line 2: is not JSON (JSON is malformed: invalid character (byte"),
        ([HEADER, RUN.replace(":3", ":1e400")], "line 2: calls[0].input_tokens is"),
        ([HEADER, RUN.replace(":3", ":3000000000")], "line 2: calls[0].input_tokens is 3000000000: must be >= 1 and < 2**31"),
        ([HEADER, RUN.replace(":3", ':"3"')], "line 2: calls[0].input_tokens is '3': must be an integer"),
        ([HEADER, RUN.replace(":3", ":3.5")], "line 2: calls[0].input_tokens is 3.5: must be an integer"),
        ([HEADER, RUN.replace('"output_tokens":1', '"gap_s":1')], "line 2: calls[0].output_tokens is 0: must be >= 1"),
        ([HEADER, RUN.replace('"llm":"m",', "")], "line 2: calls[0].llm is missing: must be given"),
        ([HEADER, RUN.replace('"llm"', '"model"')], "line 2: calls[0].model is not a known field: must be left out (remove it)"),  # noqa: E501
        ([HEADER, RUN.replace('"llm":"m"', '"llm":"m","kind":"chat"')], "calls[0].kind is 'chat': must be one of generate, embed, rerank"),  # noqa: E501
        ([HEADER, RUN.replace('"llm":"m"', '"llm":"m","parents":["z"]')], "line 2: calls[0].parents: 'z' is no call of this run"),  # noqa: E501
        ([HEADER, RUN.replace('"llm":"m"', '"llm":"m","parents":["a"]')], "line 2: calls[0].parents: cycle: 'a' waits for 'a'"),
        ([HEADER, RUN.replace("[{", "[]").split("]")[0] + "]}"], "line 2: calls is (): must be at least one call"),
        ([HEADER, RUN[:40]], "line 2: ends in the middle of a value: must be complete JSON"),
        ([HEADER.replace('"source"', '"runs":2,"source"'), RUN], "holds 1 runs: must hold 2, as its header says (was it cut off?)"),  # noqa: E501
        ([HEADER, "[1]"], "line 2: the document is [1]: must be a mapping"),
    ],
)  # fmt: skip
def test_bad_lines_are_named(tmp_path, lines, message):
    path = write_lines(tmp_path / "t.jsonl", *lines)
    with pytest.raises(InputError) as caught:
        load_trace(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_two_things_wrong_in_one_line(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(HEADER.encode() + b"\n" + RUN.replace(":3", ':"x"').encode()[:-1] + b',"session":"\x83"}\n')
    with pytest.raises(InputError, match=r"line 2: .*(input_tokens|UTF-8)"):
        load_trace(path)


def test_cycle_through_other_calls_is_named(tmp_path):
    run = (
        '{"id":"r","workflow":"w","calls":[{"id":"a","llm":"m","input_tokens":3,"output_tokens":1,"parents":["b"]},'
        '{"id":"b","llm":"m","input_tokens":3,"output_tokens":1,"parents":["a"]}]}'
    )
    with pytest.raises(InputError, match="cycle: 'a' waits for 'b', which waits for 'a'"):
        load_trace(write_lines(tmp_path / "t.jsonl", HEADER, run))


def test_header_without_count_is_read(tmp_path):
    assert len(load_trace(write_lines(tmp_path / "t.jsonl", HEADER, RUN)).runs) == 1


def test_cut_between_two_lines_is_noticed(tmp_path):
    path = tmp_path / "t.jsonl"
    save_trace(path, make_trace(3))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match="holds 2 runs: must hold 3"):
        load_trace(path)


def test_gzip_has_the_same_text_no_time_and_no_name(tmp_path):
    save_trace(tmp_path / "a.jsonl.gz", make_trace())
    save_trace(tmp_path / "b.jsonl.gz", make_trace())
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    lines = gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).decode().splitlines()
    assert [json.loads(line)["id"] for line in lines[1:]] == ["r0", "r1", "r2"]


def test_compression_is_found_by_content_not_by_name(tmp_path):
    save_trace(tmp_path / "a.jsonl.gz", make_trace())
    (tmp_path / "a.jsonl").write_bytes((tmp_path / "a.jsonl.gz").read_bytes())
    assert load_trace(tmp_path / "a.jsonl") == make_trace()


def test_writer_refuses_a_second_run_of_one_id_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="run id 'r1' is given twice"):  # noqa: PT012, SIM117
        with TraceWriter(tmp_path / "t.jsonl", SOURCE) as writer:
            for _ in range(2):
                writer.write(make_run(1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_writer_refuses_an_empty_trace_and_leaves_nothing(tmp_path, name):
    with pytest.raises(InputError, match="holds no run"), TraceWriter(tmp_path / name, SOURCE):
        pass
    assert list(tmp_path.iterdir()) == []


def test_reader_streams_and_reports_all_bytes(tmp_path):
    path = tmp_path / "t.jsonl"
    save_trace(path, make_trace(500))
    steps: list[int] = []
    reader = TraceReader(path, steps.append)
    assert (reader.source, reader.prefix_block_tokens) == (SOURCE, 64)
    first = next(iter(reader))
    assert first == make_run(0)
    assert sum(1 for _ in TraceReader(path, steps.append)) == 500
    assert sum(steps) == path.stat().st_size
    assert len(steps) > 3


def test_a_million_calls_stream_in_bounded_memory(tmp_path):
    path = tmp_path / "big.jsonl"
    with TraceWriter(path, SOURCE) as writer:
        for number in range(50_000):
            writer.write(make_run(number, calls=20))
    script = (
        "import resource, sys\n"
        "from scepsy.files.trace import TraceReader\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "calls = sum(len(run.calls) for run in TraceReader(sys.argv[1]))\n"
        "print(calls, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    output = subprocess.run([sys.executable, "-c", script, str(path)], check=True, capture_output=True, text=True).stdout
    calls, grown_kib = map(int, output.split())
    assert calls == 1_000_000
    assert grown_kib < 40 * 1024  # the ids of 50,000 runs, one run, a read buffer; the file is 90 MB
