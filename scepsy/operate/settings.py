"""What the controller may do, how sure it must be, and what it aims at."""

from typing import Literal

import msgspec

from scepsy.value import Value, require, require_finite


class Settings(Value, frozen=True, kw_only=True):
    """Limits and aims; the defaults are what the detection table was made with."""

    goal: Literal["latency", "gpus"] = "latency"
    """latency: the fewest runs in the system (rate times latency) on the GPUs allowed. gpus: the fewest GPUs within limits."""
    limits_s: dict[str, float] = msgspec.field(default_factory=dict)
    """Latency limit by workflow, seconds. Needed for goal gpus."""
    percentile: float | None = None
    """Which percentile the limits bound: 50, 95 or 99; None: the mean."""
    look_s: float = 10.0
    """Between two looks at the load."""
    alarms_per_week: float = 1.0
    """False alarms on a load that does not change, all workflows together. What is tested against follows from it."""
    least_runs: int = 32
    """Runs after a change that a new plan must rest on."""
    horizon_s: float = 3600.0
    """How long a new load is taken to last: what a switch gains is counted over this time."""
    margin: float = 1.5
    """A gain must be this many times what the switch costs."""
    least_gain_pct: float = 10.0
    """A gain must be at least this part of what there is: predictions are off by 7 % at 80 % load (docs/accuracy.md)."""
    min_between_s: float = 600.0
    """Between the beginnings of two switches."""
    most_started: int = 8
    """Instances that one switch may start."""
    gpus_from: int = 1
    gpus_to: int | None = None
    """Fewest and most GPUs a plan may touch; None: all of the cluster."""

    def __post_init__(self) -> None:
        for field in ("look_s", "alarms_per_week", "horizon_s"):
            require_finite(field, getattr(self, field), exclusive=True)
        for field in ("min_between_s", "least_gain_pct"):
            require_finite(field, getattr(self, field))
        require_finite("margin", self.margin, minimum=1.0)
        require(self.least_runs >= 2, "least_runs", self.least_runs, ">= 2")
        require(self.most_started >= 1, "most_started", self.most_started, ">= 1")
        require(self.gpus_from >= 1, "gpus_from", self.gpus_from, ">= 1")
        if self.gpus_to is not None:
            require(self.gpus_to >= self.gpus_from, "gpus_to", self.gpus_to, f">= gpus_from ({self.gpus_from})")
        require(self.percentile in (None, 50, 95, 99), "percentile", self.percentile, "50, 95 or 99")
        for workflow, limit in self.limits_s.items():
            require_finite(f"limits_s[{workflow!r}]", limit, exclusive=True)
        require(self.goal == "latency" or bool(self.limits_s), "limits_s", self.limits_s, "given for goal gpus")
