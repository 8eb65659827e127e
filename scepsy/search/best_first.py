"""Allocations in order of relaxed cost, the cheapest first, without listing them all.

Best-first search over LLMs in order; a partial allocation's bound is what it has cost plus the exact relaxed cost of the rest
(``knapsack.solve``), so nothing is expanded that could not lead to the next answer. Dual feasible functions (Fekete and
Schepers 2001: u^(k) and thresholds) drop partial allocations whose slices provably cannot be packed, e.g. more slices over
50 % than there are GPUs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

import numpy as np

from scepsy.predictors.aggregate import Floats, Integers
from scepsy.search.knapsack import Items
from scepsy.search.space import Options, Space

ROUNDING_SLACK = 1e-9
MAX_OPTIONS_COMPARED = 600
"""Options beyond which comparing them one by one costs more than it saves."""


def slice_weights(share_pct: Integers) -> Floats:
    """Dual feasible functions of shares, shape (functions, shares): on one GPU each sums to at most 1 over what fits it.

    Rows: u^(1), u^(2), u^(3) (Fekete and Schepers, section 3), then U^(0.2), U^(0.3), U^(0.4): shares above 1 − ε count 1,
    below ε 0.

    >>> slice_weights(np.array([60, 50, 40]))[0]
    array([1. , 0.5, 0. ])
    """
    x = np.asarray(share_pct, dtype=float) / 100.0
    rows = []
    for k in (1, 2, 3):
        scaled = x * (k + 1)
        whole = np.isclose(scaled, np.round(scaled))
        rows.append(np.where(whole, x, np.floor(scaled) / k))
    for epsilon in (0.2, 0.3, 0.4):
        rows.append(np.where(x > 1 - epsilon + ROUNDING_SLACK, 1.0, np.where(x < epsilon - ROUNDING_SLACK, 0.0, x)))
    return np.stack(rows)


@dataclass
class NodeBudget:
    """How many partial allocations may be looked at; near-ties between many LLMs would otherwise take for ever."""

    nodes_left: int = 1_000_000
    reached: float | None = None
    """The relaxed cost at which effort ran out: everything cheaper was seen."""


@dataclass(frozen=True)
class _Node:
    depth: int
    cost: float
    left: tuple[int, ...]
    weights: Floats
    """Dual feasible weight used so far, shape (functions, GPU types)."""
    choices: tuple[int, ...]
    order: Integers
    """This node's continuations: options of LLM ``depth``, cheapest bound first."""
    bounds: Floats


def cheapest_first(
    space: Space,
    items: Sequence[Items],
    tables: Sequence[Floats],
    budgets: tuple[int, ...],
    upper: Callable[[], float],
    *,
    prune: bool,
    effort: NodeBudget | None = None,
) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Yield (relaxed cost, one option number per LLM) in ascending cost while it is below ``upper()``, asked each time.

    Costs exclude tool time. Ties come in a fixed order. With ``prune`` only options are combined that no other one
    dominates in cost and geometry; where neighbours slow each other a dominated one may still turn out better.
    """
    effort = effort or NodeBudget()
    search = _Search(space, items, tables, budgets, upper, prune)
    heap: list[tuple[float, int, _Node, int]] = []
    number = count()
    root = search.node(0, 0.0, budgets, np.zeros(search.room.shape), ())
    if len(root.order):
        heappush(heap, (float(root.bounds[0]), next(number), root, 0))
    while heap:
        bound, _, node, turn = heappop(heap)
        if bound >= upper():
            return
        if turn + 1 < len(node.order):
            heappush(heap, (float(node.bounds[turn + 1]), next(number), node, turn + 1))
        if effort.nodes_left <= 0:
            effort.reached = bound
            return
        effort.nodes_left -= 1
        option = int(node.order[turn])
        choices = (*node.choices, option)
        if len(choices) == len(items):
            yield bound, choices
            continue
        child = search.child(node, option, choices)
        if len(child.order):
            heappush(heap, (float(child.bounds[0]), next(number), child, 0))


class _Search:
    def __init__(
        self,
        space: Space,
        items: Sequence[Items],
        tables: Sequence[Floats],
        budgets: tuple[int, ...],
        upper: Callable[[], float],
        prune: bool,
    ) -> None:
        self.items, self.tables, self.upper = items, tables, upper
        gpus = [budget * space.unit_pct / 100 for budget in budgets]
        self.weights = [_option_weights(options, len(budgets)) for options in space.llms]
        functions = self.weights[0].shape[0]
        self.room = np.broadcast_to(np.floor(np.asarray(gpus) + ROUNDING_SLACK), (functions, len(budgets)))
        self.finite: list[Integers] = [
            undominated(options, item)
            if prune and len(options) <= MAX_OPTIONS_COMPARED
            else np.flatnonzero(np.isfinite(item.cost))
            for options, item in zip(space.llms, items, strict=True)
        ]
        # What the LLMs from k on need at the very least, of each function and type.
        least = [weights[:, :, keep].min(axis=2) for weights, keep in zip(self.weights, self.finite, strict=True)]
        self.rest = [sum(least[k:], np.zeros((functions, len(budgets)))) for k in range(len(items) + 1)]

    def child(self, node: _Node, option: int, choices: tuple[int, ...]) -> _Node:
        item = self.items[node.depth]
        axis, units = int(item.resource[option]), int(item.units[option])
        left = tuple(value - units if dim == axis else value for dim, value in enumerate(node.left))
        weights = node.weights + self.weights[node.depth][:, :, option]
        return self.node(node.depth + 1, node.cost + float(item.cost[option]), left, weights, choices)

    def node(self, depth: int, cost: float, left: tuple[int, ...], weights: Floats, choices: tuple[int, ...]) -> _Node:
        item, table, keep = self.items[depth], self.tables[depth + 1], self.finite[depth]
        index = [np.where(item.resource[keep] == dim, value - item.units[keep], value) for dim, value in enumerate(left)]
        fits = np.all([part >= 0 for part in index], axis=0)
        keep, index = keep[fits], [part[fits] for part in index]
        bounds = cost + item.cost[keep] + table[tuple(index)]
        needed = (weights + self.rest[depth + 1])[:, :, None] + self.weights[depth][:, :, keep]
        packs = (needed <= self.room[:, :, None] + 1e-6).all(axis=(0, 1))
        good = packs & (bounds < self.upper())
        keep, bounds = keep[good], bounds[good]
        order = np.lexsort((keep, item.units[keep], bounds))
        return _Node(depth, cost, left, weights, choices, keep[order], bounds[order])


def undominated(options: Options, item: Items) -> Integers:
    """Options that no cheaper one can stand in for wherever they pack.

    A stands in for B when its groups fit into B's slots: same GPU type, and each of B's groups of t slices holds
    ⌊t_B / t_A⌋ · ⌊share_B / share_A⌋ groups of A. Equal ones: the first stays.
    """
    finite = np.flatnonzero(np.isfinite(item.cost))
    order = finite[np.lexsort((finite, item.units[finite], item.cost[finite]))]
    kept: list[int] = []
    shape = np.zeros((len(order), 4), dtype=np.int64)
    for n in order.tolist():
        mine = (options.gpu_type[n], options.share_pct[n], options.tensor_parallel[n], options.replicas[n])
        before = shape[: len(kept)]
        holds = (mine[2] // before[:, 2]) * (mine[1] // before[:, 1]) * mine[3]
        if not ((before[:, 0] == mine[0]) & (holds >= before[:, 3])).any():
            shape[len(kept)] = mine
            kept.append(n)
    return np.array(sorted(kept), dtype=np.int64)


def _option_weights(options: Options, types: int) -> Floats:
    """Shape (functions, GPU types, options): an option weighs on its own type only."""
    each = slice_weights(options.share_pct) * (options.tensor_parallel * options.replicas)
    own = options.gpu_type[None, :] == np.arange(types)[:, None]
    return np.asarray(each[:, None, :] * own[None, :, :])
