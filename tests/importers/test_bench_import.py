"""What an import takes: seconds and memory by the size of the input (``make bench``; SCEPSY_BENCH_MB=1000 for the table).

Memory is that of a process of its own. Two shapes each: spans with prompts and answers in them, as tracing tools export
them, and bare spans, of which there are twenty times as many per megabyte.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scepsy.importers.source import WHOLE_BYTES
from tests.builders.memory import PEAK_KIB

SIZE_MB = float(os.environ.get("SCEPSY_BENCH_MB", "12"))

MOST_MIB = 500

IMPORT = f"""
import sys
from scepsy.cli import main
try:
    main()
finally:
    open(sys.argv[sys.argv.index("-o") + 1] + ".peak", "w").write(str({PEAK_KIB}))
"""


def spans(text: str) -> Iterator[dict[str, Any]]:
    """Runs of ten calls under a root, two at a time."""
    number = 0
    while True:
        trace, begin = f"{number:032x}", 1_780_000_000_000_000_000 + number * 50_000_000
        yield span(trace, 0, "", begin, begin + 25_000_000_000, [("gen_ai.operation.name", "invoke_agent")])
        for call in range(10):
            at = begin + call // 2 * 5_000_000_000
            said: list[tuple[str, str | int]] = [
                ("gen_ai.operation.name", "chat"), ("gen_ai.request.model", "gpt-4o-mini"),
                ("gen_ai.usage.input_tokens", 900 + call), ("gen_ai.usage.output_tokens", 100 + call),
            ]  # fmt: skip
            if text:
                said += [("gen_ai.input.messages", text), ("gen_ai.output.messages", text)]
            yield span(trace, call + 1, f"{0:016x}", at, at + 4_000_000_000, said)
        number += 1


def span(trace: str, number: int, parent: str, start: int, end: int, said: list[tuple[str, Any]]) -> dict[str, Any]:
    kinds = {int: "intValue", str: "stringValue"}
    attributes = [{"key": key, "value": {kinds[type(value)]: str(value)}} for key, value in said]
    return {
        "traceId": trace, "spanId": f"{number:016x}", "parentSpanId": parent, "name": "chat gpt-4o-mini", "kind": 3,
        "startTimeUnixNano": str(start), "endTimeUnixNano": str(end), "attributes": attributes, "status": {},
    }  # fmt: skip


def collector_lines(path: Path, text: str) -> None:
    """One export request of 100 spans per line, as the Collector's file exporter writes them."""
    source = spans(text)
    with path.open("w") as file:
        while file.tell() < SIZE_MB * 1e6:
            batch = [next(source) for _ in range(100)]
            file.write(json.dumps({"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": batch}]}]}) + "\n")


def one_request(path: Path, text: str) -> None:
    """Everything in one document without a line break."""
    source = spans(text)
    with path.open("w") as file:
        file.write('{"resourceSpans":[{"scopeSpans":[{"spans":[')
        while file.tell() < SIZE_MB * 1e6:
            file.write(json.dumps(next(source)) + ",")
        file.write(json.dumps(next(source)) + "]}]}]}")


def litellm_lines(path: Path, text: str) -> None:
    """A payload per line."""
    number = 0
    with path.open("w") as file:
        while file.tell() < SIZE_MB * 1e6:
            begin = 1_780_000_000.0 + number / 10
            row = {
                "id": f"chatcmpl-{number:x}", "trace_id": f"run-{number // 10}", "call_type": "acompletion",
                "model": "gpt-4o-mini", "prompt_tokens": 900, "completion_tokens": 100, "total_tokens": 1000,
                "startTime": begin, "endTime": begin + 4.0,
                "messages": [{"role": "user", "content": text}], "response": {"choices": [{"message": {"content": text}}]},
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
            number += 1


WRITERS = {"otlp-lines": collector_lines, "otlp-document": one_request, "litellm-lines": litellm_lines}
PROMPT = "Say what the weather will be in Aberdeen. " * 60


@pytest.mark.parametrize("text", [PROMPT, ""], ids=["with-text", "bare"])
@pytest.mark.parametrize("shape", WRITERS)
def test_bench_import(benchmark, tmp_path, shape, text):
    path = tmp_path / ("x.json" if shape == "otlp-document" else "x.jsonl")
    write: Callable[[Path, str], None] = WRITERS[shape]
    write(path, text)

    def run() -> None:
        command = [sys.executable, "-c", IMPORT, "trace", "import", str(path), "-o", str(tmp_path / "t.jsonl"), "--json"]
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        benchmark.extra_info["calls"] = json.loads(done.stdout)["calls"]
        benchmark.extra_info["MB"] = path.stat().st_size / 1e6
        benchmark.extra_info["seconds"] = time.perf_counter() - begin
        benchmark.extra_info["said while it ran"] = done.stderr.count("MB read")

    benchmark.pedantic(run, rounds=1)
    mib = int((tmp_path / "t.jsonl.peak").read_text()) / 1024
    benchmark.extra_info["MiB"] = mib
    print(shape, "bare" if not text else "with text", benchmark.extra_info)
    assert benchmark.extra_info["calls"] > SIZE_MB * 50
    assert mib < MOST_MIB
    assert SIZE_MB * 1e6 < WHOLE_BYTES or shape != "otlp-document" or path.stat().st_size > WHOLE_BYTES  # streamed
