"""``nvidia-smi topo -m`` → how the GPUs of a node are linked. Pure: DRA device slices do not say.

The classes are the tool's own: NV# is a bonded set of # NVLinks, then PIX, PXB, PHB, NODE and SYS, ever further over PCIe.
A tensor-parallel group runs at the speed of its weakest link, so a domain is a set of GPUs that are linked pair by pair: on a
hybrid cube mesh (DGX-1) NVLink ties all eight together, but no group of eight is.
"""

import re
from collections.abc import Sequence
from typing import Any

import networkx as nx

from scepsy.cluster import LINK_CLASSES, link_rank
from scepsy.errors import InputError

Links = tuple[tuple[str, ...], ...]
"""Link class by GPU and GPU; ``X`` on the diagonal."""

_GPU = re.compile(r"^GPU(\d+)$")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_OLD = {"SOC": "SYS"}
"""Names that older drivers print."""


def read_links(text: str, source: str = "topology") -> Links:
    """The GPU part of the matrix. Raises ``InputError`` when there is no such matrix in ``text`` or a class is not known.

    >>> read_links('''        GPU0    GPU1    CPU Affinity
    ... GPU0     X      NV12    0-31
    ... GPU1    NV12     X      0-31
    ... ''')
    (('X', 'NV12'), ('NV12', 'X'))
    """
    rows = [_ANSI.sub("", line).split() for line in text.splitlines()]
    header = next((row for row in rows if row and _GPU.match(row[0]) and "X" not in row), None)
    if header is None:
        raise InputError(f"{source}: no GPU matrix found: must be the output of `nvidia-smi topo -m`")
    columns = [int(match[1]) for cell in header if (match := _GPU.match(cell))]
    found: dict[int, tuple[str, ...]] = {}
    for row in rows:
        if row is header or not row or not (match := _GPU.match(row[0])):
            continue
        index, cells = int(match[1]), row[1 : 1 + len(columns)]
        if len(cells) != len(columns):
            raise InputError(f"{source}: row {row[0]} has {len(cells)} links: must have {len(columns)}, one per GPU")
        found[index] = tuple(_OLD.get(cell, cell) for cell in cells)
    if sorted(found) != sorted(columns) or columns != list(range(len(columns))):
        raise InputError(
            f"{source}: rows {sorted(found)} and columns {columns} differ: must both be GPU0 to GPU{len(columns) - 1}"
        )
    links = tuple(found[index] for index in columns)
    _check(links, source)
    return links


def linked_domains(links: Links, weakest: str = "NV") -> tuple[tuple[int, ...], ...]:
    """A partition of the GPUs into groups that are linked pair by pair, each pair by ``weakest`` or better.

    ``NV`` stands for any number of NVLinks. The largest group is taken first, of equal ones the one whose weakest link
    is best, then the first by number. A GPU without such a link is a domain of its own.

    >>> linked_domains((("X", "NV1", "SYS"), ("NV1", "X", "SYS"), ("SYS", "SYS", "X")))
    ((0, 1), (2,))
    """
    least = link_rank("NV1" if weakest == "NV" else weakest)
    graph: Any = nx.Graph()
    graph.add_nodes_from(range(len(links)))
    graph.add_edges_from((a, b) for a in range(len(links)) for b in range(a) if link_rank(links[a][b]) >= least)
    found: list[tuple[int, ...]] = []
    while graph:
        best = max(map(sorted, nx.find_cliques(graph)), key=lambda c: (len(c), weakest_rank(links, c), [-i for i in c]))
        found.append(tuple(best))
        graph.remove_nodes_from(best)
    return tuple(sorted(found))


def weakest_rank(links: Links, gpus: Sequence[int]) -> int:
    """Rank of the weakest link within a group (``scepsy.cluster.link_rank``); a single GPU has the best there is."""
    return min((link_rank(links[a][b]) for a in gpus for b in gpus if a != b), default=10**6)


def nvlink_domains(text: str, source: str = "topology") -> tuple[tuple[int, ...], ...]:
    """``linked_domains`` over NVLink of the printed matrix."""
    return linked_domains(read_links(text, source))


def _check(links: Links, source: str) -> None:
    for a, row in enumerate(links):
        for b, cell in enumerate(row):
            if (cell == "X") != (a == b) or link_rank(cell) < 0:
                known = f"NV#, {', '.join(LINK_CLASSES)}, and X for itself"
                raise InputError(f"{source}: GPU{a} to GPU{b} is {cell!r}: must be {known}")
            if links[b][a] != cell:
                raise InputError(f"{source}: GPU{a} to GPU{b} is {cell}, and back {links[b][a]}: must be the same")
