"""The compiled core against the tick-by-tick reference itself: to the femtosecond, with nothing of the SimPy engine between."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from scepsy.backend import Stream, Workload
from scepsy.profile.model import EngineLimits
from scepsy.profile.share import ContentionLaw
from scepsy.profile.step import StepModel
from scepsy.workload import Arrivals, Call, Run, Trace, TraceSource
from sim.engine.clock import TICKS_PER_S, ticks
from sim.engine.replica import ReplicaSpec
from tests.sim import reference
from tests.sim.compiled.both import Case, with_compiled
from tests.sim.engine.test_exactness import LAW, cases
from tests.sim.reference import Job

pytest.importorskip("llvmlite")

BLOCK_TOKENS = 4


def as_calls(job: Job, parents: tuple[str, ...] = (), gap: int = 0) -> list[Call]:
    one = Call(
        id=f"c{job.name}",
        llm=f"m{job.instance}",
        input_tokens=job.prompt,
        output_tokens=job.output,
        kind="generate" if job.output else "embed",
        parents=parents,
        gap_s=gap / TICKS_PER_S,
        prefix_hashes=tuple(job.keys),
    )
    return [one, *(call for wait, child in job.children for call in as_calls(child, (one.id,), wait))]


def as_case(specs, places, interference, jobs) -> Case:
    """Every instance is the only one of its LLM, so that a call's LLM says where it goes."""
    runs = []
    for job in jobs:
        arrival_s = job.arrival / TICKS_PER_S
        job.arrival = ticks(arrival_s)
        runs.append(Run(id=f"r{job.name}", workflow="w", calls=tuple(as_calls(job)), arrival_s=arrival_s))
    trace = Trace(source=TraceSource(origin="test"), runs=tuple(runs), prefix_block_tokens=BLOCK_TOKENS)
    workload = Workload(streams=(Stream(trace=trace, arrivals=Arrivals(kind="trace")),), runs=len(runs))
    return Case(specs, places, ContentionLaw(interference=interference), workload)


def prepared(case):
    """Prefix keys of one block size, and no rejections: a rejected call ends its run, which the reference does not know."""
    specs, places, interference, jobs, everyone = case
    alike = []
    for number, spec in enumerate(specs):
        engine = msgspec.structs.replace(spec.engine, block_tokens=BLOCK_TOKENS, max_num_queued=None)
        blocks = -(-spec.kv_blocks * spec.engine.block_tokens // BLOCK_TOKENS)
        alike.append(replace(spec, engine=engine, kv_blocks=blocks, llm=f"m{number}", name=f"m{number}-0"))
    for job in everyone:
        job.keys = job.keys[: job.prompt // BLOCK_TOKENS]
    return alike, places, interference, jobs, everyone


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_compiled_equals_ticks(case):
    specs, places, interference, jobs, everyone = prepared(case)
    first = min(job.arrival for job in jobs)
    for job in jobs:
        job.arrival -= first  # recorded arrivals begin with the first
    found = with_compiled(as_case(specs, places, interference, jobs))
    reference.run(specs, places, interference, jobs)
    rows = {row["call"]: row for row in found.calls.to_pylist()}
    assert len(rows) == len(everyone)
    for job in everyone:
        row = rows[f"c{job.name}"]
        times = [row[name] for name in ("scheduled_s", "first_token_s", "end_s")]
        assert times == [float(tick) / TICKS_PER_S for tick in (job.scheduled, job.first, job.end)], job.name
        assert (row["preemptions"], row["cached_tokens"]) == (job.preemptions, job.cached), job.name


@pytest.mark.parametrize("seats", range(1, 25))
def test_an_arena_of_any_size_is_laid_out(seats):
    """Its fixed part may end so near to the end of its room that the next line of the cache lies beyond."""
    for gpu in range(8):
        engine = EngineLimits(max_num_seqs=seats, max_num_batched_tokens=24, block_tokens=BLOCK_TOKENS, prefix_caching=False)
        spec = ReplicaSpec(
            name="m0-0",
            llm="m0",
            step=StepModel(base_s=0.01, prefill_s_per_token=1e-4, decode_s_per_sequence=1e-3),
            engine=engine,
            share_law=LAW,
            share_pct=100,
            kv_blocks=96,
            context_limit=1000,
            bandwidth_demand=0.2,
        )
        job = Job(0, 0, 0, 4, 1)
        found = with_compiled(as_case([spec], [[gpu]], 0.0, [job]))
        assert len(found.calls) == 1
