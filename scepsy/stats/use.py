"""n_m, p_m and tool time: the statistics that the Aggregate LLM Pipeline reads."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import fsum

from scepsy.dag import latency_s, timed
from scepsy.value import Value, require, require_finite
from scepsy.workload import Run, Trace


class LlmUse(Value, frozen=True, kw_only=True):
    """What one workflow asks of one LLM, per run."""

    llm: str
    calls_per_run: float
    """n_m"""
    parallelism: float
    """p_m: Σ call seconds over Σ seconds in which at least one is in flight."""

    def __post_init__(self) -> None:
        require_finite("calls_per_run", self.calls_per_run, exclusive=True)
        require(self.parallelism >= 1.0 - 1e-9, "parallelism", self.parallelism, ">= 1")


class WorkflowUse(Value, frozen=True, kw_only=True):
    """What one workflow asks of every LLM."""

    workflow: str
    runs: int
    llms: tuple[LlmUse, ...]
    tool_s: float = 0.0
    """Mean seconds per run in which no LLM call is in flight: tool and think time, uncontended."""

    def calls_per_run(self, llm: str) -> float:
        """n_m, or 0 when the workflow never calls ``llm``."""
        return fsum(use.calls_per_run for use in self.llms if use.llm == llm)


def busy_s(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of [start, end] intervals: seconds in which at least one is open.

    >>> busy_s([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)])
    4.0
    """
    total, reach = 0.0, float("-inf")
    for start, end in sorted(intervals):
        if start > reach:
            total += end - start
            reach = end
        elif end > reach:
            total += end - reach
            reach = end
    return total


@dataclass
class UseSums:
    """What one pass over the runs of one workflow adds up."""

    runs: int = 0
    tool_s: float = 0.0
    calls: dict[str, int] = field(default_factory=dict)
    call_s: dict[str, float] = field(default_factory=dict)
    busy_s: dict[str, float] = field(default_factory=dict)

    def add(self, run: Run) -> None:
        """Take in one timed run."""
        spans: dict[str, list[tuple[float, float]]] = {}
        for call in run.calls:
            spans.setdefault(call.llm, []).append((call.start_s or 0.0, call.end_s or 0.0))
        for llm, intervals in spans.items():
            self.calls[llm] = self.calls.get(llm, 0) + len(intervals)
            self.call_s[llm] = self.call_s.get(llm, 0.0) + fsum(end - start for start, end in intervals)
            self.busy_s[llm] = self.busy_s.get(llm, 0.0) + busy_s(intervals)
        self.runs += 1
        idle_s = latency_s(run) - busy_s(span for intervals in spans.values() for span in intervals)
        self.tool_s += idle_s if idle_s > 1e-9 else 0.0  # less is rounding

    def use(self, workflow: str) -> WorkflowUse:
        """The means over all runs taken in."""
        return WorkflowUse(
            workflow=workflow,
            runs=self.runs,
            llms=tuple(
                LlmUse(
                    llm=llm,
                    calls_per_run=calls / self.runs,
                    parallelism=max(1.0, self.call_s[llm] / self.busy_s[llm]) if self.busy_s[llm] > 0 else 1.0,
                )
                for llm, calls in self.calls.items()
            ),
            tool_s=self.tool_s / self.runs,
        )


def workflow_uses(runs: Iterable[Run]) -> dict[str, WorkflowUse]:
    """``WorkflowUse`` of every workflow among the runs, in one pass that keeps none of them.

    Recorded times are used where there are any, nominal ones elsewhere (``dag.timed``). The order of LLMs is that of
    first appearance.
    """
    sums: dict[str, UseSums] = {}
    for run in runs:
        sums.setdefault(run.workflow, UseSums()).add(timed(run))
    return {workflow: item.use(workflow) for workflow, item in sums.items()}


def workflow_use(trace: Trace, workflow: str) -> WorkflowUse:
    """What one workflow of a trace asks of every LLM: n_m, p_m and tool seconds (arXiv 2604.15186).

    Raises ``KeyError`` when the trace has no such workflow.
    """
    return workflow_uses(trace.of(workflow))[workflow]
