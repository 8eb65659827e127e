"""Eight kinds of machine: which GPUs form a domain, and which of them a tensor-parallel group takes.

The GPU columns of published `nvidia-smi topo -m` outputs; where from is beside each.
"""

from itertools import combinations

import pytest

from executor.cluster.topology import Links, linked_domains, read_links, weakest_rank
from scepsy.cluster import Cluster, Gpu, Node, link_rank
from scepsy.errors import InputError
from scepsy.place.exact import pack_exactly
from scepsy.place.hierarchical import Placement, layout, pack
from scepsy.plans import Allocation
from tests.builders import plans

DGX1_V100 = """
     GPU0 GPU1 GPU2 GPU3 GPU4 GPU5 GPU6 GPU7
GPU0  X   NV1  NV1  NV2  NV2  SYS  SYS  SYS
GPU1 NV1   X   NV2  NV1  SYS  NV2  SYS  SYS
GPU2 NV1  NV2   X   NV2  SYS  SYS  NV1  SYS
GPU3 NV2  NV1  NV2   X   SYS  SYS  SYS  NV1
GPU4 NV2  SYS  SYS  SYS   X   NV1  NV1  NV2
GPU5 SYS  NV2  SYS  SYS  NV1   X   NV2  NV1
GPU6 SYS  SYS  NV1  SYS  NV1  NV2   X   NV2
GPU7 SYS  SYS  SYS  NV1  NV2  NV1  NV2   X
"""
"""Hybrid cube mesh: NVIDIA DGX-1 with V100, AWS p3.16xlarge; the links of GPU0 and GPU1 also in NVIDIA/nccl issue 671."""


def alike(count: int, link: str) -> str:
    """All pairs linked the same way, as NVSwitch machines print it."""
    header = " ".join(f"GPU{n}" for n in range(count))
    return header + "\n" + "\n".join(f"GPU{a} " + " ".join("X" if a == b else link for b in range(count)) for a in range(count))


def blocks(count: int, size: int, inner: str, near: str, far: str) -> str:
    """Groups of ``size`` linked by ``inner``; ``near`` within one half of the machine, ``far`` across."""

    def cell(a: int, b: int) -> str:
        same_half = (a < count // 2) == (b < count // 2)
        return "X" if a == b else inner if a // size == b // size else near if same_half else far

    rows = "\n".join(f"GPU{a} " + " ".join(cell(a, b) for b in range(count)) for a in range(count))
    return " ".join(f"GPU{n}" for n in range(count)) + "\n" + rows


MACHINES = {
    "DGX-1 V100": (DGX1_V100, ((0, 1, 2, 3), (4, 5, 6, 7))),
    "DGX-2 V100 (NVIDIA/nccl-tests issue 78)": (alike(16, "NV6"), (tuple(range(16)),)),
    "DGX A100 (NVIDIA/nccl issue 1505)": (alike(8, "NV12"), (tuple(range(8)),)),
    "DGX H100 (vllm-project/vllm issue 17516)": (alike(8, "NV18"), (tuple(range(8)),)),
    "4 A100 SXM, every pair by NV4": (alike(4, "NV4"), ((0, 1, 2, 3),)),
    "8 PCIe cards with NVLink bridges in pairs": (
        blocks(8, 2, "NV12", "NODE", "SYS"),
        ((0, 1), (2, 3), (4, 5), (6, 7)),
    ),
    "8 L40S over PCIe": (blocks(8, 2, "PIX", "NODE", "SYS"), tuple((n,) for n in range(8))),
    "2 RTX 5090 (noonghunna/club-3090 issue 1229)": (alike(2, "PHB"), ((0,), (1,))),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_domains_of_a_machine(machine: str) -> None:
    text, expected = MACHINES[machine]
    links = read_links(text)
    assert linked_domains(links) == expected
    for domain in expected:
        for a, b in combinations(domain, 2):
            assert links[a][b].startswith("NV")


def test_groups_over_pcie_only_when_that_is_wanted() -> None:
    links = read_links(MACHINES["8 L40S over PCIe"][0])
    assert linked_domains(links, "PIX") == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert linked_domains(links, "NODE") == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert linked_domains(links, "SYS") == (tuple(range(8)),)


def on(text: str, *allocations: Allocation, exact: bool = False) -> tuple[Links, Placement]:
    links = read_links(text)
    node = Node(name="n", gpu_type=plans.A100.name, gpus=len(links), nvlink_domains=linked_domains(links), gpu_links=links)
    cluster = Cluster(name="c", gpu_types=(plans.A100,), nodes=(node,))
    placement = pack_exactly(layout(cluster), allocations).placement if exact else pack(layout(cluster), allocations)
    assert placement is not None
    return links, placement


def wanted(llm: str, degree: int, replicas: int, share_pct: int = 100) -> Allocation:
    return Allocation(llm=llm, share_pct=share_pct, tensor_parallel=degree, replicas=replicas, gpu_type=plans.A100.name)


def indices(group: tuple[Gpu, ...]) -> tuple[int, ...]:
    return tuple(gpu.index for gpu in group)


@pytest.mark.parametrize("exact", [False, True])
def test_on_a_hybrid_cube_mesh_two_take_a_double_link_and_four_a_quad(exact: bool) -> None:
    links, placement = on(DGX1_V100, wanted("a", 2, 1), exact=exact)
    assert links[indices(placement["a"][0])[0]][indices(placement["a"][0])[1]] == "NV2"
    links, placement = on(DGX1_V100, wanted("a", 2, 4), exact=exact)
    # Of a quad's three ways to make two pairs, only one has no single link.
    assert sorted(map(indices, placement["a"])) == [(0, 3), (1, 2), (4, 7), (5, 6)]
    links, placement = on(DGX1_V100, wanted("a", 4, 2), exact=exact)
    assert sorted(map(indices, placement["a"])) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert all(weakest_rank(links, indices(group)) == link_rank("NV1") for group in placement["a"])


def test_who_shares_a_gpu_does_not_change() -> None:
    """Exchanging GPUs keeps shares: no GPU over 100 %, and every group has its degree."""
    load = (wanted("a", 2, 3, 60), wanted("b", 1, 4, 40), wanted("c", 4, 1, 30))
    _, placement = on(DGX1_V100, *load)
    used: dict[Gpu, int] = {}
    for allocation in load:
        assert [len(set(group)) for group in placement[allocation.llm]] == [allocation.tensor_parallel] * allocation.replicas
        for group in placement[allocation.llm]:
            for gpu in group:
                used[gpu] = used.get(gpu, 0) + allocation.share_pct
    assert max(used.values()) <= 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("NV2  NV2  SYS", "NV2  FOO  SYS"), r"GPU0 to GPU4 is 'FOO': must be NV#, SYS, NODE, PHB, PXB, PIX, and X for itself"),
        (("NV2  NV2  SYS", "NV1  NV2  SYS"), r"GPU0 to GPU3 is NV1, and back NV2: must be the same"),
        (("GPU7 SYS", "GPU9 SYS"), r"rows .* and columns .* differ"),
    ],
)
def test_what_is_no_matrix_is_refused(change: tuple[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_links(DGX1_V100.replace(*change, 1), "dgx.txt")
