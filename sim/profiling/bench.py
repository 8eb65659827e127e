"""One LLM's calls replayed through a few simulated instances: what profiling measures, before any curve is drawn.

``Bench`` holds one instance type and the traced runs projected onto its LLM; each method is one simulation. Every instance
has its GPUs to itself. The same seed gives the same arrivals, in proportion to the rate, and the same sampled runs at every
load and for every instance type, so that differences between options are not noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

import msgspec
import numpy as np
from scipy.optimize import nnls

from scepsy.arrivals import issue, users
from scepsy.backend import Stream, Workload
from scepsy.dag import project, sibling_groups
from scepsy.predictors.aggregate import Floats, Integers
from scepsy.predictors.paths import Paths
from scepsy.profile.model import Profile, ProfileSet
from scepsy.workload import Arrivals, Run, Trace
from sim.engine.ahead import make_replica
from sim.engine.clock import TICKS_PER_S, Kernel
from sim.engine.gpu import GpuState
from sim.engine.prefix import PrefixKeys
from sim.engine.queue import Queue
from sim.engine.replica import ReplicaSpec
from sim.policies.routers.builtin import LeastOutstanding
from sim.world.agent import Walk
from sim.world.recorder import RecordWriter
from sim.world.run import run_to_the_end, spec_of
from sim.world.world import World


@dataclass(frozen=True)
class Duty:
    """How an instance spent its time between warm-up and the last arrival."""

    decoding: float
    """Part of its busy time with a call decoding."""
    stretchable: float
    """Part of its busy time that was not prompt processing."""


@dataclass(frozen=True)
class Calls:
    """What happened to every call of one simulation: arrays of one entry per call, in order of their end."""

    workflow: Integers
    """Index of the caller among the bench's streams."""
    run: Integers
    """Number of the issued run."""
    issued_s: Floats
    end_s: Floats
    input_tokens: Floats
    output_tokens: Floats
    cached_tokens: Floats

    def where(self, keep: Any) -> "Calls":
        """The calls selected by a mask."""
        return Calls(**{name: getattr(self, name)[keep] for name in self.__dataclass_fields__})

    def __len__(self) -> int:
        return len(self.run)

    @property
    def latency_s(self) -> Floats:
        """Seconds from issue to end."""
        return self.end_s - self.issued_s


class _Log(RecordWriter):
    """Keeps the ended calls themselves: no tables are made."""

    def __init__(self) -> None:
        super().__init__(lambda table, batch: None)
        self._ended: list[Any] = []

    def call(self, request: Any, status: str) -> None:
        """Keep a call."""
        self._ended.append(request)

    def run(self, agent: Any, end: int, status: str) -> None:
        """Runs are not needed: their calls say it all."""

    def calls(self, workflows: dict[str, int]) -> Calls:
        """The calls as arrays."""
        rows = [
            (
                workflows[request.caller.walk.run.workflow],
                request.caller.salt,
                request.issued,
                request.end,
                request.input_tokens,
                request.output_tokens,
                request.cached_tokens,
            )
            for request in self._ended
        ]
        table = np.array(rows, dtype=float).reshape(-1, 7)
        return Calls(
            workflow=table[:, 0].astype(np.int64),
            run=table[:, 1].astype(np.int64),
            issued_s=table[:, 2] / TICKS_PER_S,
            end_s=table[:, 3] / TICKS_PER_S,
            input_tokens=table[:, 4],
            output_tokens=table[:, 5],
            cached_tokens=table[:, 6],
        )


class _World(World):
    """A world whose walks outlive it: every simulation of a bench replays the same runs."""

    def __init__(self, env: Kernel, log: _Log, prefixes: PrefixKeys, walks: dict[int, Walk], warmup_runs: int) -> None:
        super().__init__(env, log, prefixes)
        self._walks = walks
        self._warmup_runs = warmup_runs
        self.begin = self.end = np.zeros(3)

    def _begin(self, run_id: str, run: Run, user: int) -> None:
        super()._begin(run_id, run, user)
        if self.runs_issued == self._warmup_runs:
            self.begin = self._meters()

    def _last_arrival(self) -> None:
        if self._more:
            self.end = self._meters()
        super()._last_arrival()

    def _meters(self) -> Floats:
        """The instances' decoding seconds, busy seconds and prompt tokens so far, summed."""
        totals = [(r.decode_ticks / TICKS_PER_S, r.busy_ticks / TICKS_PER_S, r.prefilled_tokens) for r in self.replicas]
        return np.asarray(np.sum(totals, axis=0), dtype=float)


class LlmLoad:
    """The projected runs of every workflow that calls the LLM, and the rates at which they come."""

    def __init__(self, llm: str, streams: Sequence[Stream], block_tokens: int, seed: int) -> None:
        self.llm = llm
        self.seed = seed
        self.traces: list[Trace] = []
        self.arrivals: list[Arrivals] = []
        self.calling: list[float] = []
        """Part of each workflow's runs that call the LLM at all; only those are replayed."""
        for stream in streams:
            projected = [part for run in stream.trace.runs if (part := project(run, llm)) is not None]
            if projected:
                self.traces.append(msgspec.structs.replace(stream.trace, runs=tuple(projected)))
                self.arrivals.append(stream.arrivals)
                self.calling.append(len(projected) / len(stream.trace.runs))
        self.workflows = {trace.workflows[0]: number for number, trace in enumerate(self.traces)}
        self.paths = [Paths(trace.runs) for trace in self.traces]
        self.largest_group = max(len(group) for trace in self.traces for run in trace.runs for group in sibling_groups(run))
        """Most calls that one run issues at once."""
        self.calls_per_run = [len(paths) / paths.runs for paths in self.paths]
        rates = np.array([float(a.rate_per_s or 1.0) * part for a, part in zip(self.arrivals, self.calling, strict=True)])
        self.mix = rates / float(rates @ np.array(self.calls_per_run))
        """Rate of each workflow's replayed runs per call per second of all."""
        dense = [tuple(_without_gaps(run) for run in trace.runs) for trace in self.traces]
        self.dense = [msgspec.structs.replace(t, runs=runs) for t, runs in zip(self.traces, dense, strict=True)]
        """The same runs with nothing between the calls: what saturates an instance, however small its part of a run is."""
        self.prefixes = PrefixKeys([(trace, True) for trace in (*self.traces, *self.dense)], {llm: block_tokens})
        self.walks: dict[int, Walk] = {}

    def open(self, calls_per_s: float, runs: int) -> Workload:
        """Open-loop arrivals of ``runs`` runs that offer ``calls_per_s`` in all."""
        streams = []
        for trace, arrivals, mix in zip(self.traces, self.arrivals, self.mix, strict=True):
            kind = arrivals.kind if arrivals.kind in ("poisson", "gamma", "deterministic") else "poisson"
            rate = float(calls_per_s * mix)
            timed = msgspec.structs.replace(arrivals, kind=kind, rate_per_s=rate)
            streams.append(Stream(trace=trace, arrivals=timed, order="shuffled"))
        return Workload(streams=tuple(streams), seed=self.seed, runs=runs)

    def offering(self, calls_per_s: float, runs: int, work: Callable[[Floats, Floats], float]) -> Workload:
        """Like ``open``, but the drawn runs' work over the drawn span is exactly what ``calls_per_s`` mean calls would bring.

        A hundred drawn runs may bring a tenth more or less than their mean: near saturation that is the difference between
        queues and none, and would be taken for the instance's doing.
        """
        drawn = list(issue(self.open(calls_per_s, runs)))
        done = fsum(
            work(
                np.array([call.input_tokens for call in run.calls], dtype=float),
                np.array([call.output_tokens for call in run.calls], dtype=float),
            )
            for _, _, run in drawn
        )
        mean = fsum(
            float(mix) * work(paths.input_tokens, paths.output_tokens) / paths.runs
            for mix, paths in zip(self.mix, self.paths, strict=True)
        )
        factor = calls_per_s * mean * drawn[-1][0] / done
        return self.open(calls_per_s * factor, runs)

    def closed(self, total_users: int, runs: int) -> Workload:
        """``total_users`` users without think time or gaps, divided among the workflows as their runs come."""
        part = self.mix / self.mix.sum()
        counts = np.maximum(1, np.round(part * total_users)).astype(int)
        streams = [
            Stream(trace=trace, arrivals=Arrivals(kind="closed", users=int(count)), order="shuffled")
            for trace, count in zip(self.dense, counts, strict=True)
        ]
        return Workload(streams=tuple(streams), seed=self.seed, runs=max(runs, int(counts.sum())))


def _without_gaps(run: Run) -> Run:
    calls = tuple(msgspec.structs.replace(call, gap_s=0.0) for call in run.calls)
    return msgspec.structs.replace(run, calls=calls, tail_s=0.0)


class Bench:
    """One instance type, ready to be loaded."""

    def __init__(self, load: LlmLoad, profile: Profile, share_pct: int, profiles: ProfileSet) -> None:
        self.load = load
        self.profiles = profiles
        self.profile = profile
        self.spec: ReplicaSpec = spec_of(profile, profile.llm.name, share_pct, profiles)

    def replay(self, workload: Workload, replicas: int, warmup_runs: int = 1) -> tuple[Calls, Duty]:
        """Simulate a workload on ``replicas`` instances behind the least-outstanding router, to the last run."""
        env = Kernel()
        log = _Log()
        world = _World(env, log, self.load.prefixes, self.load.walks, warmup_runs)
        router = LeastOutstanding(self.load.llm, workload.seed)
        for number in range(replicas):
            gpus = [GpuState(f"{number}/{n}", self.profiles.contention) for n in range(self.profile.tensor_parallel)]
            replica = make_replica(env, number, self.spec, gpus, Queue())
            world.replicas.append(replica)
            router.add(replica)
        world.routers[self.load.llm] = router
        world.load(workload, issue(workload), users(workload))
        run_to_the_end(world)
        return log.calls(self.load.workflows), self._duty(world.end - world.begin)

    def _duty(self, spent: Floats) -> Duty:
        decode_s, busy_s, prompt_tokens = spent.tolist()
        if busy_s <= 0:
            return Duty(0.0, 1.0)
        per_token = self.spec.step.prefill_s_per_token * self.spec.share_law.prefill_factor(
            self.spec.share_law.prefill_tokens, self.spec.share_pct
        )
        prompts = min(1.0, prompt_tokens * per_token / busy_s)
        return Duty(min(1.0, decode_s / busy_s), 1.0 - prompts)


@dataclass(frozen=True)
class Latency:
    """Call latency of one workflow as ``base + input·i + output·o``, what that leaves, and how siblings stretch a group."""

    base_s: float
    s_per_input_token: float
    s_per_output_token: float
    residual_s: float
    group_factor: float
    """Measured over predicted seconds of whole sibling groups: what queueing behind each other adds to the regression."""
    residual_shared: float
    """Part of the residual's variance that is common to a run's calls."""

    def durations_s(self, input_tokens: Floats, output_tokens: Floats) -> Floats:
        """Predicted latency of calls."""
        return self.base_s + self.s_per_input_token * input_tokens + self.s_per_output_token * output_tokens


def fit_latency(calls: Calls) -> Latency:
    """Non-negative least squares of latency on (1, input tokens, output tokens), and the group factor."""
    x = np.column_stack([np.ones(len(calls)), calls.input_tokens, calls.output_tokens])
    scale = np.maximum(x.max(axis=0), 1.0)
    y = calls.latency_s
    # The triangular factor states the same least squares in three rows.
    orthogonal, triangular = np.linalg.qr(x / scale)
    coefficients, _ = nnls(triangular, orthogonal.T @ y)
    base, per_input, per_output = (coefficients / scale).tolist()
    predicted = base + per_input * calls.input_tokens + per_output * calls.output_tokens
    # Siblings are issued at one instant: a group lasts until the last of them ends.
    _, group = np.unique(np.column_stack([calls.run, calls.issued_s]), axis=0, return_inverse=True)
    group = group.reshape(-1)
    measured, expected = np.zeros(group.max() + 1), np.zeros(group.max() + 1)
    np.maximum.at(measured, group, y)
    np.maximum.at(expected, group, predicted)
    # What varies between runs is judged on whole groups: siblings always share their luck.
    run_of = np.zeros(group.max() + 1, dtype=np.int64)
    run_of[group] = calls.run
    factor = float(measured.sum() / expected.sum())
    left = measured - factor * expected
    return Latency(base, per_input, per_output, float(np.std(left)), factor, shared_part(left, run_of))


def shared_part(values: Floats, run: Integers) -> float:
    """Intraclass correlation by runs (one-way analysis of variance, Donner 1986): 0 when runs have one value each."""
    _, number, counts = np.unique(run, return_inverse=True, return_counts=True)
    runs, size = len(counts), len(values)
    if size <= runs or runs < 2:
        return 0.0
    means = np.bincount(number, weights=values) / counts
    within = float(((values - means[number]) ** 2).sum()) / (size - runs)
    between = float((counts * (means - values.mean()) ** 2).sum()) / (runs - 1)
    typical = (size - float((counts**2).sum()) / size) / (runs - 1)
    total = between + (typical - 1) * within
    return min(max((between - within) / total, 0.0), 1.0) if total > 0 else 0.0
