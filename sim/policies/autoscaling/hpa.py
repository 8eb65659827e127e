"""Kubernetes' Horizontal Pod Autoscaler, one per LLM.

Every ``sync_s``: ratio = mean of the metric over ready instances / target; within ``tolerance`` of 1 nothing changes, else
want = ceil(ready · ratio). When scaling up, instances that are not ready count as idle. Up: at most the larger of +100 %
and +4 per sync, without delay. Down: the largest want of the last ``stabilisation_s``. Source: the algorithm and defaults
of autoscaling/v2 (kubernetes.io, "Horizontal Pod Autoscaling"). Instances without a free GPU stay pending.
"""

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, fsum
from typing import Any

import simpy

from sim.world.control import PENDING, READY, STARTING, Control, Member, Policy

Metric = Callable[[Member, float], float]
"""(member, its busy seconds over the seconds since the last sync) -> value."""


def waiting(member: Member, busy: float) -> float:
    """Calls in the queue."""
    return float(member.waiting)


def load(member: Member, busy: float) -> float:
    """Calls in the queue and in the batch."""
    return float(member.waiting + member.running)


def kv_use(member: Member, busy: float) -> float:
    """Part of the KV blocks in use."""
    return member.kv_use


def utilisation(member: Member, busy: float) -> float:
    """Part of the time since the last sync that the instance was busy."""
    return busy


METRICS: dict[str, tuple[Metric, float]] = {
    "waiting": (waiting, 5.0),
    "load": (load, 32.0),
    "kv-use": (kv_use, 0.75),
    "gpu-utilisation": (utilisation, 0.75),
}
"""Metrics and their usual targets."""


@dataclass(frozen=True)
class HpaSettings:
    """The autoscaler's settings; defaults are Kubernetes'."""

    metric: str = "waiting"
    target: float | None = None
    """None: the metric's usual one."""
    sync_s: float = 15.0
    tolerance: float = 0.1
    stabilisation_s: float = 300.0
    up_factor: float = 2.0
    up_pods: int = 4
    min_replicas: int = 1
    max_replicas: int | Mapping[str, int] = 1 << 30
    """For all LLMs, or by LLM."""

    def most(self, llm: str) -> int:
        """The largest number of instances of one LLM."""
        return self.max_replicas if isinstance(self.max_replicas, int) else self.max_replicas[llm]


KEDA = HpaSettings(stabilisation_s=360.0)
"""KEDA polls every 15 s and cools down for 360 s."""


def desired(values: Sequence[float], unready: int, target: float, tolerance: float) -> int:
    """Instances wanted for the metric's values on the ready ones.

    >>> desired([10.0, 8.0], 0, 5.0, 0.1), desired([5.2, 5.0], 0, 5.0, 0.1), desired([10.0, 10.0], 2, 5.0, 0.1)
    (4, 2, 4)
    """
    current = len(values) + unready
    if not values:
        return current
    ratio = fsum(values) / len(values) / target
    if abs(ratio - 1.0) <= tolerance:
        return current
    if ratio > 1.0 and unready:
        ratio = fsum(values) / current / target
        return current if ratio <= 1.0 + tolerance else ceil(round(current * ratio, 9))
    return ceil(round(len(values) * ratio, 9))


def hpa(settings: HpaSettings = HpaSettings()) -> Policy:
    """The policy: one autoscaler over all LLMs of the plan."""

    def policy(control: Control) -> Generator[simpy.Event, Any, None]:
        wants: dict[str, deque[tuple[float, int]]] = {llm: deque() for llm in control.llms}
        busy: dict[Member, float] = {}
        while True:
            yield control.sleep(settings.sync_s)
            for llm in control.llms:
                _sync(control, llm, settings, wants[llm], busy)

    return policy


def _sync(
    control: Control, llm: str, settings: HpaSettings, wants: deque[tuple[float, int]], busy: dict[Member, float]
) -> None:
    metric, usual = METRICS[settings.metric]
    target = settings.target or usual
    ready, unready = control.of(llm, READY), control.of(llm, STARTING, PENDING)
    values = []
    for member in ready:
        before, busy[member] = busy.get(member, 0.0), member.busy_s
        values.append(metric(member, (busy[member] - before) / settings.sync_s))
    current = len(ready) + len(unready)
    want = desired(values, len(unready), target, settings.tolerance)
    want = min(want, max(int(current * settings.up_factor), current + settings.up_pods))
    want = min(max(want, settings.min_replicas), settings.most(llm))
    wants.append((control.now_s, want))
    while wants[0][0] < control.now_s - settings.stabilisation_s:
        wants.popleft()
    if want > current:
        control.resize(llm, want)
    elif (kept := max(number for _, number in wants)) < current:
        control.resize(llm, kept)


__all__ = ["KEDA", "METRICS", "HpaSettings", "desired", "hpa"]
