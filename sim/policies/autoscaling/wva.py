"""llm-d's Workload Variant Autoscaler, one variant per LLM: its saturation analyser, and its per-LLM latency target beside it.

Source: llm-d workload-variant-autoscaler, docs/saturation-analyzer.md and deploy/configmap-saturation-scaling.yaml (v0.7).
Every ``interval_s``, from the largest value that each ready instance showed in the last minute:

1. An instance is saturated at ``kv_threshold`` of its KV cache or ``queue_threshold`` waiting calls. The spare of the others is
   averaged. Below ``kv_spare`` or ``queue_spare`` one instance is added. One is removed when two or more are not saturated
   and the load spread over one fewer would leave both spares.
2. While instances are still to come, the earlier decision stands.
3. With ``rates_per_s``, calls per second of one instance within its LLM's latency target, the target is
   ``ceil(arrivals / rate)``, arbitrated by the published table: a need for capacity vetoes scaling down, scaling down must be
   safe, else the target rules.

The limiter is on: an instance for which there is no GPU is not asked for. What one instance carries within its target is
profiled here. The original gets it from a queueing model that it tunes.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, fsum, inf
from typing import Any

import simpy

from sim.policies.autoscaling.seen import Seen
from sim.world.control import PENDING, READY, STARTING, Control, Member, Policy


@dataclass(frozen=True)
class WvaSettings:
    """The published defaults."""

    interval_s: float = 60.0
    scrapes: int = 4
    """Looks at the metrics per interval: every 15 s."""
    kv_threshold: float = 0.80
    queue_threshold: float = 5.0
    kv_spare: float = 0.10
    queue_spare: float = 3.0
    rates_per_s: Mapping[str, float] = field(default_factory=dict)
    """Calls per second of one instance that meet its LLM's latency target; LLMs without one are scaled by saturation alone."""


@dataclass(frozen=True)
class Need:
    """What the saturation analyser says."""

    change: int
    """+1, 0 or -1 instances."""
    safe: bool
    """Whether one instance fewer would leave the spares."""


def saturation(kv: Sequence[float], queue: Sequence[float], settings: WvaSettings) -> Need:
    """The analyser on the peaks of the ready instances.

    >>> saturation([0.75], [0.0], WvaSettings()), saturation([0.2, 0.2], [0.0, 0.0], WvaSettings())
    (Need(change=1, safe=False), Need(change=-1, safe=True))
    >>> saturation([0.4, 0.4], [0.0, 0.0], WvaSettings())
    Need(change=0, safe=False)
    """
    fine = [(k, q) for k, q in zip(kv, queue, strict=True) if k < settings.kv_threshold and q < settings.queue_threshold]
    if not kv:
        return Need(0, safe=False)
    if not fine:
        return Need(1, safe=False)

    def spare(over: int) -> tuple[float, float]:
        return (
            settings.kv_threshold - fsum(k for k, _ in fine) / over,
            settings.queue_threshold - fsum(q for _, q in fine) / over,
        )

    kv_spare, queue_spare = spare(len(fine))
    if kv_spare < settings.kv_spare or queue_spare < settings.queue_spare:
        return Need(1, safe=False)
    if len(fine) < 2:
        return Need(0, safe=False)
    kv_left, queue_left = spare(len(fine) - 1)
    safe = kv_left >= settings.kv_spare and queue_left >= settings.queue_spare
    return Need(-1 if safe else 0, safe=safe)


def arbitrated(ready: int, need: Need, target: int | None) -> int:
    """Instances wanted: the saturation's need against the latency target's (None: there is none).

    >>> [arbitrated(3, Need(1, False), 2), arbitrated(3, Need(0, False), 2), arbitrated(3, Need(0, True), 2)]
    [3, 3, 2]
    >>> [arbitrated(3, Need(1, False), 3), arbitrated(3, Need(0, False), 5), arbitrated(3, Need(-1, True), 3)]
    [4, 5, 3]
    """
    if target is None:
        return max(1, ready + need.change)
    if target < ready:
        return max(1, target) if need.safe else ready
    return max(target, ready + max(need.change, 0))


def wva(settings: WvaSettings = WvaSettings()) -> Policy:
    """The policy: every LLM of the plan is a variant of its own."""

    def policy(control: Control) -> Generator[simpy.Event, Any, None]:
        seen = Seen(control)
        peaks: dict[Member, list[tuple[float, float]]] = {}
        while True:
            for _ in range(settings.scrapes):
                yield control.sleep(settings.interval_s / settings.scrapes)
                for llm in control.llms:
                    for member in control.of(llm, READY):
                        peaks.setdefault(member, []).append((member.kv_use, float(member.waiting)))
            for llm in control.llms:
                arrived = seen.arrived(llm)
                if not control.of(llm, PENDING, STARTING):
                    _decide(control, llm, settings, peaks, arrived / settings.interval_s)
            peaks.clear()

    return policy


def _decide(
    control: Control, llm: str, settings: WvaSettings, peaks: Mapping[Member, Sequence[tuple[float, float]]], rate: float
) -> None:
    ready = [member for member in control.of(llm, READY) if member in peaks]
    kv = [max(k for k, _ in peaks[member]) for member in ready]
    queue = [max(q for _, q in peaks[member]) for member in ready]
    each = settings.rates_per_s.get(llm, inf)
    target = None if each == inf else max(1, ceil(rate / each))
    want = arbitrated(len(ready), saturation(kv, queue, settings), target)
    control.resize(llm, want)
    for member in control.of(llm, PENDING):  # the limiter
        control.drain(member)


__all__ = ["Need", "WvaSettings", "arbitrated", "saturation", "wva"]
