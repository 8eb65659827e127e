"""The exact search within a budget: the knapsack's optimum when it packs, else the best allocation that does, with a
certificate.

1. Dynamic programming gives the relaxed optimum for every budget (``knapsack``). It is a lower bound, since packing only
   restricts and neighbours on a GPU only slow down.
2. Incumbents: the relaxed optimum itself, the optimum over whole GPUs, the optimum under worst-case neighbours, and the
optimum of
   the largest smaller budget that packs.
3. Allocations in order of relaxed cost (``best_first``): each is packed (heuristic, then CP-SAT) and predicted on its GPUs,
   until the next one's relaxed cost is no better than the best found: then that is optimal. Effort is bounded by counts,
   never by the clock, so the answer is the same on every machine; where it runs out, the next relaxed cost is the bound.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from scepsy.place.hierarchical import ClusterLayout, Placement, layout, pack
from scepsy.plans import Allocation
from scepsy.predictors.aggregate import Floats
from scepsy.predictors.contention import bandwidth_demand, compute_draw, feels_neighbours
from scepsy.search.assemble import Outlook, Proof, accepts, evaluate
from scepsy.search.best_first import NodeBudget, cheapest_first
from scepsy.search.knapsack import Items, backtrack, solve
from scepsy.search.nogoods import NoGoods
from scepsy.search.problem import Problem
from scepsy.search.space import Space

MAX_ACCEPTED = 12
"""Accepted allocations, in order of relaxed cost, before settling for the bound. Those that do not pack, or that their
neighbours slow beyond the limits, do not count: many of them can lie before the first that is accepted."""
PACKED_INSTANCES = 8000
"""Instances that are packed in all: so many divided by an allocation's instances are the allocations tried."""
MAX_OPTIONS_VISITED = 600_000
"""Options looked at while walking up: so many divided by the options of a typical LLM are the partial allocations expanded."""
MAX_PROOF_WORK = 3200
"""CP-SAT proofs that an allocation does not pack, times LLMs times GPUs: 40 proofs of about 2 ms on 5 LLMs and 16 GPUs, few
on large clusters, where the heuristic and the bound stand."""
MAX_MISSES = 300
"""Allocations that miss the objectives of an SLO before a budget is given up. Each costs a walk over the traced runs, and where
so many of the lowest sums miss, the next ones hardly keep them."""
MIN_PROOFS = 8
"""Fewer than these settle nothing: their time is better spent on other allocations."""

QUICK_TRIES = 60

Accept = Callable[[tuple[Allocation, ...], Outlook], bool]


@dataclass(frozen=True)
class Found:
    """The best allocation that packs."""

    allocations: tuple[Allocation, ...]
    placement: Placement
    outlook: Outlook
    proof: Proof


Seeds = Callable[["Search"], Iterable[tuple[Allocation, ...]]]


def no_seeds(search: "Search") -> Iterable[tuple[Allocation, ...]]:
    """No other planner is asked."""
    return ()


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
    nearest_allocations: tuple[Allocation, ...] = ()
    """The allocations of ``nearest``."""
    tried: dict[tuple[int, ...], bool] = field(default_factory=dict)
    """Allocations considered, and whether it is known if they pack."""
    pool: list[Found] = field(default_factory=list)
    """Everything accepted, in order of discovery."""
    seeded: list[Found] = field(default_factory=list)
    """Of these, what came from other planners."""
    settled: int = 0
    """Allocations of the last walk that pack and are accepted: only these use up ``MAX_ACCEPTED``."""
    missed: int = 0
    """Allocations that pack and carry the rates, and that ``accept`` refused."""
    instances: int = 0
    """Instances of the relaxed optimum."""
    seeds: Seeds = no_seeds
    """Allocations of other planners, asked for where the relaxed optimum does not settle it."""
    quick: bool = False
    """Prove nothing, and try only ``QUICK_TRIES`` allocations: for a plan that is but a start for another search."""
    first_only: bool = False
    """Stop at the first accepted allocation: enough to know that there is one."""
    slowed: bool = field(init=False)
    """Whether neighbours on a GPU slow each other at all."""
    where: ClusterLayout = field(init=False)
    nogoods: NoGoods = field(init=False)

    def __post_init__(self) -> None:
        self.where = layout(self.problem.cluster)
        self.slowed = any(feels_neighbours(self.problem.profiles, options.llm) for options in self.space.llms)
        self.items = cost_items(self.space)
        self.budgets = tuple(cap * 100 // self.space.unit_pct for cap in self.caps)
        proofs = MAX_PROOF_WORK // (len(self.space.llms) * len(self.where.gpus))
        proofs = proofs if proofs >= MIN_PROOFS and not self.quick else 0
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
        self.instances = sum(int(o.replicas[n]) for o, n in zip(self.space.llms, relaxed, strict=True))
        self.consider(relaxed, prove=False)
        if self.first_only and self.best is not None:
            return self.best
        if self.best is None or self.best.outlook.objective_s > self.bound_s * (1 + 1e-12):
            self._incumbents()
            if not self.first_only:
                self._ask_others()
        if self.first_only and self.best is not None:
            return self.best
        found = self._close()
        if found is None and self.first_only:  # asked last, where the answer is often no
            self._ask_others()
        return self.best

    def _ask_others(self) -> None:
        for allocations in self.seeds(self):
            self.seed(allocations)
            if self.first_only and self.best is not None:
                return

    def _close(self) -> Found | None:
        """Walk up from the relaxed optimum until it meets the incumbent, or effort runs out."""
        tool, unresolved = self.space.tool_s, np.inf
        bound, closed = np.inf, True
        alone = not self.slowed
        typical = max(1, sum(len(options) for options in self.space.llms) // len(self.space.llms))
        effort = NodeBudget(nodes_left=MAX_OPTIONS_VISITED // typical)
        ahead = cheapest_first(
            self.space, self.items, self.tables, self.budgets, lambda: self.upper_s - tool, prune=alone, effort=effort
        )
        self.settled = 0
        most = max(8, PACKED_INSTANCES // max(1, self.instances))
        if self.quick:
            most = min(most, QUICK_TRIES)
        for tried, (relaxed, choices) in enumerate(ahead):
            given_up = self.problem.goal.slo is not None and self.missed >= MAX_MISSES
            if self.settled >= MAX_ACCEPTED or tried >= most or given_up:
                bound, closed = relaxed + tool, False
                break
            if not self.consider(choices):
                unresolved = min(unresolved, relaxed + tool)
            if self.first_only and self.best is not None:
                return self.best
        if effort.reached is not None:
            bound, closed = effort.reached + tool, False
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

    def consider(self, choices: tuple[int, ...], *, prove: bool = True) -> bool:
        """Pack and predict one allocation; False when it stays unknown whether it packs.

        With ``prove`` CP-SAT decides where the heuristic finds no room, as long as proofs are left.
        """
        if not self.tried.get(choices, False):
            self.tried[choices] = self._consider(choices, prove)
        return self.tried[choices]

    def _consider(self, choices: tuple[int, ...], prove: bool) -> bool:
        allocations = self.space.allocations(choices)
        placement, known = self._pack(allocations, prove)
        if placement is None:
            return known
        self._judge(allocations, placement)
        return True

    def seed(self, allocations: tuple[Allocation, ...]) -> None:
        """Consider another planner's allocations, in the space or not. Does nothing when they do not pack, or are not as the
        user pinned them."""
        if not self.problem.choices.allow_all(allocations):
            return
        placement, _ = self._pack(allocations, prove=False)
        if placement is not None:
            found = self._judge(allocations, placement)
            if found is not None:
                self.seeded.append(found)

    def _judge(self, allocations: tuple[Allocation, ...], placement: Placement) -> Found | None:
        """Predict an allocation on its GPUs, and keep it when it is accepted."""
        outlook = evaluate(self.problem, allocations, placement)
        if self.nearest is None or outlook.objective_s < self.nearest.objective_s:
            self.nearest, self.nearest_allocations = outlook, allocations
        if not accepts(self.problem, outlook):
            return None
        if not self.accept(allocations, outlook):
            self.missed += 1
            return None
        self.settled += 1
        found = Found(allocations, placement, outlook, Proof())
        self.pool.append(found)
        if outlook.objective_s < self.upper_s:
            self.best = found
        return found

    def _pack(self, allocations: tuple[Allocation, ...], prove: bool) -> tuple[Placement | None, bool]:
        if self.nogoods.excludes(allocations):
            return None, True
        placement = pack(self.where, allocations)
        if placement is not None and self._within(placement):
            return placement, True
        return self.nogoods.decide(allocations) if prove else (None, False)

    def _within(self, placement: Placement) -> bool:
        if self.caps == self.space.gpus_of:
            return True
        touched = {gpu for slots in placement.values() for slot in slots for gpu in slot}
        types = [self.problem.cluster.node(gpu.node).gpu_type for gpu in touched]
        return all(types.count(name) <= cap for name, cap in zip(self.space.gpu_types, self.caps, strict=True))

    def _incumbents(self) -> None:
        """Allocations that are likely to pack and to keep their predicted latency on their GPUs."""
        crowded = crowded_items(self.problem, self.space) if self.slowed else []
        for items in (whole_gpu_items(self.space), simple_items(self.space), crowded):
            if not items:
                continue
            tables = solve(items, self.budgets)
            self._nearest_budget(items, tables)
        self._nearest_budget(self.items, self.tables)

    def _nearest_budget(self, items: list[Items], tables: list[Floats]) -> None:
        """The optimum of the largest budget at which it packs: steps are doubled until one does, then halved back."""
        if self._consider_budget(items, tables, 0) or len(self.budgets) > 1:
            return
        less, fails = 1, 0
        while less < self.budgets[0] and not self._consider_budget(items, tables, less):
            fails, less = less, less * 2
        while less - fails > 1 and less < self.budgets[0]:
            middle = (less + fails) // 2
            if self._consider_budget(items, tables, middle):
                less = middle
            else:
                fails = middle

    def _consider_budget(self, items: list[Items], tables: list[Floats], less: int) -> bool:
        """Consider the optimum of a budget smaller by ``less`` units; whether it is accepted."""
        budget = (self.budgets[0] - less, *self.budgets[1:])
        choices = backtrack(items, tables, budget)
        if choices is None:
            return False
        known = len(self.pool)
        self.consider(choices, prove=False)
        return len(self.pool) > known


def cost_items(space: Space) -> list[Items]:
    """Options at their relaxed cost."""
    return [Items(o.gpu_type, o.units, o.cost_s) for o in space.llms]


def whole_gpu_items(space: Space) -> list[Items]:
    """The same, whole GPUs only: nobody has neighbours."""
    return [Items(o.gpu_type, o.units, np.where(o.share_pct == 100, o.cost_s, np.inf)) for o in space.llms]


def simple_items(space: Space) -> list[Items]:
    """The same without tensor parallelism on shared GPUs: such options nearly always pack."""
    return [
        Items(o.gpu_type, o.units, np.where((o.share_pct == 100) | (o.tensor_parallel == 1), o.cost_s, np.inf))
        for o in space.llms
    ]


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
                draw, others = compute_draw(problem.profiles, like), 100 / share - 1
                factor[mine] = max(law.slowdown(demand, demand * others), law.prompt_slowdown(draw, draw * others))
        found.append(Items(o.gpu_type, o.units, o.cost_s * factor))
    return found


def accept_all(allocations: Sequence[Allocation], outlook: Outlook) -> bool:
    """Accept what the predictor accepts."""
    return True
