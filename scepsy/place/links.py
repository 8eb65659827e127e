"""Which GPUs of a domain a tensor-parallel group takes, where their links are not all alike: by the weakest link.

Packing treats the GPUs of a domain as interchangeable. Afterwards they are exchanged so that groups get the best links; who
shares a GPU with whom does not change by that, so neither do shares nor memory.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, permutations

from scepsy.cluster import Cluster, Gpu, Node

Uneven = tuple[Node, tuple[int, ...]]
"""A node and one of its domains."""

_ALL_ORDERS = 6
"""Up to this many GPUs every exchange is tried (720); larger domains are improved by swaps of two until none helps."""

Ranks = tuple[tuple[int, ...], ...]
Groups = tuple[tuple[int, ...], ...]


def uneven_domains(cluster: Cluster) -> tuple[Uneven, ...]:
    """The domains in which it matters which GPUs a group takes."""
    return tuple(
        (node, domain)
        for node in cluster.nodes
        if node.gpu_links
        for domain in node.domains
        if len({node.weakest_rank(pair) for pair in combinations(domain, 2)}) > 1
    )


def arrange(
    uneven: Iterable[Uneven], slots: Mapping[str, Sequence[tuple[Gpu, ...]]], fixed: frozenset[Gpu] = frozenset()
) -> dict[str, list[tuple[Gpu, ...]]]:
    """The same slots with GPUs exchanged within domains: the worst group's weakest link is as good as can be, then the next.

    ``fixed`` GPUs keep what stands on them.
    """
    moved: dict[Gpu, Gpu] = {}
    for node, domain in uneven:
        gpus = [Gpu(node=node.name, index=index) for index in domain]
        place = {gpu: number for number, gpu in enumerate(gpus)}
        groups = sorted(
            tuple(place[gpu] for gpu in slot) for mine in slots.values() for slot in mine if len(slot) > 1 and slot[0] in place
        )
        if groups:
            ranks = tuple(tuple(node.weakest_rank((a, b)) if a != b else 0 for b in domain) for a in domain)
            still = frozenset(place[gpu] for gpu in gpus if gpu in fixed)
            order = best_order(ranks, tuple(groups), still)
            moved.update({gpu: gpus[order[number]] for number, gpu in enumerate(gpus)})
    return {llm: [tuple(sorted(moved.get(gpu, gpu) for gpu in slot)) for slot in mine] for llm, mine in slots.items()}


@functools.lru_cache(maxsize=4096)
def best_order(ranks: Ranks, groups: Groups, still: frozenset[int] = frozenset()) -> tuple[int, ...]:
    """Where each GPU's load goes: position n of the result is the GPU that takes what stands on GPU n.

    >>> best_order(((0, 101, 102), (101, 0, 101), (102, 101, 0)), ((0, 1),))
    (0, 2, 1)
    """
    here = tuple(range(len(ranks)))

    def worth(order: Sequence[int]) -> tuple[int, ...]:
        weakest = sorted(min(ranks[order[a]][order[b]] for a, b in combinations(group, 2)) for group in groups)
        return (*weakest, *(-(order[n] != n) for n in here))

    if len(here) <= _ALL_ORDERS:
        return max((order for order in permutations(here) if all(order[n] == n for n in still)), key=worth)
    best = here
    while True:
        swaps = [_swapped(best, a, b) for a, b in combinations(here, 2) if not {a, b} & still]
        better = max(swaps, key=worth, default=best)
        if worth(better) <= worth(best):
            return best
        best = better


def _swapped(order: tuple[int, ...], a: int, b: int) -> tuple[int, ...]:
    changed = list(order)
    changed[a], changed[b] = changed[b], changed[a]
    return tuple(changed)
