"""Small plans, clusters and profiles that the executor's tests share."""

from hypothesis import strategies as st

from executor.manifests import RenderOptions
from scepsy.cluster import Cluster, Gpu, GpuType, Node
from scepsy.llm import Llm
from scepsy.plans import Allocation, Instance, Plan, Target
from scepsy.profile.model import Profile, ProfileSet
from scepsy.profile.share import ColdStartLaw, ContentionLaw, ShareLaw
from scepsy.profile.step import StepModel
from scepsy.workload import Arrivals

GIB = 2**30
IMAGE = "scepsy/gateway:0.1.0"
"""Of the gateway: there is no default."""
OPTIONS = RenderOptions(gateway_image=IMAGE)
A100 = GpuType(name="a100-80g", memory_bytes=80 * GIB, bandwidth_bytes_per_s=2.0e12, flops_per_s=312e12, source="test")


def llm(name: str, weight_gib: float, kind: str = "generate") -> Llm:
    return Llm(
        name=name,
        parameters=weight_gib * GIB / 2,
        weight_bytes=int(weight_gib * GIB),
        kv_bytes_per_token=131072 if kind == "generate" else 0,
        context_limit=8192,
        hf_name="" if "/" in name else f"test/{name}",
        kind=kind,  # type: ignore[arg-type]
    )


LLMS = (llm("qwen3-8b", 4), llm("Meta/Llama-3.1", 6), llm("reranker", 1, "rerank"), llm("embedder", 1, "embed"))


def uuid(node: str, index: int) -> str:
    return f"GPU-{node}-{index}"


def node(name: str, gpus: int, nvlink: tuple[tuple[int, ...], ...] = ()) -> Node:
    return Node(
        name=name, gpu_type=A100.name, gpus=gpus, nvlink_domains=nvlink, gpu_uuids=tuple(uuid(name, i) for i in range(gpus))
    )


def cluster(*nodes: Node) -> Cluster:
    return Cluster(name="test", gpu_types=(A100,), nodes=nodes)


def profiles() -> ProfileSet:
    return ProfileSet(
        profiles=tuple(
            Profile(llm=each, gpu=A100, tensor_parallel=t, step=StepModel(base_s=0.01, prefill_s_per_token=4e-5), source="test")
            for each in LLMS
            for t in (1, 2, 4, 8)
        ),
        share_law=ShareLaw(prefill_k=0.7, prefill_small_k=0.5, decode_k=0.2, decode_large_k=0.5),
        contention=ContentionLaw(interference=0.3),
        cold_start=ColdStartLaw(base_s=33.0, s_per_billion=2.0),
    )


def instance(name: str, index: int, where: str, gpus: tuple[int, ...], share_pct: int) -> Instance:
    return Instance(
        llm=name,
        index=index,
        gpus=tuple(Gpu(node=where, index=i) for i in gpus),
        share_pct=share_pct,
        memory_bytes=int(80 * GIB * 0.92 * share_pct / 100),
    )


def plan(on: Cluster, *instances: Instance) -> Plan:
    groups: dict[str, list[Instance]] = {}
    for each in instances:
        groups.setdefault(each.llm, []).append(each)
    return Plan(
        planner="hand",
        cluster=on,
        targets=(Target(workflow="rag", arrivals=Arrivals(rate_per_s=1.0)),),
        allocations=tuple(
            Allocation(
                llm=name,
                share_pct=members[0].share_pct,
                tensor_parallel=members[0].tensor_parallel,
                replicas=len(members),
                gpu_type=A100.name,
            )
            for name, members in groups.items()
        ),
        instances=instances,
    )


def two_nodes() -> Plan:
    """On n1 a TP-2 instance at 40 % ties GPUs 0 and 1 together with two neighbours; GPU 2 is whole; n2 is half used."""
    return plan(
        cluster(node("n1", 4), node("n2", 2)),
        instance("qwen3-8b", 0, "n1", (0, 1), 40),
        instance("Meta/Llama-3.1", 0, "n1", (2,), 100),
        instance("reranker", 0, "n1", (0,), 50),
        instance("reranker", 1, "n1", (1,), 50),
        instance("embedder", 0, "n2", (0,), 30),
        instance("embedder", 1, "n2", (0,), 30),
    )


def one_node() -> Plan:
    """The same GPUs of n1 used otherwise: the big instance stays, the domain of GPUs 0 and 1 falls apart."""
    return plan(
        cluster(node("n1", 4), node("n2", 2)),
        instance("Meta/Llama-3.1", 0, "n1", (2,), 100),
        instance("reranker", 0, "n1", (0,), 50),
        instance("qwen3-8b", 0, "n1", (0,), 50),
        instance("embedder", 0, "n2", (0,), 30),
        instance("embedder", 1, "n2", (0,), 30),
    )


def degree(tensor_parallel: int, *, whole: bool = False) -> Plan:
    """One instance over ``tensor_parallel`` GPUs of an eight-GPU node and a neighbour on the last of them, if it is shared."""
    gpus = tuple(range(tensor_parallel))
    on = cluster(node("n1", 8))
    if whole:
        return plan(on, instance("qwen3-8b", 0, "n1", gpus, 100))
    return plan(on, instance("qwen3-8b", 0, "n1", gpus, 60), instance("reranker", 0, "n1", gpus[-1:], 30))


def many(instances: int) -> Plan:
    """Four instances at 25 % on each GPU, eight GPUs a node."""
    nodes = -(-instances // 32)
    on = cluster(*(node(f"n{number:03d}", 8) for number in range(nodes)))
    return plan(
        on,
        *(instance(LLMS[i % 2].name, i // 2, f"n{i // 32:03d}", ((i % 32) // 4,), 25) for i in range(instances)),
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any plan that ``Plan`` accepts, on any small cluster: NVLink domains, TP groups that overlap, shares that fit."""
    nodes = []
    for number in range(draw(st.integers(1, 3))):
        gpus = draw(st.integers(1, 8))
        cut = draw(st.integers(0, gpus))
        halves = tuple(part for part in (tuple(range(cut)), tuple(range(cut, gpus))) if part)
        nodes.append(node(f"n{number}", gpus, halves if draw(st.booleans()) else ()))
    on = cluster(*nodes)
    free = dict.fromkeys(on.gpus, 100)
    made: list[Instance] = []
    for each in LLMS:
        share = draw(st.sampled_from([10, 25, 30, 50, 60, 100]))
        degree = draw(st.sampled_from([1, 1, 2, 4]))
        replicas = 0
        for _ in range(draw(st.integers(0, 5))):
            domain = draw(st.sampled_from(list(on.nvlink_domains())))
            fitting = [gpu for gpu in domain if free[gpu] >= share]
            if len(fitting) < degree:
                continue
            chosen = tuple(draw(st.permutations(fitting))[:degree])
            for gpu in chosen:
                free[gpu] -= share
            made.append(
                Instance(
                    llm=each.name, index=replicas, gpus=chosen, share_pct=share, memory_bytes=int(80 * GIB * 0.92 * share / 100)
                )
            )
            replicas += 1
    if not made:
        made.append(instance(LLMS[0].name, 0, "n0", (0,), 100))
    return plan(on, *made)
