"""What every planner is asked, and the one signature they all have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from scepsy.cluster import Cluster
from scepsy.plan import Plan, Target
from scepsy.profile.curve import Curve
from scepsy.profile.model import ProfileSet
from scepsy.stats.use import WorkflowUse

CurveKey = tuple[str, str, str, int, int, int]
"""(workflow, LLM, GPU type, tensor-parallel degree, share_pct, replicas)"""


@dataclass(frozen=True)
class Problem:
    """One planning question: carry these workflows at these rates on this cluster, knowing these profiles."""

    cluster: Cluster
    profiles: ProfileSet
    targets: tuple[Target, ...]
    uses: tuple[WorkflowUse, ...]
    """One per target, in the same order."""
    curves: Mapping[CurveKey, Curve]
    share_unit_pct: int = 10
    """Shares are multiples of this."""
    assumptions: tuple[str, ...] = field(default=())


Planner = Callable[[Problem], Plan]
"""Raises ``Infeasible`` naming the LLM or the resource that binds, and by how much. Deterministic."""
