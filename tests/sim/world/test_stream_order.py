"""In shuffled order every traced run comes once before any comes again."""

from itertools import islice

import msgspec

from scepsy.arrivals import sampled_runs
from scepsy.backend import Stream
from scepsy.generate import generate
from scepsy.workload import Arrivals


def test_shuffled_runs_cover_the_trace_before_they_repeat() -> None:
    trace = generate("rag-rerank", runs=7, seed=3)
    item = Stream(trace=trace, arrivals=Arrivals(rate_per_s=1.0), order="shuffled")
    drawn = [run.id for run in islice(sampled_runs(item, 1, "rag"), 21)]
    everyone = sorted(run.id for run in trace.runs)
    assert [sorted(drawn[i : i + 7]) for i in (0, 7, 14)] == [everyone] * 3
    assert drawn[:7] != drawn[7:14]
    assert drawn == [run.id for run in islice(sampled_runs(item, 1, "rag"), 21)]


def test_sampled_runs_repeat_early() -> None:
    trace = generate("rag-rerank", runs=7, seed=3)
    item = Stream(trace=trace, arrivals=Arrivals(rate_per_s=1.0))
    drawn = [run.id for run in islice(sampled_runs(item, 1, "rag"), 7)]
    assert len(set(drawn)) < 7
    assert drawn != [run.id for run in islice(sampled_runs(msgspec.structs.replace(item, order="shuffled"), 1, "rag"), 7)]
