"""What a pod is up to, in words. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from executor.cluster.api import Object

Gate = Literal["ready", "scheduled"]
"""When an engine counts as started: its pod is ready (it serves), or merely bound to its node (no kubelet to ask)."""

_HOPELESS = {"InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError"}
_RESTARTS = 3
"""Restarts after which an engine that crashes is not waited for any longer."""


@dataclass(frozen=True)
class PodState:
    """One pod, reduced to what matters here."""

    name: str
    node: str
    phase: str
    ready: bool
    restarts: int
    going: bool
    problem: str
    """Why it does not serve, in words; empty while all is well or nothing is known yet."""
    hopeless: bool
    """Waiting longer will not help."""

    def passes(self, gate: Gate) -> bool:
        """Whether the engine counts as started."""
        return not self.going and (self.ready if gate == "ready" else bool(self.node))


def pod_state(pod: Object) -> PodState:
    """Reduce one pod."""
    status = pod.get("status", {})
    conditions = {c["type"]: c for c in status.get("conditions", [])}
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    restarts = sum(int(c.get("restartCount", 0)) for c in containers)
    problem, hopeless = _problem(pod, conditions, containers, restarts)
    return PodState(
        name=pod["metadata"]["name"],
        node=pod.get("spec", {}).get("nodeName", ""),
        phase=status.get("phase", ""),
        ready=conditions.get("Ready", {}).get("status") == "True",
        restarts=restarts,
        going="deletionTimestamp" in pod["metadata"],
        problem=problem,
        hopeless=hopeless,
    )


def best(pods: Iterable[PodState]) -> PodState | None:
    """The pod that speaks for an engine: not one on its way out, if there is another."""
    return min(pods, key=lambda pod: (pod.going, not pod.ready, pod.name), default=None)


def _problem(pod: Object, conditions: dict[str, Any], containers: list[Any], restarts: int) -> tuple[str, bool]:
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False" and not pod.get("spec", {}).get("nodeName"):
        return f"not scheduled: {_line(scheduled.get('message', ''))}", False
    if pod.get("status", {}).get("phase") == "Failed":
        return f"failed: {_line(pod['status'].get('message') or pod['status'].get('reason', 'no reason given'))}", False
    for container in containers:
        if container.get("ready"):
            continue
        waiting = container.get("state", {}).get("waiting", {})
        died = _died(container)
        reason = waiting.get("reason", "")
        if reason == "CrashLoopBackOff" or (died and restarts):
            times = "once" if restarts == 1 else f"{restarts} times"
            return f"crashed {times}, last {died or 'for a reason not given'}", restarts >= _RESTARTS
        if reason and reason not in ("ContainerCreating", "PodInitializing"):
            return f"{reason}: {_line(waiting.get('message', ''))}", reason in _HOPELESS
    return "", False


def _died(container: Any) -> str:
    for state in (container.get("lastState", {}), container.get("state", {})):
        ended = state.get("terminated")
        if ended:
            if ended.get("reason") == "OOMKilled":
                return "out of host memory (OOMKilled: raise the engine's memory request)"
            message = _line(ended.get("message", ""))
            return f"exit code {ended.get('exitCode')}" + (f": {message}" if message else f" ({ended.get('reason', 'Error')})")
    return ""


def _line(text: str, limit: int = 300) -> str:
    flat = " ".join(str(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
