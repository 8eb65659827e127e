"""How fast traces are written, streamed and summed up (``make bench``)."""

from pathlib import Path

import pytest

from scepsy.files.trace import TraceReader, save_trace
from scepsy.generate import generate
from scepsy.stats.table import tabulate
from scepsy.stats.use import workflow_uses
from scepsy.workload import Trace


@pytest.fixture(scope="module")
def trace() -> Trace:
    return generate("beam-search", runs=250, seed=1)


@pytest.fixture(scope="module")
def path(trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("bench") / "t.jsonl"
    save_trace(file, trace)
    return file


def test_bench_generate(benchmark):
    runs = benchmark(lambda: generate("beam-search", runs=50, seed=1).runs)
    assert len(runs) == 50


def test_bench_write(benchmark, trace, tmp_path):
    benchmark(save_trace, tmp_path / "t.jsonl", trace)
    assert (tmp_path / "t.jsonl").stat().st_size > 1_000_000


def test_bench_stream(benchmark, path, trace):
    assert benchmark(lambda: sum(len(run.calls) for run in TraceReader(path))) == sum(len(run.calls) for run in trace)


def test_bench_use(benchmark, trace):
    assert set(benchmark(workflow_uses, trace)) == {"beam-search"}


def test_bench_tabulate(benchmark, trace):
    assert benchmark(tabulate, trace)["beam-search"].runs == 250
