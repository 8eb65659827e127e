"""``nvidia-smi topo -m`` → NVLink domains. Pure: DRA device slices do not say which GPUs NVLink ties together."""

import re

from scepsy.errors import InputError

_GPU = re.compile(r"^GPU(\d+)$")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def nvlink_domains(text: str, source: str = "topology") -> tuple[tuple[int, ...], ...]:
    """Connected components of the GPUs under NV# links, from the matrix that ``nvidia-smi topo -m`` prints.

    A GPU without any NVLink is a domain of its own. Raises ``InputError`` when there is no such matrix in ``text``.

    >>> nvlink_domains('''        GPU0    GPU1    GPU2    CPU Affinity
    ... GPU0     X      NV12    SYS     0-31
    ... GPU1    NV12     X      SYS     0-31
    ... GPU2    SYS     SYS      X      32-63
    ... ''')
    ((0, 1), (2,))
    """
    rows = [_ANSI.sub("", line).split() for line in text.splitlines()]
    header = next((row for row in rows if row and _GPU.match(row[0]) and "X" not in row), None)
    if header is None:
        raise InputError(f"{source}: no GPU matrix found: must be the output of `nvidia-smi topo -m`")
    columns = [int(match[1]) for cell in header if (match := _GPU.match(cell))]
    links: dict[int, set[int]] = {index: set() for index in columns}
    seen = []
    for row in rows:
        if row is header or not row or not (match := _GPU.match(row[0])):
            continue
        index, cells = int(match[1]), row[1 : 1 + len(columns)]
        if len(cells) != len(columns) or index not in links:
            raise InputError(f"{source}: row {row[0]} has {len(cells)} links: must have {len(columns)}, one per GPU")
        seen.append(index)
        links[index] |= {other for other, cell in zip(columns, cells, strict=True) if re.fullmatch(r"NV\d+", cell)}
    if sorted(seen) != sorted(columns) or columns != list(range(len(columns))):
        raise InputError(
            f"{source}: rows {sorted(seen)} and columns {columns} differ: must both be GPU0 to GPU{len(columns) - 1}"
        )
    return _components(links)


def _components(links: dict[int, set[int]]) -> tuple[tuple[int, ...], ...]:
    found: list[tuple[int, ...]] = []
    left = set(links)
    while left:
        frontier = {min(left)}
        part: set[int] = set()
        while frontier:
            part |= frontier
            frontier = {other for index in frontier for other in links[index]} - part
        found.append(tuple(sorted(part)))
        left -= part
    return tuple(found)
