"""What a system becomes once it has decided: something that replays workloads."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from scepsy.api.case import Case
from scepsy.backend import Workload
from scepsy.plans import Plan
from scepsy.records import Records

Option = Mapping[str, str | int | float | bool]
"""One configuration of a system: option names and values."""


@dataclass(frozen=True)
class Deployment:
    """A decided system."""

    replay: Callable[[Workload], Records]
    decided: str
    """What was decided, in one line: allocations, a split, meshes."""
    gpus: int
    """GPUs that it holds."""
    plan: Plan | None = None
    """Its static plan, where it has one."""
    memory_s: float = 0.0
    """Seconds of its past that it acts on: what it does over a shorter window says little of it. 0: it does not act."""
    carried: str = ""
    """Why it runs what was planned for a lower rate; empty when it does not."""

    @property
    def hash(self) -> str:
        """Twelve hex digits that name what was decided, search time aside."""
        if self.plan is None:
            text = self.decided.encode()
        else:
            text = msgspec.json.encode(msgspec.structs.replace(self.plan, search_s=0.0))
        return hashlib.sha256(text).hexdigest()[:12]


Deploy = Callable[[Case, Option], Deployment]
"""Raises ``Infeasible`` when it cannot serve the problem's rates. Deterministic."""


def label_of(option: Option) -> str:
    """An option as text.

    >>> label_of({"prefill": 3, "spread": True})
    'prefill=3 spread=True'
    """
    return " ".join(f"{name}={value}" for name, value in option.items())


def allocations_text(plan: Plan) -> str:
    """A plan's allocations in one line: ``llm share% xTP xreplicas``."""
    return ", ".join(f"{a.llm} {a.replicas}x(TP {a.tensor_parallel}, {a.share_pct} %)" for a in plan.allocations)
