"""Loads that change: what arrives, when it changes, and which GPU is lost."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import fsum, pi, sin
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from experiments.points.variants import drift
from scepsy.api.inputs import generate_trace
from scepsy.backend import Stream, Workload
from scepsy.operate.reference import Floats
from scepsy.rng import stream
from scepsy.workload import Arrivals, Call, Piece, Run, Trace

WORKFLOW = "reflection"
RATE_PER_S = 4.0
REPLACED_LLM, NEW_LLM = "llama-3.1-8b", "qwen3-14b"
BRANCH_LLM = "llama-2-7b"
DAY_S = 4800.0
"""A day of the day curve takes so long: 18 times as fast."""
AZURE_FASTER = 2.0
AZURE_SPAN_S = 300.0
"""The oracle knows the mean rate of each span of recorded arrivals."""


@dataclass(frozen=True)
class Part:
    """A load for a while."""

    duration_s: float
    rate_per_s: float
    trace: Trace


@dataclass(frozen=True)
class Scenario:
    """Loads that follow each other; perhaps a GPU that is lost when the second begins."""

    name: str
    parts: tuple[Part, ...]
    loses_a_gpu: bool = False
    recorded: Trace | None = None
    """Runs that arrive when they did; None: Poisson arrivals at the rates of the parts."""

    @property
    def horizon_s(self) -> float:
        """When arrivals stop."""
        return fsum(part.duration_s for part in self.parts)

    @property
    def changes_s(self) -> list[float]:
        """When a new part begins."""
        return [float(each) for each in np.cumsum([part.duration_s for part in self.parts])[:-1]]

    def workload(self, seed: int) -> Workload:
        """One stream for each trace: its arrivals pause while another's part is on."""
        if self.recorded is not None:
            streams: tuple[Stream, ...] = (Stream(trace=self.recorded, arrivals=Arrivals(kind="trace")),)
        else:
            traces = {id(part.trace): part.trace for part in self.parts}.values()
            streams = tuple(Stream(trace=trace, arrivals=self._arrivals(trace), order="shuffled") for trace in traces)
        return Workload(streams=streams, horizon_s=self.horizon_s, seed=seed, drain_s=900.0)

    def _arrivals(self, trace: Trace) -> Arrivals:
        pieces = (
            Piece(duration_s=part.duration_s, rate_per_s=part.rate_per_s if part.trace is trace else 0.0) for part in self.parts
        )
        return Arrivals(kind="piecewise", pieces=tuple(pieces))


def replaced(trace: Trace, part: float) -> Trace:
    """The given part of the runs calls another LLM in place of one of the workflow's, with the same tokens."""

    def run_of(number: int, run: Run) -> Run:
        if not _chosen(number, part):
            return run
        calls = (
            msgspec.structs.replace(call, llm=NEW_LLM) if call.llm == REPLACED_LLM else call for call in run.calls
        )  # fmt: skip
        return msgspec.structs.replace(run, calls=tuple(calls))

    return msgspec.structs.replace(trace, runs=tuple(run_of(number, run) for number, run in enumerate(trace.runs)))


def branching(trace: Trace, part: float) -> Trace:
    """The given part of the runs ends with one more call, to another LLM: 800 tokens in, 300 out."""

    def run_of(number: int, run: Run) -> Run:
        if not _chosen(number, part):
            return run
        last = Call(id="branch", llm=BRANCH_LLM, input_tokens=800, output_tokens=300, parents=(run.calls[-1].id,))
        return msgspec.structs.replace(run, calls=(*run.calls, last))

    return msgspec.structs.replace(trace, runs=tuple(run_of(number, run) for number, run in enumerate(trace.runs)))


def _chosen(number: int, part: float) -> bool:
    return (number * 37) % 100 < 100 * part


def scenarios(before_s: float, after_s: float, azure: Path | None) -> Iterator[Scenario]:
    """All of them."""
    usual = generate_trace(WORKFLOW, runs=200, seed=1)

    def step(rate: float, trace: Trace = usual, first: Trace = usual) -> tuple[Part, ...]:
        return Part(before_s, RATE_PER_S, first), Part(after_s, rate, trace)

    yield Scenario("stationary", (Part(before_s + after_s, RATE_PER_S, usual),))
    yield Scenario("rate x2", step(2 * RATE_PER_S))
    yield Scenario("rate x0.4", step(0.4 * RATE_PER_S))
    for factor in (0.5, 2.0, 3.0):
        yield Scenario(f"answers x{factor:g}", step(RATE_PER_S, drift(usual, factor)))
    yield Scenario("branch 5 to 60 %", step(RATE_PER_S, branching(usual, 0.6), branching(usual, 0.05)))
    yield Scenario("LLM replaced", step(RATE_PER_S, replaced(usual, 0.95), replaced(usual, 0.05)))
    yield Scenario("GPU lost", step(RATE_PER_S), loses_a_gpu=True)
    day = [RATE_PER_S * (1.1 - 0.9 * sin(2 * pi * (hour + 6) / 24)) for hour in range(0, 24, 3)]
    yield Scenario("day curve", tuple(Part(DAY_S / len(day), rate, usual) for rate in day))
    if azure is not None:
        yield azure_arrivals(azure, usual)


def azure_arrivals(path: Path, usual: Trace) -> Scenario:
    """The recorded hour twice as fast, each arrival one run of the workflow, thinned at random to the usual mean rate."""
    stamps = pd.to_datetime(pd.read_csv(path)["TIMESTAMP"])
    times: Floats = np.asarray((stamps - stamps.iloc[0]).dt.total_seconds(), dtype=float) / AZURE_FASTER
    rng = stream(0, "azure", "thinning")
    kept = times[rng.random(len(times)) < RATE_PER_S * times[-1] / len(times)]
    order = np.concatenate([rng.permutation(len(usual.runs)) for _ in range(len(kept) // len(usual.runs) + 1)])
    runs = tuple(
        msgspec.structs.replace(usual.runs[which], id=f"a{number}", arrival_s=at)
        for number, (at, which) in enumerate(zip(kept.tolist(), order.tolist(), strict=False))
    )
    ends = [*np.arange(AZURE_SPAN_S, times[-1], AZURE_SPAN_S).tolist(), float(times[-1])]
    spans = [(begin, end) for begin, end in zip([0.0, *ends[:-1]], ends, strict=True)]
    parts = (Part(end - begin, float(((kept >= begin) & (kept < end)).sum()) / (end - begin), usual) for begin, end in spans)
    return Scenario("Azure arrivals", tuple(parts), recorded=msgspec.structs.replace(usual, runs=runs))
