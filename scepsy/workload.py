"""What is asked of the LLMs: calls, runs, traces, arrivals. Values only."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Literal

import msgspec

from scepsy.value import Value, require, require_finite

CallKind = Literal["generate", "embed", "rerank"]


class Call(Value, frozen=True, kw_only=True):
    """One LLM invocation inside a run.

    It is issued ``gap_s`` after the last of its ``parents`` ended (a root: ``gap_s`` after the run arrived).
    ``start_s`` and ``end_s`` are what was recorded, in seconds since the run's arrival; predictions and
    simulations never read them, statistics do.
    """

    id: str
    llm: str
    input_tokens: int
    """Prompt tokens, cached ones included."""
    output_tokens: int = 0
    """Generated tokens; 0 exactly for the pooling kinds."""
    parents: tuple[str, ...] = ()
    gap_s: float = 0.0
    """Tool or think time between the last parent's end (a root: the run's arrival) and this call's issue."""
    kind: CallKind = "generate"
    start_s: float | None = None
    end_s: float | None = None
    prefix_hashes: tuple[int, ...] = ()
    """Ids of the prompt's leading blocks of ``Trace.prefix_block_tokens`` tokens; equal ids mean equal prefixes."""

    def __post_init__(self) -> None:
        require(bool(self.id), "id", self.id, "a non-empty string")
        require(bool(self.llm), "llm", self.llm, "a non-empty string")
        require(1 <= self.input_tokens < 2**31, "input_tokens", self.input_tokens, ">= 1 and < 2**31")
        if self.kind == "generate":
            require(
                1 <= self.output_tokens < 2**31, "output_tokens", self.output_tokens, ">= 1 (and < 2**31) for kind 'generate'"
            )
        else:
            require(self.output_tokens == 0, "output_tokens", self.output_tokens, f"0 for kind {self.kind!r}")
        require_finite("gap_s", self.gap_s)
        require((self.start_s is None) == (self.end_s is None), "end_s", self.end_s, "given exactly when start_s is")
        if self.start_s is not None and self.end_s is not None:
            require_finite("start_s", self.start_s)
            require_finite("end_s", self.end_s)
            require(self.end_s >= self.start_s, "end_s", self.end_s, f">= start_s ({self.start_s!r})")

    @property
    def duration_s(self) -> float:
        """Recorded seconds from start to end. Raises ``ValueError`` when nothing was recorded."""
        if self.start_s is None or self.end_s is None:
            raise ValueError(f"call {self.id!r} has no recorded times")
        return self.end_s - self.start_s


class Run(Value, frozen=True, kw_only=True):
    """One workflow request: a DAG of calls, listed parents first."""

    id: str
    workflow: str
    calls: tuple[Call, ...]
    arrival_s: float | None = None
    """Recorded arrival, seconds since the trace began; None when the trace has no clock."""
    tail_s: float = 0.0
    """Tool time after the last call until the answer is out."""
    session: str = ""
    """Runs of one session share prompt prefixes (a conversation); empty: the run stands alone."""

    def __post_init__(self) -> None:
        require(bool(self.id), "id", self.id, "a non-empty string")
        require(bool(self.workflow), "workflow", self.workflow, "a non-empty string")
        require(len(self.calls) > 0, "calls", self.calls, "at least one call")
        if self.arrival_s is not None:
            require_finite("arrival_s", self.arrival_s)
        require_finite("tail_s", self.tail_s)
        seen: set[str] = set()
        for index, call in enumerate(self.calls):
            if call.id in seen:
                raise ValueError(f"calls[{index}].id is {call.id!r}: must be unique within the run")
            for parent in call.parents:
                if parent not in seen:
                    raise ValueError(f"calls[{index}].parents: {_explain_parent(self.calls, index, parent)}")
            seen.add(call.id)


def _explain_parent(calls: tuple[Call, ...], index: int, parent: str) -> str:
    parents = {call.id: call.parents for call in calls}
    if parent not in parents:
        return f"{parent!r} is no call of this run"
    path, stack, seen = [calls[index].id], list(parents[calls[index].id]), set()
    while stack:
        node = stack.pop()
        if node == path[0]:
            return f"cycle: {calls[index].id!r} waits for {parent!r}, which waits for {calls[index].id!r}"
        if node in parents and node not in seen:
            seen.add(node)
            stack.extend(parents[node])
    return f"{parent!r} comes later: list parents before their children"


class TraceSource(Value, frozen=True, kw_only=True):
    """Where a trace comes from, so that a result can be traced back."""

    origin: str
    """A data set, a recording, or ``generated:<workflow>``."""
    licence: str = ""
    seed: int | None = None
    assumptions: tuple[str, ...] = ()
    """What no public source gave and we assumed; printed wherever a result rests on it."""
    notes: tuple[str, ...] = ()
    """What the importer inferred or left out, with counts."""


class Trace(Value, frozen=True, kw_only=True, dict=True):
    """Runs of one or more workflows. Large traces are streamed run by run instead (``files.trace``)."""

    source: TraceSource
    runs: tuple[Run, ...]
    prefix_block_tokens: int = 0
    """Tokens per id in ``Call.prefix_hashes``; 0 when the trace has none."""

    def __post_init__(self) -> None:
        require(len(self.runs) > 0, "runs", self.runs, "at least one run")
        require(self.prefix_block_tokens >= 0, "prefix_block_tokens", self.prefix_block_tokens, ">= 0")
        seen: set[str] = set()
        for index, run in enumerate(self.runs):
            if run.id in seen:
                raise ValueError(f"runs[{index}].id is {run.id!r}: must be unique within the trace")
            seen.add(run.id)

    @cached_property
    def workflows(self) -> tuple[str, ...]:
        """Workflow names in order of first appearance."""
        return tuple(dict.fromkeys(run.workflow for run in self.runs))

    @cached_property
    def llms(self) -> tuple[str, ...]:
        """LLM names in order of first appearance."""
        return tuple(dict.fromkeys(call.llm for run in self.runs for call in run.calls))

    def of(self, workflow: str) -> "Trace":
        """Return the part of the trace that belongs to one workflow. Raises ``KeyError`` if there is none."""
        runs = tuple(run for run in self.runs if run.workflow == workflow)
        if not runs:
            raise KeyError(f"workflow {workflow!r} is not in the trace (it has {', '.join(self.workflows)})")
        return Trace(source=self.source, runs=runs, prefix_block_tokens=self.prefix_block_tokens)

    def renamed(self, names: Mapping[str, str]) -> "Trace":
        """The trace with calls to some names taken for calls to others (name → LLM); itself where none is among them."""
        if not any(call.llm in names for run in self.runs for call in run.calls):
            return self
        runs = (
            msgspec.structs.replace(
                run,
                calls=tuple(
                    msgspec.structs.replace(call, llm=names[call.llm]) if call.llm in names else call for call in run.calls
                ),
            )
            for run in self.runs
        )
        return msgspec.structs.replace(self, runs=tuple(runs))

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)


class Piece(Value, frozen=True, kw_only=True):
    """A constant rate for a while: a part of piecewise arrivals."""

    duration_s: float
    rate_per_s: float

    def __post_init__(self) -> None:
        require_finite("duration_s", self.duration_s, exclusive=True)
        require_finite("rate_per_s", self.rate_per_s)


class Arrivals(Value, frozen=True, kw_only=True):
    """When runs of one workflow arrive. ``scepsy.arrivals`` draws the times.

    poisson: exponential gaps. gamma: gaps with coefficient of variation ``cv``. deterministic: equal gaps.
    trace: the recorded ``arrival_s`` of the trace's runs, scaled to ``rate_per_s`` (as recorded when it is None).
    piecewise: Poisson within each piece, the pieces repeated. closed: ``users`` users, each thinking an exponential
    ``think_s`` between the end of a run and the next.
    """

    kind: Literal["poisson", "gamma", "deterministic", "trace", "piecewise", "closed"] = "poisson"
    rate_per_s: float | None = None
    cv: float = 1.0
    pieces: tuple[Piece, ...] = ()
    users: int = 0
    think_s: float = 0.0

    def __post_init__(self) -> None:
        if self.kind in ("poisson", "gamma", "deterministic"):
            require(self.rate_per_s is not None, "rate_per_s", self.rate_per_s, f"given for kind {self.kind!r}")
        if self.rate_per_s is not None:
            require_finite("rate_per_s", self.rate_per_s, exclusive=True)
        require_finite("cv", self.cv, exclusive=True)
        if self.kind == "piecewise":
            require(any(piece.rate_per_s > 0 for piece in self.pieces), "pieces", self.pieces, "at least one with a rate")
        if self.kind == "closed":
            require(self.users >= 1, "users", self.users, ">= 1 for kind 'closed'")
        require_finite("think_s", self.think_s)

    def at_rate(self, rate_per_s: float) -> "Arrivals":
        """The same arrivals at another rate (runs per second)."""
        return msgspec.structs.replace(self, rate_per_s=rate_per_s)
