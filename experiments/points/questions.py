"""What an experiment asks, as plain values, and the traces, problems and reference rates that follow from it.

Problems are kept per process: a worker that simulates many points of one question profiles and states it once.
"""

import contextlib
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from experiments.code_version import code_hash
from experiments.points.azure import azure_stream
from experiments.points.real_traces import read_real
from experiments.points.variants import fan_out_trace, varied
from scepsy.api.case import Case
from scepsy.api.prepare import Load, prepare
from scepsy.backend import Stream
from scepsy.errors import InputError
from scepsy.files.atomic import write_bytes
from scepsy.files.cache import cache_dir
from scepsy.files.trace import load_trace
from scepsy.generate import generate
from scepsy.profile import catalogue
from scepsy.search import PLANNERS
from scepsy.search.goals import highest_factor
from scepsy.workload import Arrivals, Trace

TRACE_RUNS = 200
TRACE_SEED = 1
CURVE_SEED = 7
"""Profiling replays other arrivals than any measurement."""


@dataclass(frozen=True)
class Question:
    """Which workflows on which cluster, planned on what, measured on what."""

    workflows: tuple[str, ...]
    """Names of generated workflows, ``fan-out-N``, or ``real:NAME`` (docs/experiments.md)."""
    gpus: int = 16
    gpu_type: str = "A100-80G"
    gpus_per_node: int = 8
    arrivals: str = "poisson"
    """``poisson``, ``gamma:CV`` or ``azure`` (experiments.points.azure), of what is measured."""
    planned_on: str = ""
    """Variant of the traces that systems plan on."""
    measured_on: str = ""
    """Variant of the traces that are measured."""
    share_unit_pct: int = 10
    models: tuple[tuple[str, str], ...] = ()
    """LLMs of the trace that another model of the catalogue plays: (name in the trace, model)."""
    mix: tuple[float, ...] = ()
    """Weights of the workflows' rates, each relative to what the cluster could carry of it alone; empty: equal."""

    @property
    def name(self) -> str:
        """The workflows in one word."""
        return "+".join(self.workflows)


@functools.lru_cache(maxsize=64)
def trace_of(workflow: str, variant: str = "") -> Trace:
    """A workflow's trace: the committed one, else the same generated; real ones from ``$SCEPSY_DATA``."""
    if workflow.startswith("real:"):
        return varied(read_real(workflow.removeprefix("real:")), variant)
    if workflow.startswith("fan-out-"):
        return varied(fan_out_trace(int(workflow.removeprefix("fan-out-"))), variant)
    path = Path(__file__).parents[2] / "traces" / f"{workflow}.jsonl.gz"
    trace = load_trace(path) if path.exists() else generate(workflow, runs=TRACE_RUNS, seed=TRACE_SEED)
    return varied(trace.of(workflow), variant)


def arrivals_of(text: str, rate_per_s: float) -> Arrivals:
    """``poisson`` or ``gamma:CV`` at a rate."""
    kind, _, cv = text.partition(":")
    if kind == "gamma":
        return Arrivals(kind="gamma", rate_per_s=rate_per_s, cv=float(cv))
    return Arrivals(rate_per_s=rate_per_s)


def _models(llms: Sequence[str], played: Mapping[str, str]) -> Mapping[str, str]:
    """Which catalogue model serves each LLM name: the one asked for, itself, or for names of real traces one of their size."""
    return {llm: played.get(llm) or (llm if llm in catalogue.llms() else _stand_in(llm)) for llm in llms}


def _stand_in(llm: str) -> str:
    """Real traces name hosted models whose weights are not public: the smaller kind is played by 8B, the others by 70B
    (assumed).
    """
    small = any(word in llm for word in ("mini", "haiku", "small", "user", "flash"))
    return "llama-3.1-8b" if small else "llama-3.1-70b"


@functools.lru_cache(maxsize=16)
def base_case(question: Question, rates_per_s: tuple[float, ...], jobs: int = 1) -> Case:
    """The planning problem at the given rates, planned on the question's own variant. Arrivals are Poisson for the planner."""
    traces = [trace_of(workflow, question.planned_on) for workflow in question.workflows]
    cluster = catalogue.cluster_of(question.gpus, question.gpu_type, question.gpus_per_node)
    llms = list(dict.fromkeys(llm for trace in traces for llm in trace.llms))
    profiles = catalogue.builtin_profiles(_models(llms, dict(question.models)), cluster.gpu_types)
    loads = tuple(Load(trace=t, arrivals=Arrivals(rate_per_s=rate)) for t, rate in zip(traces, rates_per_s, strict=True))
    problem = prepare(
        loads, cluster, profiles, share_unit_pct=question.share_unit_pct, seed=CURVE_SEED, cache_dir=cache_dir(), jobs=jobs
    )
    return Case(problem=problem, streams=tuple(load.stream for load in loads))


REFERENCE_LOAD = 0.5


@dataclass(frozen=True)
class Reference:
    """What loads and lengths of experiments are relative to."""

    rates_per_s: tuple[float, ...]
    """Rates (runs/s) of load 1, one per workflow."""
    latency_s: float
    """Predicted latency of the slowest workflow at half that load."""


_REFERENCES: dict[Question, Reference] = {}


def reference_of(question: Question, jobs: int = 1) -> Reference:
    """Load 1: the highest rates for which the exact planner finds a plan, all workflows scaled together.

    For several workflows the rates are in the proportion in which the cluster could carry each alone, times ``mix``. What is
    measured does not matter, only what is planned on. Kept in memory and on disk, since every process needs it; ``jobs``
    processes profile what is not known yet.
    """
    asked = replace(question, measured_on="", arrivals="poisson")
    if asked not in _REFERENCES:
        _REFERENCES[asked] = _reference(asked, jobs)
    return _REFERENCES[asked]


def known_reference(question: Question) -> Reference | None:
    """The reference if it has been found before, without profiling anything."""
    asked = replace(question, measured_on="", arrivals="poisson")
    if asked not in _REFERENCES:
        path = _reference_path(asked)
        if not path.exists():
            return None
        try:
            _REFERENCES[asked] = msgspec.json.decode(path.read_bytes(), type=Reference)
        except (OSError, msgspec.DecodeError):  # a damaged cache: found anew
            return None
    return _REFERENCES[asked]


def _reference_path(asked: Question) -> Path:
    return cache_dir() / "references" / f"{_reference_key(asked)}.json"


def _reference(asked: Question, jobs: int) -> Reference:
    known = known_reference(asked)
    if known is not None:
        return known
    path = _reference_path(asked)
    if len(asked.workflows) == 1:
        shape: tuple[float, ...] = (1.0,)
    else:
        mix = asked.mix or (1.0,) * len(asked.workflows)
        alone = [reference_of(replace(asked, workflows=(name,), mix=()), jobs).rates_per_s[0] for name in asked.workflows]
        shape = tuple(part * rate for part, rate in zip(mix, alone, strict=True))
    factor = highest_factor(base_case(asked, shape, jobs).problem)[0]
    rates = tuple(rate * factor for rate in shape)
    plan = PLANNERS["exact"](base_case(asked, rates).at_factor(REFERENCE_LOAD).problem)
    found = Reference(rates_per_s=rates, latency_s=max(e.latency_s for e in plan.expected))
    with contextlib.suppress(InputError, OSError):  # a cache is optional
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, msgspec.json.encode(found))
    return found


def _reference_key(question: Question) -> str:
    return hashlib.sha256(f"{question!r} {code_hash()}".encode()).hexdigest()[:24]


def planning_case(question: Question, load: float) -> Case:
    """What systems are asked at a load."""
    asked = replace(question, measured_on="", arrivals="poisson")
    return base_case(asked, reference_of(question).rates_per_s).at_factor(load)


def measured_streams(question: Question, load: float, seed: int = 0) -> tuple[Stream, ...]:
    """What is measured at a load. ``seed`` matters for arrivals at recorded times only: there it chooses the runs."""
    streams = []
    for workflow, rate in zip(question.workflows, reference_of(question).rates_per_s, strict=True):
        trace = trace_of(workflow, question.measured_on)
        if question.arrivals == "azure":
            streams.append(azure_stream(trace, rate * load, seed))
        else:
            streams.append(Stream(trace=trace, arrivals=arrivals_of(question.arrivals, rate * load)))
    return tuple(streams)
