"""What whole commands cost (``make bench``): planning with its judge, and the demo."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from scepsy.files.trace import save_trace
from scepsy.generate import generate

START = "from scepsy.start import main; main()"


@pytest.fixture(autouse=True)
def _only_measured(pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("benchmark_enable"):
        pytest.skip("measured by make bench only; what the commands do is tested beside")


def run(folder: Path, *words: str) -> str:
    """A command in a process of its own, with caches of its own."""
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-c", START, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def children_s() -> float:
    """Processor time of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_bench_plan_with_its_judge(benchmark: Any, tmp_path: Path) -> None:
    """From a warm cache: the first call makes the curves."""
    save_trace(tmp_path / "t.jsonl", generate("rag-rerank", runs=200, seed=1))
    words = ("plan", "-t", "t.jsonl", "--rate", "30", "--gpus", "8", "--json", "-o", "p.plan.yaml")
    begun = time.perf_counter(), children_s()
    run(tmp_path, *words)
    benchmark.extra_info.update(cold_wall_s=time.perf_counter() - begun[0], cold_cpu_s=children_s() - begun[1])
    begun_s, spent = children_s(), []
    judged = json.loads(benchmark.pedantic(lambda: spent.append(run(tmp_path, *words)) or spent[-1], rounds=3))["judged"]
    benchmark.extra_info.update(cpu_s=(children_s() - begun_s) / 3, candidates=judged["candidates"], judge_s=judged["seconds"])


def test_bench_demo(benchmark: Any, tmp_path: Path) -> None:
    """Cold: the first start of all, compilation and curves included."""
    begun_s = children_s()
    benchmark.pedantic(lambda: run(tmp_path, "demo", "-o", "out", "--json"), rounds=1)
    benchmark.extra_info["cpu_s"] = children_s() - begun_s
