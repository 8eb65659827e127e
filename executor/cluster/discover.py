"""Nodes and DRA device slices → our cluster value."""

import re
from collections.abc import Mapping

import msgspec

from executor.cluster.api import Api, Object
from executor.cluster.devices import physical_gpus, published_list, set_aside
from executor.cluster.kinds import DEVICE_CLASS, NODE
from executor.cluster.preflight import check_version
from executor.cluster.topology import Links, linked_domains
from scepsy.cluster import Cluster, GpuType, Node
from scepsy.errors import BackendError, InputError
from scepsy.progress import Notify, no_notice

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_MEMORY_SLACK = 0.1
"""A product's memory as published and as in the catalogue may differ by this much (GB against GiB, reserved parts)."""


def discover(
    api: Api,
    known: Mapping[str, GpuType],
    *,
    name: str = "",
    driver: str = "gpu.nvidia.com",
    device_class: str = "gpu.nvidia.com",
    types: Mapping[str, str] | None = None,
    links: Mapping[str, Links] | None = None,
    weakest: str = "NV",
    notify: Notify = no_notice,
) -> Cluster:
    """Read the cluster's GPUs from the driver's ResourceSlices.

    ``known`` are the GPU types of the catalogue; ``types`` maps product names to them where that cannot be told; ``links``
    gives the links by node (``topology.read_links``), default: all GPUs of a node are one domain. Tensor-parallel groups
    may use links of class ``weakest`` or better. GPUs are numbered by PCI bus, as NVML and ``nvidia-smi`` do. A physical
    GPU counts once, whatever else is published of it; one that is cut by MIG has fixed partitions; one that is set aside
    for virtual machines is left out, and ``notify`` says so. Raises ``BackendError`` when the driver publishes nothing,
    ``InputError`` for a product that is not known.
    """
    check_version(api)
    if api.get(DEVICE_CLASS, device_class) is None:
        raise BackendError(
            f"cluster {api.host} has no DeviceClass {device_class}: install the NVIDIA DRA driver (docs/kubernetes.md)"
        )
    published = list(published_list(api, driver))
    devices = physical_gpus(published)
    if not devices and not published:
        raise BackendError(
            f"cluster {api.host} has no device of driver {driver}: are its kubelet plugins running on the GPU nodes? "
            f"(kubectl get resourceslices)"
        )
    for node_name, count in sorted(set_aside(published).items()):
        notify(f"node {node_name}: {count} GPUs are set aside for virtual machines (VFIO) and left out")
    if not devices:
        raise BackendError(f"cluster {api.host}: every GPU of driver {driver} is set aside for virtual machines (VFIO)")
    by_node: dict[str, list[tuple[str, Object]]] = {}
    for gpu in devices:
        by_node.setdefault(gpu.device["node"], []).append((gpu.uuid, {**gpu.device, "partitions_pct": gpu.partitions_pct}))
    labels = {node["metadata"]["name"]: node["metadata"].get("labels", {}) for node in api.list_all(NODE)[0]}
    found: dict[str, GpuType] = {}
    nodes = []
    for node_name in sorted(by_node):
        if node_name not in labels:
            raise BackendError(
                f"ResourceSlice names node {node_name}, which is not in the cluster: is the slice stale? delete it"
            )
        members = sorted(by_node[node_name], key=_bus)
        mine = {gpu_type(device, labels[node_name], known, types or {}) for _, device in members}
        if len(mine) > 1:
            raise InputError(f"node {node_name}: has {', '.join(sorted(t.name for t in mine))}: must have GPUs of one type")
        kind = mine.pop()
        if kind.partitions_pct:
            notify(
                f"node {node_name}: its GPUs are cut by MIG into shares of {', '.join(map(str, kind.partitions_pct))} %: "
                f"plans use these shares only, and no target can pin an instance to such a partition yet"
            )
        # The smallest found: no plan may count on memory that some GPU lacks.
        if kind.name not in found or kind.memory_bytes < found[kind.name].memory_bytes:
            found[kind.name] = kind
        host = labels[node_name].get("kubernetes.io/hostname", node_name)
        nodes.append(_node(host, kind.name, [uuid for uuid, _ in members], (links or {}).get(host, ()), weakest, notify))
    strange = sorted(set(links or {}) - {node.name for node in nodes})
    if strange:
        raise InputError(f"--topology names node {strange[0]}: must be one of {', '.join(node.name for node in nodes)}")
    return Cluster(name=name or re.sub(r"^https?://", "", api.host), gpu_types=tuple(found.values()), nodes=tuple(nodes))


def gpu_type(device: Object, labels: Mapping[str, str], known: Mapping[str, GpuType], types: Mapping[str, str]) -> GpuType:
    """The catalogue's type of one device, with the memory that it really has. Raises ``InputError`` naming the product."""
    product = device.get("attributes", {}).get("productName", {}).get("string") or labels.get("nvidia.com/gpu.product", "")
    memory = quantity(device.get("capacity", {}).get("memory", {}).get("value", "0"))
    if product in types:
        if types[product] not in known:
            raise InputError(f"--gpu-type {product}={types[product]}: must name one of {', '.join(known)}")
        chosen = [known[types[product]]]
    else:
        words = set(re.split(r"[^a-z0-9]+", product.lower()))
        chosen = [each for each in known.values() if _stem(each.name) <= words and _close(each.memory_bytes, memory)]
    if len(chosen) != 1:
        raise InputError(
            f"GPU product {product!r} with {memory} bytes is {'ambiguous' if chosen else 'not in the catalogue'}: "
            f"give --gpu-type {product!r}=NAME with NAME one of {', '.join(known)}"
        )
    return _with_partitions(_with_memory(chosen[0], memory), tuple(device.get("partitions_pct", ())))


def quantity(text: str) -> int:
    """A Kubernetes quantity in bytes.

    >>> quantity("80Gi"), quantity("81559Mi"), quantity("85899345920"), quantity("80G")
    (85899345920, 85520809984, 85899345920, 80000000000)
    """
    match = re.fullmatch(r"(\d+)([kMGT]i?|Ki)?", text)
    if match is None:
        raise InputError(f"memory capacity {text!r}: must be a whole Kubernetes quantity")
    return int(match[1]) * _UNITS[match[2] or ""]


def _with_memory(kind: GpuType, memory: int) -> GpuType:
    return msgspec.structs.replace(kind, memory_bytes=min(kind.memory_bytes, memory)) if memory else kind


def _with_partitions(kind: GpuType, shares: tuple[int, ...]) -> GpuType:
    """A type of its own, since a cluster may have such GPUs whole as well; profiles are those of the whole GPU."""
    return msgspec.structs.replace(kind, name=f"{kind.name}-mig", partitions_pct=shares) if shares else kind


def _node(host: str, kind: str, uuids: list[str], links: Links, weakest: str, notify: Notify) -> Node:
    if links and len(links) != len(uuids):
        raise InputError(f"node {host}: has {len(uuids)} GPUs, its topology file {len(links)}: is it the file of this node?")
    domains = linked_domains(links, weakest) if links else ()
    if len({len(domain) for domain in domains}) > 1:
        notify(f"node {host}: its GPUs fall into groups of {', '.join(str(len(d)) for d in domains)}: {domains}")
    classes = {cell for row in links for cell in row} - {"X"}
    try:
        return Node(
            name=host,
            gpu_type=kind,
            gpus=len(uuids),
            nvlink_domains=domains,
            gpu_links=links if len(classes) > 1 else (),
            gpu_uuids=tuple(uuids),
        )
    except ValueError as error:
        raise InputError(f"node {host}: {error}: is the topology file of this node?") from error


def _bus(member: tuple[str, Object]) -> tuple[str, int, str]:
    uuid, device = member
    attributes = device.get("attributes", {})
    bus = attributes.get("resource.kubernetes.io/pciBusID", attributes.get("pciBusID", {})).get("string", "")
    number = re.search(r"(\d+)$", device.get("name", ""))
    return str(bus).lower(), int(number[1]) if number else 0, uuid


def _stem(name: str) -> set[str]:
    """The words of a type's name that its product name must contain; not the memory, which is compared as a number."""
    return {word for word in re.split(r"[^a-z0-9]+", name.lower()) if not re.fullmatch(r"\d+g", word)}


def _close(planned: int, published: int) -> bool:
    return not published or abs(planned - published) <= _MEMORY_SLACK * planned
