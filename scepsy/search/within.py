"""The exact search within a budget: the knapsack's optimum when it packs, else the best allocation that does, with a
certificate.

1. Dynamic programming gives the relaxed optimum for every budget (``knapsack``). It is a lower bound, since packing only
   restricts and neighbours on a GPU only slow down.
2. Incumbents: the relaxed optimum itself, the optimum over whole GPUs, the optimum under worst-case neighbours, and the
optimum of
   the largest smaller budget that packs.
3. Allocations in order of relaxed cost (``best_first``): each is packed (heuristic, then CP-SAT) and predicted on its
GPUs, until
   the next one's relaxed cost is no better than the best found: then that is optimal. Effort is bounded by counts, never
   by the clock, so the answer is the same on every machine; where it runs out, the next relaxed cost is the bound.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from scepsy.place.hierarchical import Layout, Placement, layout, pack
from scepsy.plan import Allocation
from scepsy.predict.aggregate import Floats
from scepsy.predict.contention import bandwidth_demand
from scepsy.search.assemble import Outlook, Proof, accepts, evaluate
from scepsy.search.best_first import cheapest_first
from scepsy.search.knapsack import Items, backtrack, solve
from scepsy.search.nogoods import NoGoods
from scepsy.search.problem import Problem
from scepsy.search.space import Space

CANDIDATES = 12
"""Allocations that are predicted on their GPUs, in order of relaxed cost, before settling for the bound."""
PACKED = 2000
"""Allocations that are tried for packing."""
PROOFS = 40
"""CP-SAT calls to show that an allocation does not pack, about 2 ms each on 16 GPUs."""
MAX_PROOF_GPUS = 64
"""Clusters up to this size are worth a packing proof; beyond, the heuristic and the bound stand."""

Accept = Callable[[tuple[Allocation, ...], Outlook], bool]


@dataclass(frozen=True)
class Found:
    """The best allocation that packs."""

    allocations: tuple[Allocation, ...]
    placement: Placement
    outlook: Outlook
    proof: Proof


@dataclass
class Search:
    """One search within a budget of whole GPUs by type."""

    problem: Problem
    space: Space
    tables: list[Floats]
    caps: tuple[int, ...]
    accept: Accept
    best: Found | None = None
    nearest: Outlook | None = None
    """The lowest objective seen, accepted or not: what an error message quotes."""
    tried: dict[tuple[int, ...], bool] = field(default_factory=dict)
    """Allocations considered, and whether it is known if they pack."""
    pool: list[Found] = field(default_factory=list)
    """Everything accepted, in order of discovery."""
    predicted: int = 0
    first_only: bool = False
    """Stop at the first accepted allocation: enough to know that there is one."""
    slowed: bool = field(init=False)
    """Whether neighbours on a GPU slow each other at all."""
    where: Layout = field(init=False)
    nogoods: NoGoods = field(init=False)

    def __post_init__(self) -> None:
        self.where = layout(self.problem.cluster)
        drawing = {p.llm.name for p in self.problem.profiles.profiles if p.decode_bandwidth_demand > 0}
        self.slowed = any(options.llm in drawing for options in self.space.llms)
        self.items = cost_items(self.space)
        self.budgets = tuple(cap * 100 // self.space.unit_pct for cap in self.caps)
        proofs = PROOFS if len(self.where.gpus) <= MAX_PROOF_GPUS else 0
        caps = dict(zip(self.space.gpu_types, self.caps, strict=True))
        self.nogoods = NoGoods(self.where, caps, self.space.gpu_types, proofs)

    @property
    def bound_s(self) -> float:
        """The relaxed optimum, tool time included."""
        return float(self.tables[0][self.budgets]) + self.space.tool_s

    def run(self) -> Found | None:
        """Search; None when nothing packs that is accepted."""
        relaxed = backtrack(self.items, self.tables, self.budgets)
        if relaxed is None:
            return None
        self.consider(relaxed)
        if self.first_only and self.best is not None:
            return self.best
        if self.best is None or self.best.outlook.objective_s > self.bound_s * (1 + 1e-12):
            self._incumbents()
        if self.first_only and self.best is not None:
            return self.best
        return self._close()

    def _close(self) -> Found | None:
        """Walk up from the relaxed optimum until it meets the incumbent, or effort runs out."""
        tool, unresolved = self.space.tool_s, np.inf
        bound, closed = np.inf, True
        alone = not self.slowed
        ahead = cheapest_first(self.space, self.items, self.tables, self.budgets, lambda: self.upper_s - tool, prune=alone)
        self.predicted = 0
        for tried, (relaxed, choices) in enumerate(ahead):
            if self.predicted >= CANDIDATES or tried >= PACKED:
                bound, closed = relaxed + tool, False
                break
            if not self.consider(choices):
                unresolved = min(unresolved, relaxed + tool)
            if self.first_only and self.best is not None:
                return self.best
        if self.best is None:
            return None
        bound = min(bound, unresolved, self.best.outlook.objective_s)
        proved = closed and not unresolved < self.best.outlook.objective_s
        self.best = replace(self.best, proof=Proof(optimal=proved, bound_latency_s=bound))
        return self.best

    @property
    def upper_s(self) -> float:
        """The best objective so far."""
        return self.best.outlook.objective_s if self.best else np.inf

    def consider(self, choices: tuple[int, ...]) -> bool:
        """Pack and predict one allocation; False when it stays unknown whether it packs."""
        if choices not in self.tried:
            self.tried[choices] = self._consider(choices)
        return self.tried[choices]

    def _consider(self, choices: tuple[int, ...]) -> bool:
        allocations = self.space.allocations(choices)
        placement, known = self._pack(allocations)
        if placement is None:
            return known
        outlook = evaluate(self.problem, allocations, placement)
        self.predicted += 1
        if self.nearest is None or outlook.objective_s < self.nearest.objective_s:
            self.nearest = outlook
        if accepts(self.problem, outlook) and self.accept(allocations, outlook):
            found = Found(allocations, placement, outlook, Proof())
            self.pool.append(found)
            if outlook.objective_s < self.upper_s:
                self.best = found
        return True

    def _pack(self, allocations: tuple[Allocation, ...]) -> tuple[Placement | None, bool]:
        if self.nogoods.excludes(allocations):
            return None, True
        placement = pack(self.where, allocations)
        if placement is not None and self._within(placement):
            return placement, True
        return self.nogoods.decide(allocations)

    def _within(self, placement: Placement) -> bool:
        if self.caps == self.space.gpus_of:
            return True
        touched = {gpu for slots in placement.values() for slot in slots for gpu in slot}
        types = [self.problem.cluster.node(gpu.node).gpu_type for gpu in touched]
        return all(types.count(name) <= cap for name, cap in zip(self.space.gpu_types, self.caps, strict=True))

    def _incumbents(self) -> None:
        """Allocations that are likely to pack and to keep their predicted latency on their GPUs."""
        for items in (whole_gpu_items(self.space), crowded_items(self.problem, self.space)):
            tables = solve(items, self.budgets)
            choices = backtrack(items, tables, self.budgets)
            if choices is not None:
                self.consider(choices)
        if self.best is not None or len(self.budgets) > 1:
            return
        for less in range(1, self.budgets[0]):
            choices = backtrack(self.items, self.tables, (self.budgets[0] - less,))
            if choices is None:
                return
            before = len(self.tried)
            self.consider(choices)
            if self.best is not None or (len(self.tried) > before and less > 4 * CANDIDATES):
                return


def cost_items(space: Space) -> list[Items]:
    """Options at their relaxed cost."""
    return [Items(o.gpu_type, o.units, o.cost_s) for o in space.llms]


def whole_gpu_items(space: Space) -> list[Items]:
    """The same, whole GPUs only: nobody has neighbours."""
    return [Items(o.gpu_type, o.units, np.where(o.share_pct == 100, o.cost_s, np.inf)) for o in space.llms]


def crowded_items(problem: Problem, space: Space) -> list[Items]:
    """The same, every instance slowed as if its GPU were full of instances like it, all decoding."""
    law = problem.profiles.contention
    found = []
    for o in space.llms:
        factor = np.ones(len(o))
        kinds = np.stack([o.gpu_type, o.share_pct, o.tensor_parallel])
        for gpu_type, share, degree in np.unique(kinds, axis=1).T.tolist():
            if share < 100:
                like = Allocation(
                    llm=o.llm, share_pct=share, tensor_parallel=degree, replicas=1, gpu_type=space.gpu_types[gpu_type]
                )
                demand = bandwidth_demand(problem.profiles, like)
                mine = (kinds == np.array([[gpu_type], [share], [degree]])).all(axis=0)
                factor[mine] = law.slowdown(demand, demand * (100 / share - 1))
        found.append(Items(o.gpu_type, o.units, o.cost_s * factor))
    return found


def accept_all(allocations: Sequence[Allocation], outlook: Outlook) -> bool:
    """Accept what the predictor accepts."""
    return True
