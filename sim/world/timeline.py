"""What happened, for the eye: a Chrome/Perfetto trace, and occupancy over time for a heat map.

Open the trace at ui.perfetto.dev or chrome://tracing. Tracks: per instance its iterations and counters (running, waiting,
KV use, SM share); per GPU the SM share in use; per run its calls and tool gaps, with arrows from parent to child.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from scepsy.files.atomic import atomic_path
from sim.engine.clock import TICKS_PER_S
from sim.engine.replica import Replica, Work
from sim.engine.request import Request
from sim.world.agent import Agent
from sim.world.world import World

_INSTANCES, _GPUS, _RUNS = 1, 2, 3
_TICKS_PER_US = TICKS_PER_S // 10**6
Event = dict[str, Any]

OCCUPANCY_SCHEMA = pa.schema(
    [
        ("name", pa.string()),  # the instance
        ("llm", pa.string()),
        ("time_s", pa.float64()),  # start of the bin
        ("busy", pa.float64()),  # part of the bin spent in iterations
        ("running", pa.float64()),  # mean calls in the batch
        ("waiting", pa.float64()),  # mean calls in the queue
        ("kv_use", pa.float64()),  # mean part of the KV blocks in use
    ]
)


@dataclass
class _Sample:
    """State of an instance from ``at`` on."""

    at: int
    running: int
    waiting: int
    kv_use: float
    busy: bool


@dataclass
class Timeline:
    """Collects what the simulator tells it. ``until_s`` bounds what is kept (a trace of hours is no use to the eye)."""

    until_s: float = float("inf")
    samples: dict[Replica, list[_Sample]] = field(default_factory=dict)
    works: list[tuple[Replica, Work]] = field(default_factory=list)
    calls: dict[Agent, list[Request]] = field(default_factory=dict)
    _end: int = 0

    # ---- what the simulator tells ----------------------------------------------------------------------------------

    def iteration_ended(self, replica: Replica, work: Work) -> None:
        """Keep an iteration or a span."""
        self._end = max(self._end, work.end)
        if work.start <= self.until_s * TICKS_PER_S:
            self.works.append((replica, work))
            waiting, kv_use = len(replica.waiting), replica.pool.used / replica.pool.total
            running = replica.outstanding - waiting
            self.samples.setdefault(replica, []).append(_Sample(work.start, running, waiting, kv_use, True))

    def idle(self, replica: Replica, now: int) -> None:
        """Keep the end of a busy period."""
        if now <= self.until_s * TICKS_PER_S:
            self.samples.setdefault(replica, []).append(_Sample(now, 0, 0, 0.0, False))

    def call_ended(self, request: Request) -> None:
        """Keep a call."""
        if request.issued <= self.until_s * TICKS_PER_S and isinstance(request.caller, Agent):
            self.calls.setdefault(request.caller, []).append(request)

    def run_ended(self, agent: Agent) -> None:
        """Runs are kept with their calls."""

    # ---- the trace -------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the Chrome trace (JSON), aside first."""
        with atomic_path(Path(path)) as aside:
            Path(aside).write_text(json.dumps(self.trace(), separators=(",", ":")), encoding="utf-8")

    def trace(self) -> dict[str, Any]:
        """The Chrome trace as a document: ``traceEvents`` with times in microseconds."""
        events: list[Event] = [
            _named(_INSTANCES, 0, "process_name", "instances"),
            _named(_GPUS, 0, "process_name", "GPUs"),
            _named(_RUNS, 0, "process_name", "runs"),
        ]
        events.extend(self._instance_events())
        events.extend(self._gpu_events())
        events.extend(self._run_events())
        return {"traceEvents": events, "displayTimeUnit": "ms"}

    def _instance_events(self) -> Iterator[Event]:
        for replica in self.samples:
            yield _named(_INSTANCES, replica.number + 1, "thread_name", replica.name)
        for replica, work in self.works:
            name = "prefill" if work.prompt_tokens and not work.decoding else "mixed" if work.prompt_tokens else "decode"
            arguments = {"iterations": work.steps, "decoding": work.decoding, "prompt tokens": work.prompt_tokens}
            yield _slice(_INSTANCES, replica.number + 1, name, work.start, work.end, arguments)
        for replica in self.samples:
            for sample in self._closed(replica):
                share = replica.spec.share_pct if sample.busy else 0
                counts = {"running": sample.running, "waiting": sample.waiting}
                yield _counter(_INSTANCES, f"{replica.name} calls", sample.at, counts)
                yield _counter(_INSTANCES, f"{replica.name} KV %", sample.at, {"KV": round(100 * sample.kv_use, 2)})
                yield _counter(_INSTANCES, f"{replica.name} SM %", sample.at, {"SM": share})

    def _closed(self, replica: Replica) -> Iterator[_Sample]:
        """The samples of an instance, its last busy period ended: the simulation stops before it could say it is idle."""
        samples = self.samples[replica]
        yield from samples
        if samples[-1].busy:
            yield _Sample(max(work.end for owner, work in reversed(self.works) if owner is replica), 0, 0, 0.0, False)

    def _gpu_events(self) -> Iterator[Event]:
        changes: dict[str, dict[int, int]] = {}
        for replica in self.samples:
            busy = False
            for sample in self._closed(replica):
                if sample.busy is not busy:
                    busy = sample.busy
                    for gpu in replica.gpu_names:
                        at = changes.setdefault(gpu, {})
                        at[sample.at] = at.get(sample.at, 0) + (replica.spec.share_pct if busy else -replica.spec.share_pct)
        for gpu, at in sorted(changes.items()):
            used = 0
            for time in sorted(at):
                used += at[time]
                yield _counter(_GPUS, f"{gpu} SM %", time, {"SM": used})

    def _run_events(self) -> Iterator[Event]:
        arrow = 0
        thread = 0
        for agent, requests in sorted(self.calls.items(), key=lambda item: (item[0].arrival, item[0].id)):
            by_node = {request.node: request for request in requests}
            lanes: list[int] = []
            lane_of: dict[int, int] = {}
            for node in sorted(by_node, key=lambda n: (by_node[n].issued, n)):
                request = by_node[node]
                parents = [by_node[parent] for parent in _parents(agent, node) if parent in by_node]
                ready = max((parent.end for parent in parents), default=agent.arrival)
                lane = next((number for number, end in enumerate(lanes) if end <= ready), len(lanes))
                lane_of[node] = lane
                lanes[lane : lane + 1] = [request.end]
                place = thread + lane + 1
                call = agent.walk.run.calls[node]
                if request.issued > ready:
                    yield _slice(_RUNS, place, "tool", ready, request.issued, {})
                yield _slice(_RUNS, place, f"{call.id} → {call.llm}", request.issued, request.end, _about(request))
                for parent in parents:
                    arrow += 1
                    yield _arrow("s", arrow, thread + lane_of[parent.node] + 1, parent.end - 1)
                    yield _arrow("f", arrow, place, request.issued)
            for lane in range(len(lanes)):
                yield _named(_RUNS, thread + lane + 1, "thread_name", agent.id + (f" ({lane + 1})" if lane else ""))
            thread += len(lanes)

    # ---- occupancy -------------------------------------------------------------------------------------------------

    def occupancy(self, bins: int = 120) -> pa.Table:
        """Time-weighted means per instance and time bin: the data of a heat map. Raises ``ValueError`` below one bin."""
        if bins < 1:
            raise ValueError(f"bins is {bins}: must be >= 1")
        stop = min(self._end, int(min(self.until_s, self._end / TICKS_PER_S + 1) * TICKS_PER_S))
        edges = np.linspace(0, max(stop, 1), bins + 1)
        columns: dict[str, list[Any]] = {name: [] for name in OCCUPANCY_SCHEMA.names}
        for replica, samples in sorted(self.samples.items(), key=lambda item: item[0].number):
            times = np.array([0, *(sample.at for sample in samples), stop], dtype=float)
            state = np.array([(0, 0, 0, 0), *((s.busy, s.running, s.waiting, s.kv_use) for s in samples)], dtype=float)
            area = np.vstack([np.zeros(4), np.cumsum(state * np.diff(np.maximum.accumulate(times))[:, None], axis=0)])
            means = np.diff([np.interp(edges, np.maximum.accumulate(times), column) for column in area.T], axis=1) / np.diff(
                edges
            )
            columns["name"] += [replica.name] * bins
            columns["llm"] += [replica.spec.llm] * bins
            columns["time_s"] += (edges[:-1] / TICKS_PER_S).tolist()
            for name, values in zip(("busy", "running", "waiting", "kv_use"), means, strict=True):
                columns[name] += values.tolist()
        return pa.table(columns, schema=OCCUPANCY_SCHEMA)


def watch(world: World, timeline: Timeline) -> None:
    """Let a timeline see everything that happens in a world."""
    world.observer = timeline
    for replica in world.replicas:
        replica.observer = timeline


def _parents(agent: Agent, node: int) -> list[int]:
    return [number for number, step in enumerate(agent.walk.steps) if node in step.children]


def _about(request: Request) -> Event:
    about: Event = {"input": request.input_tokens, "output": request.output_tokens, "instance": request.instance}
    if not request.rejected:
        about["queue ms"] = (request.scheduled - request.issued) / (1000 * _TICKS_PER_US)
        about["first token ms"] = (request.first_token - request.issued) / (1000 * _TICKS_PER_US)
        about["cached"], about["preemptions"] = request.cached_tokens, request.preemptions
    return about


def _named(process: int, thread: int, kind: str, name: str) -> Event:
    return {"ph": "M", "pid": process, "tid": thread, "name": kind, "args": {"name": name}}


def _slice(process: int, thread: int, name: str, start: int, end: int, arguments: Event) -> Event:
    return {
        "ph": "X",
        "pid": process,
        "tid": thread,
        "name": name,
        "ts": start / _TICKS_PER_US,
        "dur": (end - start) / _TICKS_PER_US,
        "args": arguments,
    }


def _counter(process: int, name: str, at: int, values: Event) -> Event:
    return {"ph": "C", "pid": process, "tid": 0, "name": name, "ts": at / _TICKS_PER_US, "args": values}


def _arrow(phase: str, number: int, thread: int, at: int) -> Event:
    event: Event = {
        "ph": phase,
        "pid": _RUNS,
        "tid": thread,
        "name": "then",
        "cat": "run",
        "id": number,
        "ts": at / _TICKS_PER_US,
    }
    if phase == "f":
        event["bp"] = "e"
    return event
