"""Service level objectives: what workflows and LLMs must keep. Values only.

A percentile limit holds for all runs (or calls) of the steady state together. The error budget is the part of the runs that may
end without completing.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from scepsy.value import Value, require, require_finite

STATISTICS = ("mean", "p50", "p95", "p99")
ANY = "*"
"""Stands for every workflow (or LLM) without an entry of its own."""


class Limits(Value, frozen=True, kw_only=True):
    """Upper limits in seconds; absent: none."""

    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    def __post_init__(self) -> None:
        for name, limit in self.given.items():
            require_finite(name, limit, exclusive=True)

    @property
    def given(self) -> dict[str, float]:
        """The limits that are set, by statistic."""
        return {name: limit for name in STATISTICS if (limit := getattr(self, name)) is not None}

    @property
    def of_one(self) -> tuple[str, float] | None:
        """The limit that one run is held to for goodput: that of the highest percentile given, else the mean's."""
        ordered = [name for name in ("p99", "p95", "p50", "mean") if name in self.given]
        return (ordered[0], self.given[ordered[0]]) if ordered else None


class WorkflowSlo(Value, frozen=True, kw_only=True):
    """What one workflow must keep."""

    latency_s: Limits = Limits()
    """End-to-end latency of a run, seconds."""
    min_throughput_per_s: float | None = None
    """Completed runs per second."""
    error_budget_pct: float = 0.0
    """Percent of the runs that may end without completing."""

    def __post_init__(self) -> None:
        if self.min_throughput_per_s is not None:
            require_finite("min_throughput_per_s", self.min_throughput_per_s, exclusive=True)
        require(0 <= self.error_budget_pct < 100, "error_budget_pct", self.error_budget_pct, "from 0 to below 100")


class LlmSlo(Value, frozen=True, kw_only=True):
    """What the calls of one LLM must keep."""

    ttft_s: Limits = Limits()
    """Time to first token, seconds from the call's issue."""
    tpot_s: Limits = Limits()
    """Time per output token after the first, seconds."""


class Slo(Value, frozen=True, kw_only=True):
    """An SLO file: ``format: scepsy.slo``, ``version: 1`` and these fields."""

    goal: Literal["latency", "gpus", "cost"] | None = None
    """What to optimise within the limits; absent: the lowest latency, unless the command line says otherwise."""
    workflows: dict[str, WorkflowSlo] = msgspec.field(default_factory=dict)
    """By name; ``*`` stands for all without an entry."""
    llms: dict[str, LlmSlo] = msgspec.field(default_factory=dict)
    """By the name that the traffic asks for; ``*`` stands for all without an entry."""

    def __post_init__(self) -> None:
        require(bool(self.workflows or self.llms), "workflows", self.workflows, "given, or llms: an objective for something")

    @property
    def limits_latency(self) -> bool:
        """Whether some workflow's latency is limited."""
        return any(wanted.latency_s.given for wanted in self.workflows.values())

    def workflow(self, name: str) -> WorkflowSlo:
        """What a workflow must keep."""
        return self.workflows.get(name, self.workflows.get(ANY, WorkflowSlo()))

    def llm(self, name: str) -> LlmSlo:
        """What an LLM must keep."""
        return self.llms.get(name, self.llms.get(ANY, LlmSlo()))

    def unknown(self, workflows: Iterable[str], llms: Iterable[str]) -> Iterator[str]:
        """One line for each entry that names no workflow or LLM there is."""
        for kind, given, known in (("workflows", self.workflows, [*workflows]), ("llms", self.llms, [*llms])):
            for name in given:
                if name != ANY and name not in known:
                    yield f"{kind} names {name!r}: must be one of {', '.join(known)} (or *)"


def over(slo: Slo, workflow: str, latency_s: Mapping[str, float]) -> Iterator[tuple[str, float, float]]:
    """(statistic, limit, value) of every latency limit that a workflow's latencies (seconds, by statistic) exceed."""
    for name, limit in slo.workflow(workflow).latency_s.given.items():
        if latency_s[name] > limit:
            yield name, limit, latency_s[name]
