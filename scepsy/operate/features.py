"""What one run tells of the load: numbers that do not depend on how busy the instances were.

Times are nominal ones (``scepsy.dag.nominal_s``), by walking the run's graph without its recorded times. So shares and
parallelism of a live run compare with those of the trace, whatever queued at the time.
"""

from collections.abc import Sequence
from math import fsum

import msgspec

from scepsy.dag import nominal_s, walk
from scepsy.stats.use import busy_s
from scepsy.value import Value
from scepsy.workload import Run

CALLS, INPUT, OUTPUT, CALL_S, BUSY_S, TOOL_S = "calls", "input_tokens", "output_tokens", "call_s", "busy_s", "tool_s"
"""Per run: calls, tokens, nominal seconds and seconds in which at least one call is in flight, each of one LLM; tool time."""


class Seen(Value, frozen=True, kw_only=True):
    """One run as the controller sees it."""

    workflow: str
    arrival_s: float
    end_s: float | None = None
    """None: still open."""
    values: dict[str, float] = msgspec.field(default_factory=dict)
    """By ``name:llm``; empty while it is open, and where no call of it was completed."""
    run: Run | None = None
    """The run itself, to plan and simulate with; None while it is open."""

    @property
    def latency_s(self) -> float:
        """Seconds from arrival to end; infinite while it is open."""
        return float("inf") if self.end_s is None else self.end_s - self.arrival_s


def features_of(run: Run) -> dict[str, float]:
    """The run's numbers by ``name:llm``, and ``tool_s``: nominal seconds in which no call is in flight.

    >>> from scepsy.workload import Call
    >>> run = Run(id="r", workflow="w", calls=(Call(id="a", llm="m", input_tokens=10, output_tokens=5, gap_s=0.5),))
    >>> features_of(run)["output_tokens:m"], features_of(run)["tool_s"]
    (5.0, 0.5)
    """
    starts, ends = walk(run, [nominal_s(call) for call in run.calls])
    spans: dict[str, list[tuple[float, float]]] = {}
    values: dict[str, float] = {}
    for call, start, end in zip(run.calls, starts, ends, strict=True):
        spans.setdefault(call.llm, []).append((start, end))
        for name, value in ((CALLS, 1.0), (INPUT, call.input_tokens), (OUTPUT, call.output_tokens)):
            key = f"{name}:{call.llm}"
            values[key] = values.get(key, 0.0) + value
    for llm, mine in spans.items():
        values[f"{CALL_S}:{llm}"] = fsum(end - start for start, end in mine)
        values[f"{BUSY_S}:{llm}"] = busy_s(mine)
    idle = max(ends) + run.tail_s - busy_s(span for mine in spans.values() for span in mine)
    values[TOOL_S] = idle if idle > 1e-9 else 0.0  # less is rounding
    return values


def seen_of(run: Run, arrival_s: float, end_s: float) -> Seen:
    """A run that has ended."""
    return Seen(workflow=run.workflow, arrival_s=arrival_s, end_s=end_s, values=features_of(run), run=run)


def llms_of(values: Sequence[dict[str, float]]) -> tuple[str, ...]:
    """LLMs that any of the runs calls, in order of first appearance."""
    prefix = f"{CALLS}:"
    return tuple(dict.fromkeys(key.removeprefix(prefix) for each in values for key in each if key.startswith(prefix)))
