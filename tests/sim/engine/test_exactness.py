"""Spans against ticks: the simulator's completion times equal those of a tick-by-tick engine, whatever the load."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scepsy.profile.model import EngineLimits
from scepsy.profile.share import ContentionLaw, ShareLaw
from scepsy.profile.step import StepModel
from sim.engine.ahead import make_replica
from sim.engine.clock import ARRIVAL, Kernel
from sim.engine.gpu import GpuState
from sim.engine.queue import Queue
from sim.engine.replica import Replica, ReplicaSpec
from sim.engine.request import Request
from tests.sim import reference
from tests.sim.reference import FS, Job

LAW = ShareLaw(
    prefill_k=0.69,
    prefill_small_k=0.46,
    decode_k=0.18,
    decode_large_k=0.51,
    prefill_tokens=24,
    decode_small_batch=2,
    decode_large_batch=4,
)


@dataclass
class Load:
    """Feeds jobs to replicas and keeps what came back."""

    env: Kernel
    replicas: list[Replica]
    jobs: dict[int, Job]
    served_tokens: int = 0
    remaining_tokens: int = 0
    waited_ticks: int = 0
    served_ticks: int = 0
    ended: dict[int, Request] = field(default_factory=dict)

    def issue(self, job: Job) -> None:
        request = Request(self, job.name, job.prompt, job.output, job.keys, self.env.now)
        self.replicas[job.instance].submit(request)

    def at(self, delay: int, job: Job) -> None:
        self.env.alarm(delay, ARRIVAL, lambda _: self.issue(job))

    def call_ended(self, request: Request) -> None:
        self.ended[request.node] = request
        for gap, child in self.jobs[request.node].children:
            self.at(gap, child) if gap else self.issue(child)


def run_spans(specs, places, interference, jobs, everyone):
    env = Kernel()
    law = ContentionLaw(interference=interference)
    gpus = [GpuState(str(number), law) for number in range(1 + max(gpu for place in places for gpu in place))]
    replicas = [make_replica(env, n, spec, [gpus[g] for g in places[n]], Queue()) for n, spec in enumerate(specs)]
    load = Load(env, replicas, {job.name: job for job in everyone})
    for job in jobs:
        load.at(job.arrival, job)
    env.run()
    return load, replicas


@st.composite
def specs_and_places(draw):
    crowded = draw(st.integers(0, 3)) == 0  # nothing but prompt work, all on one GPU: its compute budget binds
    count = draw(st.integers(2 if crowded else 1, 3))
    specs, places = [], []
    for number in range(count):
        seqs = draw(st.integers(1, 6))
        block_tokens = draw(st.sampled_from([1, 4, 16]))
        engine = EngineLimits(
            max_num_seqs=seqs,
            max_num_batched_tokens=draw(st.integers(seqs, 60)),
            block_tokens=block_tokens,
            prefix_caching=draw(st.booleans()),
            async_scheduling=draw(st.booleans()),
            max_num_queued=draw(st.sampled_from([None, None, None, 0, 3])),
        )
        step = StepModel(
            base_s=0.0 if crowded else draw(st.sampled_from([0.0, 0.01, 0.0117])),
            prefill_s_per_token=2e-3 if crowded else draw(st.sampled_from([1e-4, 1.37e-4, 2e-3])),
            decode_s_per_sequence=draw(st.sampled_from([0.0, 1e-3])),
            context_s_per_token=draw(st.sampled_from([0.0, 1.3e-5])),
            attention_s_per_token2=draw(st.sampled_from([0.0, 1e-7])),
            experts_s=draw(st.sampled_from([0.0, 0.0, 0.013])),
            expert_part=0.3,
        )
        specs.append(
            ReplicaSpec(
                name=f"m-{number}",
                llm="m",
                step=step,
                engine=engine,
                share_law=LAW,
                share_pct=draw(st.sampled_from([30, 50, 100])),
                kv_blocks=-(-96 // block_tokens) + draw(st.integers(0, 120)) // block_tokens,
                context_limit=1000,
                bandwidth_demand=draw(st.sampled_from([0.2, 0.6])),
            )
        )
        places.append([0] if crowded else draw(st.sampled_from([[0], [0], [1], [0, 1]])))
    return specs, places


@st.composite
def some_jobs(draw, instances: int):
    everyone: list[Job] = []
    chains = [[family * 1000 + block for block in range(64)] for family in range(3)]
    forks = [chain[:3] + [9000 + 100 * n + block for block in range(61)] for n, chain in enumerate(chains)]

    def make(depth: int) -> Job:
        prompt, output = draw(st.integers(1, 60)), draw(st.integers(0, 36))
        job = Job(
            name=len(everyone),
            instance=draw(st.integers(0, instances - 1)),
            arrival=draw(st.one_of(st.just(0), st.integers(0, FS // 2))),
            prompt=prompt,
            output=output,
            keys=draw(st.sampled_from([[], *chains, *forks])),
        )
        everyone.append(job)
        if depth and draw(st.booleans()):
            job.children.append((draw(st.sampled_from([0, 0, 37 * 10**12])), make(depth - 1)))
        return job

    jobs = [make(2) for _ in range(draw(st.integers(1, 14)))]
    return jobs, everyone


@st.composite
def cases(draw):
    specs, places = draw(specs_and_places())
    jobs, everyone = draw(some_jobs(len(specs)))
    for job in everyone:
        full = job.prompt // specs[job.instance].engine.block_tokens
        job.keys = job.keys[: min(full, draw(st.integers(0, 16)))]
    return specs, places, draw(st.sampled_from([0.0, 0.4])), jobs, everyone


def check(case) -> None:
    specs, places, interference, jobs, everyone = case
    load, replicas = run_spans(specs, places, interference, jobs, everyone)
    reference.run(specs, places, interference, jobs)
    for job in everyone:
        request = load.ended[job.name]
        assert request.rejected == job.rejected
        if job.rejected:
            continue
        seen = (request.scheduled, request.first_token, request.end, request.preemptions, request.cached_tokens)
        assert seen == (job.scheduled, job.first, job.end, job.preemptions, job.cached), job.name
    for replica in replicas:
        assert replica.pool.free == replica.pool.total
        assert replica.outstanding == 0


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_spans_equal_ticks(case):
    check(case)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_spans_equal_ticks_thousands_of_times(case):
    check(case)


def test_the_made_up_loads_press_hard_enough():
    """The loads above must preempt, reuse prefixes, reject, chain and slow each other, or their equality would say little."""
    seen = Counter()

    @settings(max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(cases())
    def look(case):
        specs, places, interference, jobs, everyone = case
        load, replicas = run_spans(specs, places, interference, jobs, everyone)
        seen["preemptions"] += sum(replica.preemptions for replica in replicas)
        seen["cached"] += sum(request.cached_tokens > 0 for request in load.ended.values())
        seen["rejected"] += sum(request.rejected for request in load.ended.values())
        seen["chained"] += sum(bool(job.children) for job in everyone)
        seen["shared"] += sum(replica.shared for replica in replicas)
        seen["held up"] += sum(engine.held_up for engine in reference.run(specs, places, interference, jobs))

    look()
    assert min(seen[name] for name in ("preemptions", "cached", "rejected", "chained", "shared", "held up")) >= 20, seen
