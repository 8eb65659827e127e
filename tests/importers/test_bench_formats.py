"""How fast each format is imported (``make bench``; SCEPSY_BENCH_MB=20 for the table): its sample again and again.

Ids are made distinct, and texts are as long as in real sessions where the format records any.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scepsy.importers.registry import IMPORTERS
from tests.builders.memory import PEAK_KIB
from tests.importers.samples import CANARY, WITHOUT_TEXT, samples

SIZE_MB = float(os.environ.get("SCEPSY_BENCH_MB", "0.2"))

MOST_MIB = 500

TEXT = "Say what the weather will be in Aberdeen. " * 20

IDS = re.compile(r'("(?:\w*_id|id|uuid|parentUuid|sessionId|traceId|spanId)": ")([^"]*)(")')

IMPORT = f"""
import json, pathlib, sys, time
from scepsy.files.trace import TraceWriter
from scepsy.importers.registry import IMPORTERS
name, path, out = sys.argv[1:]
begin = time.process_time()
imported = IMPORTERS[name].stream([path])
calls = 0
with TraceWriter(pathlib.Path(out), imported.source, imported.prefix_block_tokens) as writer:
    for run in imported.runs:
        writer.write(run)
        calls += len(run.calls)
print(json.dumps({{"calls": calls, "CPU s": time.process_time() - begin, "MiB": {PEAK_KIB} / 1024}}))
"""
"""An import and its writing, in a process of its own; the start of the process does not count."""

SLOW_TO_MULTIPLY = {"recording"}
"""Inputs whose ids are checked against one another."""


def enlarged(name: str, path: Path, into: Path) -> None:
    """The records of a sample, repeated up to the size."""
    text = path.read_text()
    if path.suffix == ".csv":
        header, *rows = text.splitlines(keepends=True)
        into.write_text(header + "".join(rows) * int(SIZE_MB * 1e6 / sum(map(len, rows)) + 1))
        return
    try:
        records = [json.loads(text)]
    except ValueError:
        records = [json.loads(line) for line in text.splitlines()]
    once = "".join(json.dumps(record) + "\n" for record in records)
    if name not in WITHOUT_TEXT:
        once = once.replace(CANARY, TEXT)
    with into.open("w") as file:
        number = 0
        while file.tell() < SIZE_MB * 1e6:
            number += 1
            file.write(IDS.sub(rf"\g<1>\g<2>-{number}\g<3>", once))


@pytest.mark.parametrize("name", [name for name in IMPORTERS if name not in SLOW_TO_MULTIPLY])
def test_bench_format(benchmark, tmp_path, name):
    path = next(path for of, path in samples() if of == name)
    into = tmp_path / f"x{path.suffix}"
    enlarged(name, path, into)
    command = [sys.executable, "-c", IMPORT, name, str(into), str(tmp_path / "t.jsonl")]

    def run() -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        benchmark.extra_info.update(json.loads(done.stdout))

    benchmark.pedantic(run, rounds=1)
    benchmark.extra_info["MB"] = into.stat().st_size / 1e6
    assert benchmark.extra_info["calls"] > 0
    assert benchmark.extra_info["MiB"] < MOST_MIB
