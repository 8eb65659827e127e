"""A cluster without some of its GPUs, and plans from one to the other: GPUs of a node are numbered without gaps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from scepsy.cluster import Cluster, Gpu, Node
from scepsy.errors import Infeasible
from scepsy.plans import Instance, Plan


@dataclass(frozen=True)
class Reduced:
    """What is left of a cluster."""

    cluster: Cluster
    to_left: Mapping[Gpu, Gpu]
    """From the whole cluster's GPUs to the same ones in ``cluster``; lost ones are missing."""

    @property
    def to_whole(self) -> dict[Gpu, Gpu]:
        """The way back."""
        return {left: whole for whole, left in self.to_left.items()}


def without(cluster: Cluster, lost: Iterable[Gpu]) -> Reduced:
    """Leave GPUs out; nodes that lose all of theirs go too. Raises ``Infeasible`` when nothing is left."""
    gone = set(lost)
    nodes: list[Node] = []
    to_left: dict[Gpu, Gpu] = {}
    for node in cluster.nodes:
        kept = [index for index in range(node.gpus) if Gpu(node=node.name, index=index) not in gone]
        number = {index: place for place, index in enumerate(kept)}
        if not kept:
            continue
        domains = tuple(tuple(number[i] for i in domain if i in number) for domain in node.nvlink_domains)
        nodes.append(
            msgspec.structs.replace(
                node,
                gpus=len(kept),
                nvlink_domains=tuple(domain for domain in domains if domain),
                gpu_links=tuple(tuple(node.gpu_links[a][b] for b in kept) for a in kept) if node.gpu_links else (),
                gpu_uuids=tuple(node.gpu_uuids[i] for i in kept) if node.gpu_uuids else (),
            )
        )
        to_left |= {Gpu(node=node.name, index=i): Gpu(node=node.name, index=number[i]) for i in kept}
    if not nodes:
        raise Infeasible(f"all {len(cluster.gpus)} GPUs of cluster {cluster.name} are lost")
    return Reduced(msgspec.structs.replace(cluster, nodes=tuple(nodes)), to_left)


def moved(plan: Plan, cluster: Cluster, mapping: Mapping[Gpu, Gpu]) -> Plan:
    """The plan on another numbering of GPUs. Instances with a GPU that the mapping lacks are left out, and LLMs without
    any; instances are numbered anew."""
    instances = [
        msgspec.structs.replace(instance, gpus=tuple(mapping[gpu] for gpu in instance.gpus))
        for instance in plan.instances
        if all(gpu in mapping for gpu in instance.gpus)
    ]
    return with_instances(msgspec.structs.replace(plan, cluster=cluster, **_NOTHING), plan, instances)


_NOTHING: dict[str, tuple[()]] = {"allocations": (), "instances": (), "models": ()}


def with_instances(bare: Plan, plan: Plan, instances: Sequence[Instance]) -> Plan:
    """``bare`` with these instances of ``plan``, which are numbered anew; LLMs without any have no allocation either."""
    counts = dict.fromkeys((a.llm for a in plan.allocations), 0)
    numbered = []
    for instance in instances:
        numbered.append(msgspec.structs.replace(instance, index=counts[instance.llm]))
        counts[instance.llm] += 1
    return msgspec.structs.replace(
        bare,
        allocations=tuple(msgspec.structs.replace(a, replicas=counts[a.llm]) for a in plan.allocations if counts[a.llm]),
        instances=tuple(numbered),
        models=tuple(served for served in plan.models if counts[served.llm]),
    )
