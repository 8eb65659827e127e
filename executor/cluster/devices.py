"""What a DRA driver publishes, reduced to physical GPUs: each counts once, however many devices are offered of it.

The NVIDIA driver publishes a GPU as ``type`` gpu, its MIG partitions as mig (with ``parentUUID`` and ``profile``), and a GPU
that may be handed to a virtual machine as vfio (source: cmd/gpu-kubelet-plugin of dra-driver-nvidia-gpu). One GPU may appear as
several of these: as vfio beside gpu, and whole beside all the MIG partitions that it could be cut into.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from executor.cluster.api import Api, Object
from executor.cluster.kinds import SLICE

_PROFILE = re.compile(r"(?:(\d+)c\.)?(\d+)g\.(\d+)gb.*")
_SLICES = 7
"""Compute slices of a GPU under MIG: profile 2g.10gb has two sevenths (NVIDIA MIG user guide)."""
_MEMORY_SLICES = 8
_MEMORY_OF_COMPUTE = {1: 1, 2: 2, 3: 4, 4: 4, 7: 8}
"""Memory slices by compute slices of the plain profiles, where the driver does not list them as ``memorySlice<n>``."""


@dataclass(frozen=True)
class PhysicalGpu:
    """One GPU of one node."""

    uuid: str
    device: Object
    """What is published of it, with its node's name under ``node``."""
    partitions_pct: tuple[int, ...] = ()
    """Shares into which MIG has cut it, percent, ascending; empty: it is whole."""


def published_list(api: Api, driver: str) -> Iterator[Object]:
    """Every device that a driver publishes, with its node's name under ``node``; of a pool only its newest generation."""
    slices = [each["spec"] for each in api.list_all(SLICE)[0] if each["spec"].get("driver") == driver]
    newest: dict[str, int] = {}
    for spec in slices:
        pool = spec.get("pool", {})
        newest[pool.get("name", "")] = max(newest.get(pool.get("name", ""), 0), pool.get("generation", 0))
    for spec in slices:
        pool = spec.get("pool", {})
        if pool.get("generation", 0) == newest[pool.get("name", "")]:
            for device in spec.get("devices", []):
                yield {**device, "node": spec.get("nodeName", "")}


def physical_gpus(devices: Iterable[Object]) -> list[PhysicalGpu]:
    """The GPUs that engines can run on, each once; partitions count only where their GPU is not offered whole."""
    whole: dict[str, Object] = {}
    parts: dict[str, list[Object]] = {}
    for device in devices:
        kind, uuid = _text(device, "type") or "gpu", _text(device, "uuid")
        if kind == "gpu" and uuid:
            whole[uuid] = device
        elif kind == "mig":
            parts.setdefault(_text(device, "parentUUID"), []).append(device)
    found = [PhysicalGpu(uuid, device) for uuid, device in whole.items()]
    for parent, members in parts.items():
        if parent and parent not in whole:
            shares = tuple(sorted({share for each in members if (share := profile_pct(_text(each, "profile")))}))
            memory = max(_whole_memory(each) for each in members)
            capacity = {"memory": {"value": str(memory)}} if memory else {}
            found.append(PhysicalGpu(parent, {**members[0], "capacity": capacity}, shares))
    return found


def set_aside(devices: Iterable[Object]) -> dict[str, int]:
    """How many GPUs of each node are published for virtual machines only."""
    listed = list(devices)
    whole = {_bus(each) or _text(each, "uuid") for each in listed if _text(each, "type") in ("", "gpu", "mig")}
    only = {
        (each["node"], _bus(each) or _text(each, "uuid"))
        for each in listed
        if _text(each, "type") == "vfio" and (_bus(each) or _text(each, "uuid")) not in whole
    }
    return dict(Counter(node for node, _ in only))


def profile_pct(profile: str) -> int:
    """Percent of a GPU's SMs that a MIG profile has; 0 for one that is not understood.

    >>> [profile_pct(each) for each in ("1g.10gb", "3g.20gb", "7g.80gb", "1c.3g.20gb", "1g.12gb+me", "odd")]
    [14, 42, 100, 14, 14, 0]
    """
    match = _PROFILE.fullmatch(profile)
    return 100 * int(match[1] or match[2]) // _SLICES if match else 0


def _whole_memory(device: Object) -> int:
    """Memory of the GPU that a partition is cut from: it has eight memory slices, and the partition so many of them."""
    match = _PROFILE.fullmatch(_text(device, "profile"))
    if match is None:
        return 0
    named = sum(name.rpartition("/")[2].startswith("memorySlice") for name in device.get("capacity", {}))
    return int(match[3]) * 10**9 * _MEMORY_SLICES // (named or _MEMORY_OF_COMPUTE.get(int(match[2]), int(match[2])))


def _text(device: Object, name: str) -> str:
    return str(device.get("attributes", {}).get(name, {}).get("string", ""))


def _bus(device: Object) -> str:
    attributes = device.get("attributes", {})
    return str(attributes.get("resource.kubernetes.io/pciBusID", attributes.get("pciBusID", {})).get("string", ""))
