"""Arrivals at the times of Azure's LLM inference trace (conversation, 2023), from ``$SCEPSY_DATA``; nothing of it is stored.

Runs are drawn from a workflow's trace and given the recorded times in order; the clock is scaled to the rate that is asked for,
so bursts keep their shape and not their seconds. A run that is drawn again is another user's: its private text gets ids of
its own.
"""

import functools
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from experiments.points.real_traces import data_folder
from scepsy.backend import Stream
from scepsy.errors import InputError
from scepsy.importers.registry import find_importer
from scepsy.prefixes import shared_between_sessions
from scepsy.rng import stream
from scepsy.workload import Arrivals, Run, Trace

FILE = "azure2023/AzureLLMInferenceTrace_conv.csv"
MOST_RUNS = 6_000
"""Runs of one stream: 18 minutes of the recorded hour."""


@functools.lru_cache(maxsize=1)
def recorded_times() -> npt.NDArray[np.float64]:
    """Arrival times (s) of all requests, sorted. Raises ``InputError`` without the folder."""
    folder = data_folder()
    if folder is None:
        raise InputError(f"arrivals azure: SCEPSY_DATA is not set: set it to the folder that holds {FILE}")
    trace = find_importer("azure")([folder / FILE])
    return np.sort(np.array([run.arrival_s for run in trace.runs], dtype=float))


@dataclass(frozen=True)
class _Copies:
    """Copies of runs, each another user's."""

    shared: frozenset[int]

    def of(self, run: Run, number: int, arrival_s: float, first_id: int) -> tuple[Run, int]:
        """The copy, and the next unused prefix id."""
        fresh: dict[int, int] = {}
        calls = []
        for call in run.calls:
            for item in call.prefix_hashes:
                if item not in self.shared and item not in fresh:
                    fresh[item] = first_id + len(fresh)
            calls.append(msgspec.structs.replace(call, prefix_hashes=tuple(fresh.get(i, i) for i in call.prefix_hashes)))
        changes: dict[str, Any] = {"id": f"{run.id}#{number}", "session": "", "arrival_s": arrival_s, "calls": tuple(calls)}
        return msgspec.structs.replace(run, **changes), first_id + len(fresh)


@functools.lru_cache(maxsize=16)
def _drawn(trace: Trace, seed: int) -> Trace:
    """Runs drawn with replacement at recorded times from a place in the hour that the seed chooses."""
    times = recorded_times()
    rng = stream(seed, "azure", trace.workflows[0])
    count = min(MOST_RUNS, len(times))
    begin = int(rng.integers(len(times) - count + 1))
    chosen = times[begin : begin + count] - times[begin]
    copies = _Copies(shared_between_sessions(trace.runs))
    unused = 1 + max((item for run in trace.runs for call in run.calls for item in call.prefix_hashes), default=0)
    runs = []
    for number, (index, at) in enumerate(zip(rng.integers(len(trace.runs), size=count).tolist(), chosen.tolist(), strict=True)):
        run, unused = copies.of(trace.runs[index], number, at, unused)
        runs.append(run)
    return msgspec.structs.replace(trace, runs=tuple(runs))


def azure_stream(trace: Trace, rate_per_s: float, seed: int) -> Stream:
    """A workflow's runs at Azure's times, scaled to a rate."""
    return Stream(trace=_drawn(trace, seed), arrivals=Arrivals(kind="trace", rate_per_s=rate_per_s))
