"""The one contract that the simulator and the clusters satisfy: ``Backend: (Plan, Workload) -> Records``."""

from collections.abc import Callable
from typing import Literal

from scepsy.plans import Plan
from scepsy.records import Records
from scepsy.value import Value, require, require_finite
from scepsy.workload import Arrivals, Trace


class Stream(Value, frozen=True, kw_only=True):
    """One workflow's load: which runs, arriving when."""

    trace: Trace
    """Runs are drawn from it in ``order`` (in recorded order for arrivals of kind 'trace')."""
    arrivals: Arrivals
    order: Literal["sampled", "shuffled"] = "sampled"
    """sampled: each run drawn independently, with replacement. shuffled: all runs in random order before any comes again, so
    that a few hundred runs already have the mean of the trace."""

    def __post_init__(self) -> None:
        require(len(self.trace.workflows) == 1, "trace", self.trace.workflows, "of one workflow (use Trace.of)")

    @property
    def workflow(self) -> str:
        """The workflow's name."""
        return self.trace.workflows[0]


class Workload(Value, frozen=True, kw_only=True):
    """Everything a backend is asked to replay. The same value gives the same arrivals and the same runs on every backend."""

    streams: tuple[Stream, ...]
    seed: int = 0
    runs: int | None = None
    """Runs to issue in all streams together; None: as many as arrive within ``horizon_s``."""
    horizon_s: float | None = None
    """Arrivals stop here; None: after ``runs`` arrivals."""
    drain_s: float | None = None
    """How long after the last arrival runs may still finish; the rest is 'unfinished'. None: until all are done."""

    def __post_init__(self) -> None:
        require(len(self.streams) >= 1, "streams", self.streams, "at least one")
        require(self.runs is not None or self.horizon_s is not None, "runs", self.runs, "given unless horizon_s is")
        if self.runs is not None:
            require(self.runs >= 1, "runs", self.runs, ">= 1")
        if self.horizon_s is not None:
            require_finite("horizon_s", self.horizon_s, exclusive=True)
        if self.drain_s is not None:
            require_finite("drain_s", self.drain_s)


Backend = Callable[[Plan, Workload], Records]
