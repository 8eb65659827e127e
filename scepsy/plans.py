"""Allocation, placement, plan: what was decided. Frozen, valid once built."""

from typing import Any

import msgspec

from scepsy.cluster import Cluster, Gpu
from scepsy.llm import Served
from scepsy.slo import Slo
from scepsy.value import Value, require, require_finite
from scepsy.workload import Arrivals


class Allocation(Value, frozen=True, kw_only=True, order=True):
    """What one LLM gets: ``replicas`` instances, each a group of ``tensor_parallel`` GPUs with ``share_pct`` of each."""

    llm: str
    share_pct: int
    tensor_parallel: int
    replicas: int
    gpu_type: str

    def __post_init__(self) -> None:
        require(bool(self.llm), "llm", self.llm, "a non-empty string")
        require(1 <= self.share_pct <= 100, "share_pct", self.share_pct, "1 to 100")
        require(self.tensor_parallel >= 1, "tensor_parallel", self.tensor_parallel, ">= 1")
        require(self.replicas >= 1, "replicas", self.replicas, ">= 1")

    @property
    def gpu_pct(self) -> int:
        """Hundredths of GPUs taken in all: share · tensor_parallel · replicas."""
        return self.share_pct * self.tensor_parallel * self.replicas


class Instance(Value, frozen=True, kw_only=True):
    """One engine process group on its GPUs: an element of the placement."""

    llm: str
    index: int
    """0 … replicas − 1 within its LLM."""
    gpus: tuple[Gpu, ...]
    """As many as the tensor-parallel degree, all of one NVLink domain."""
    share_pct: int
    memory_bytes: int
    """Per GPU, weights and KV cache and activations together."""

    def __post_init__(self) -> None:
        require(self.index >= 0, "index", self.index, ">= 0")
        require(len(self.gpus) >= 1, "gpus", self.gpus, "at least one")
        require(len(set(self.gpus)) == len(self.gpus), "gpus", [str(gpu) for gpu in self.gpus], "distinct")
        require(len({gpu.node for gpu in self.gpus}) == 1, "gpus", [str(gpu) for gpu in self.gpus], "on one node")
        require(1 <= self.share_pct <= 100, "share_pct", self.share_pct, "1 to 100")
        require(self.memory_bytes > 0, "memory_bytes", self.memory_bytes, "> 0")

    @property
    def name(self) -> str:
        """``<llm>-<index>``."""
        return f"{self.llm}-{self.index}"

    @property
    def tensor_parallel(self) -> int:
        """The tensor-parallel degree."""
        return len(self.gpus)


class Target(Value, frozen=True, kw_only=True):
    """One workflow and the arrivals that the plan must carry."""

    workflow: str
    arrivals: Arrivals
    trace: str = ""
    """Path of the trace file, relative to the plan file; empty when the plan was made in memory."""


class Expectation(Value, frozen=True, kw_only=True):
    """What the predictor expects of the plan for one workflow at its target rate."""

    workflow: str
    latency_s: float
    """Mean end-to-end latency."""
    throughput_per_s: float
    """Highest rate of this workflow the plan sustains: T_w."""


class Judged(Value, frozen=True, kw_only=True):
    """What simulations said of the plan beside others."""

    candidates: int
    """Plans simulated."""
    calls: int
    """Simulated calls in all."""
    budget_s: float
    seconds: float
    """Wall time of planning and judging. The plan does not depend on it."""
    lead_pct: float | None
    """By how much more of its mean latency the next best takes, over the same runs; None: there was no other that keeps up."""
    lead_half_width_pct: float | None
    """Of its 95 % interval, by paired differences. A lead within it is none: then the plan has the fewest instances."""
    over: str
    """Who made the next best; empty when there was no other."""
    stable: bool
    """Whether the simulated plan was shown to keep up."""
    latency_s: dict[str, float] = msgspec.field(default_factory=dict)
    """Mean latency by workflow in the plan's last, brief simulation. What a plan expects is always predicted."""
    misses: tuple[str, ...] = ()
    """Latency limits that the plan exceeded in that simulation, in words. No plan that keeps up exceeded fewer."""


class Plan(Value, frozen=True, kw_only=True):
    """Allocation + placement + what it was computed from."""

    planner: str
    cluster: Cluster
    targets: tuple[Target, ...]
    allocations: tuple[Allocation, ...]
    instances: tuple[Instance, ...]
    expected: tuple[Expectation, ...] = ()
    models: tuple[Served, ...] = ()
    """What serves each LLM; empty in plans that were written before this was kept."""
    profiles: str = ""
    """Path of the profiles file, relative to the plan file; empty when the plan was made in memory."""
    predictor: str = "aggregate"
    slo: Slo | None = None
    """What the plan was asked to keep, and is checked against; None: nothing was given."""
    share_unit_pct: int = 10
    """Shares were multiples of this: together with ``curve_seed`` it says which curves the numbers come from."""
    curve_seed: int = 0
    """Seed of the replays behind the curves."""
    search_s: float = 0.0
    optimal: bool = False
    """Whether the planner proved that no allocation on this cluster has a lower predicted latency."""
    objective_s: float | None = None
    """What the search minimised: the aggregate's latency weighted over workflows, on these GPUs. Comparable with the bound."""
    bound_latency_s: float | None = None
    """No plan on this cluster has an objective below this; None when the planner proves nothing."""
    assumptions: tuple[str, ...] = ()
    judged: Judged | None = None
    """None where no simulation had a say."""

    def __post_init__(self) -> None:
        names = [(i.llm, i.index) for i in self.instances]
        require(len(set(names)) == len(names), "instances", [i.name for i in self.instances], "distinct names")
        for allocation in self.allocations:
            mine = [i for i in self.instances if i.llm == allocation.llm]
            require(
                len(mine) == allocation.replicas,
                f"instances of {allocation.llm}",
                len(mine),
                f"{allocation.replicas}, the allocation's replicas",
            )
            for instance in mine:
                require(
                    (instance.share_pct, instance.tensor_parallel) == (allocation.share_pct, allocation.tensor_parallel),
                    f"instance {instance.name}",
                    (instance.share_pct, instance.tensor_parallel),
                    f"share {allocation.share_pct} and TP {allocation.tensor_parallel} as allocated",
                )
        require(
            {i.llm for i in self.instances} == {a.llm for a in self.allocations},
            "instances",
            sorted({i.llm for i in self.instances}),
            "of the allocated LLMs",
        )
        named = [served.llm for served in self.models]
        require(
            not named or sorted(named) == sorted({i.llm for i in self.instances}),
            "models",
            named,
            "one entry for each allocated LLM, or none at all",
        )
        asked = [name for served in self.models for name in served.names]
        require(len(set(asked)) == len(asked), "models", asked, "distinct names, those under also included")
        self._check_gpus()
        require_finite("search_s", self.search_s)

    def _check_gpus(self) -> None:
        known = set(self.cluster.gpus)
        domain_of = {gpu: number for number, domain in enumerate(self.cluster.nvlink_domains()) for gpu in domain}
        share: dict[Gpu, int] = {}
        memory: dict[Gpu, int] = {}
        for instance in self.instances:
            for gpu in instance.gpus:
                require(gpu in known, f"instance {instance.name} gpu", str(gpu), f"a GPU of cluster {self.cluster.name}")
                share[gpu] = share.get(gpu, 0) + instance.share_pct
                memory[gpu] = memory.get(gpu, 0) + instance.memory_bytes
            require(
                len({domain_of[gpu] for gpu in instance.gpus}) == 1,
                f"instance {instance.name} gpus",
                [str(gpu) for gpu in instance.gpus],
                "within one NVLink domain",
            )
        for gpu, pct in share.items():
            require(pct <= 100, f"share of GPU {gpu}", pct, "<= 100 %")
            require(
                memory[gpu] <= self.cluster.type_of(gpu).memory_bytes,
                f"memory of GPU {gpu}",
                memory[gpu],
                f"<= {self.cluster.type_of(gpu).memory_bytes} bytes",
            )

    def allocation(self, llm: str) -> Allocation:
        """The allocation of one LLM. Raises ``KeyError`` when it has none."""
        for allocation in self.allocations:
            if allocation.llm == llm:
                return allocation
        raise KeyError(f"LLM {llm!r} has no allocation in this plan")

    def served(self, llm: str) -> Served | None:
        """What serves one LLM; None where the plan does not say."""
        return next((served for served in self.models if served.llm == llm), None)

    @property
    def other_names(self) -> dict[str, str]:
        """LLM by every other name that the traffic asks for it by (``Served.also``); empty where each has one name."""
        return {name: served.llm for served in self.models for name in served.also}

    @property
    def placement(self) -> dict[str, tuple[tuple[Gpu, ...], ...]]:
        """GPUs of every instance in order of its number, by LLM: the placement as planners and predictors take it."""
        return {a.llm: tuple(i.gpus for i in self.instances if i.llm == a.llm) for a in self.allocations}

    @property
    def gpu_shares(self) -> dict[Gpu, int]:
        """Percent used of each GPU that any instance touches."""
        used: dict[Gpu, int] = {}
        for instance in self.instances:
            for gpu in instance.gpus:
                used[gpu] = used.get(gpu, 0) + instance.share_pct
        return used

    @property
    def fragmentation_pct(self) -> float:
        """Stranded share: what is left on GPUs that some instance touches, as percent of those GPUs."""
        used = self.gpu_shares
        return sum(100 - pct for pct in used.values()) / len(used) if used else 0.0


def plan_summary(plan: Plan) -> dict[str, Any]:
    """The JSON document of ``scepsy plan --json`` (fields may be added, not renamed)."""
    return {
        "planner": plan.planner,
        "rate_per_s": {t.workflow: t.arrivals.rate_per_s for t in plan.targets}
        if len(plan.targets) > 1
        else (plan.targets[0].arrivals.rate_per_s if plan.targets else None),
        "latency_s": {e.workflow: e.latency_s for e in plan.expected}
        if len(plan.expected) > 1
        else (plan.expected[0].latency_s if plan.expected else None),
        "throughput_per_s": {e.workflow: e.throughput_per_s for e in plan.expected}
        if len(plan.expected) > 1
        else (plan.expected[0].throughput_per_s if plan.expected else None),
        "gpus": len(plan.gpu_shares),
        "search_s": plan.search_s,
        "optimal": plan.optimal,
        "objective_s": plan.objective_s,
        "bound_latency_s": plan.bound_latency_s,
        "predictor": plan.predictor,
        "allocations": {
            a.llm: {
                "share_pct": a.share_pct,
                "tensor_parallel": a.tensor_parallel,
                "replicas": a.replicas,
                "gpu_type": a.gpu_type,
            }
            for a in plan.allocations
        },
        "placement": [
            {
                "llm": i.llm,
                "instance": i.name,
                "node": i.gpus[0].node,
                "gpus": [gpu.index for gpu in i.gpus],
                "share_pct": i.share_pct,
                "memory_bytes": i.memory_bytes,
            }
            for i in plan.instances
        ],
        "fragmentation_pct": plan.fragmentation_pct,
        "models": {
            served.llm: {
                "model": served.model,
                "hub_id": served.hub_id or None,
                "quantisation": served.quantisation,
            }
            | ({"also": list(served.also)} if served.also else {})
            for served in plan.models
        },
        "slo": None if plan.slo is None else msgspec.to_builtins(plan.slo),
        "assumptions": list(plan.assumptions),
        "judged": None if plan.judged is None else {name: getattr(plan.judged, name) for name in plan.judged.__struct_fields__},
    }
