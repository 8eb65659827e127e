"""GPUs, nodes, NVLink domains. Values only; presets and GPU types are data (``scepsy/data/gpus.yaml``)."""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations

from scepsy.value import Value, require, require_finite

LINK_CLASSES = ("SYS", "NODE", "PHB", "PXB", "PIX")
"""How ``nvidia-smi topo -m`` calls the ways between two GPUs that are not NVLink, the furthest first."""


MAX_NODE_GPUS = 4096
MAX_GPUS = 100_000
"""Far more than any host and any cluster has. Every GPU is a value of its own: a file that says 2^63 must not take all
memory."""


def link_rank(link: str) -> int:
    """How good a link is, for comparison only: NVLinks by their number, then PCIe from near to far; −1: not known.

    >>> [link_rank(each) for each in ("NV2", "NV1", "PIX", "SYS", "X", "?")]
    [102, 101, 5, 1, 1000, -1]
    """
    match = re.fullmatch(r"NV(\d+)", link)
    if match:
        return 100 + int(match[1])
    return 1000 if link == "X" else LINK_CLASSES.index(link) + 1 if link in LINK_CLASSES else -1


class GpuType(Value, frozen=True, kw_only=True):
    """What one GPU of a type can do; from the vendor's data sheet."""

    name: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    """Peak memory bandwidth."""
    flops_per_s: float
    """Peak dense BF16 rate."""
    cost_per_hour: float = 1.0
    """US dollars per GPU and hour. Without ``price`` and at 1.0 it is taken for not known (``scepsy.cost``)."""
    fp8_flops_per_s: float = 0.0
    """Peak dense FP8 rate; 0: the GPU computes FP8 weights in 16 bits."""
    fp4_flops_per_s: float = 0.0
    """Peak dense FP4 rate; 0: the GPU computes FP4 weights in 16 bits."""
    interconnect_bytes_per_s: float = 0.0
    """To the other GPUs of its node, both directions together; 0: not known."""
    price: str = ""
    """Where ``cost_per_hour`` comes from, and when."""
    tdp_w: float = 0.0
    """Published thermal design power, watts; 0: not known."""
    tdp_source: str = ""
    """Who publishes ``tdp_w``."""
    kind: str = ""
    """measured, vendor data or scaled: what step models of this type rest on."""
    partitions_pct: tuple[int, ...] = ()
    """Shares a fixed partitioning allows (MIG-like), e.g. (14, 28, 42, 57, 100); empty: any whole percent."""
    source: str = ""

    def __post_init__(self) -> None:
        require(bool(self.name), "name", self.name, "a non-empty string")
        require(self.memory_bytes > 0, "memory_bytes", self.memory_bytes, "> 0")
        require_finite("bandwidth_bytes_per_s", self.bandwidth_bytes_per_s, exclusive=True)
        require_finite("flops_per_s", self.flops_per_s, exclusive=True)
        require_finite("cost_per_hour", self.cost_per_hour, exclusive=True)
        for field in ("fp8_flops_per_s", "fp4_flops_per_s", "interconnect_bytes_per_s", "tdp_w"):
            require_finite(field, getattr(self, field))
        for pct in self.partitions_pct:
            require(1 <= pct <= 100, "partitions_pct", pct, "1 to 100")


class Gpu(Value, frozen=True, kw_only=True, order=True):
    """One GPU by its place: node name and index on the node."""

    node: str
    index: int

    def __str__(self) -> str:
        return f"{self.node}/{self.index}"


class Node(Value, frozen=True, kw_only=True):
    """One host with GPUs of one type."""

    name: str
    gpu_type: str
    gpus: int
    nvlink_domains: tuple[tuple[int, ...], ...] = ()
    """GPU indices that reach each other over NVLink, pair by pair; empty: all GPUs of the node form one domain."""
    gpu_links: tuple[tuple[str, ...], ...] = ()
    """Link class by GPU and GPU (NV#, PIX, PXB, PHB, NODE, SYS; X for itself); empty: all links of a domain are alike."""
    gpu_uuids: tuple[str, ...] = ()
    """Device UUIDs by index, where known (real clusters)."""

    def __post_init__(self) -> None:
        require(bool(self.name), "name", self.name, "a non-empty string")
        require(1 <= self.gpus <= MAX_NODE_GPUS, "gpus", self.gpus, f"1 to {MAX_NODE_GPUS} on one node")
        if self.nvlink_domains:
            members = sorted(index for domain in self.nvlink_domains for index in domain)
            require(
                members == list(range(self.gpus)),
                "nvlink_domains",
                self.nvlink_domains,
                f"a partition of GPU indices 0 to {self.gpus - 1}",
            )
        if self.gpu_uuids:
            require(len(self.gpu_uuids) == self.gpus, "gpu_uuids", self.gpu_uuids, f"{self.gpus} UUIDs")
            require(len(set(self.gpu_uuids)) == self.gpus, "gpu_uuids", self.gpu_uuids, "distinct")

        for a, row in enumerate(self.gpu_links):
            good = len(row) == len(self.gpu_links) == self.gpus and all((link == "X") == (a == b) for b, link in enumerate(row))
            require(good and min(map(link_rank, row)) >= 0, f"gpu_links[{a}]", row, f"{self.gpus} link classes, X for itself")

    def weakest_rank(self, indices: Sequence[int]) -> int:
        """Rank of the weakest link within a group of GPUs (``link_rank``); 1000 where links are not known or not needed."""
        pairs = combinations(indices, 2) if self.gpu_links else ()
        return min((link_rank(self.gpu_links[a][b]) for a, b in pairs), default=1000)

    @property
    def domains(self) -> tuple[tuple[int, ...], ...]:
        """The NVLink domains, the default filled in."""
        return self.nvlink_domains or (tuple(range(self.gpus)),)


class Cluster(Value, frozen=True, kw_only=True):
    """Nodes and the GPU types they carry."""

    name: str
    gpu_types: tuple[GpuType, ...]
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        require(len(self.nodes) > 0, "nodes", self.nodes, "at least one node")
        types = [gpu_type.name for gpu_type in self.gpu_types]
        require(len(set(types)) == len(types), "gpu_types", types, "distinct names")
        names = [node.name for node in self.nodes]
        require(len(set(names)) == len(names), "nodes", names, "distinct names")
        total = sum(node.gpus for node in self.nodes)
        require(total <= MAX_GPUS, "GPUs of all nodes", total, f"at most {MAX_GPUS}")
        for index, node in enumerate(self.nodes):
            require(node.gpu_type in types, f"nodes[{index}].gpu_type", node.gpu_type, f"one of {', '.join(types)}")

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """Every GPU, by node order and index."""
        return tuple(Gpu(node=node.name, index=index) for node in self.nodes for index in range(node.gpus))

    def node(self, name: str) -> Node:
        """The node called ``name``. Raises ``KeyError`` when there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(f"node {name!r} is not in cluster {self.name!r}")

    def gpu_type(self, name: str) -> GpuType:
        """The GPU type called ``name``. Raises ``KeyError`` when there is none."""
        for gpu_type in self.gpu_types:
            if gpu_type.name == name:
                return gpu_type
        raise KeyError(f"GPU type {name!r} is not in cluster {self.name!r}")

    def best_group(self, gpus: Sequence[Gpu], degree: int) -> tuple[Gpu, ...]:
        """``degree`` of ``gpus``, all of one node: those whose weakest link is best, of equal ones the first."""
        node = self.node(gpus[0].node)
        if degree == 1 or not node.gpu_links:
            return tuple(gpus[:degree])
        return max(combinations(gpus, degree), key=lambda group: node.weakest_rank([gpu.index for gpu in group]))

    def type_of(self, gpu: Gpu) -> GpuType:
        """The type of one GPU."""
        return self.gpu_type(self.node(gpu.node).gpu_type)

    def nvlink_domains(self) -> Iterator[tuple[Gpu, ...]]:
        """Every NVLink domain of the cluster; none spans nodes."""
        for node in self.nodes:
            for domain in node.domains:
                yield tuple(Gpu(node=node.name, index=index) for index in domain)
