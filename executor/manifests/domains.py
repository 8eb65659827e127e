"""MPS domains and start order: which GPUs need one daemon together, and who must wait for whom. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from scepsy.capabilities import shared_gpus
from scepsy.cluster import Gpu
from scepsy.errors import InputError
from scepsy.plans import Instance, Plan


@dataclass(frozen=True)
class Domain:
    """GPUs of one node that instances tie together, and those instances in the plan's order."""

    gpus: tuple[Gpu, ...]
    instances: tuple[Instance, ...]
    shared: bool
    """Whether a limiter (an MPS daemon) stands before these GPUs; False: one instance has them whole."""

    @property
    def node(self) -> str:
        """The node; a domain never spans two, because an instance does not."""
        return self.gpus[0].node


def domains(plan: Plan) -> tuple[Domain, ...]:
    """Connected components of the plan's GPUs, two GPUs being linked when one instance spans both.

    One daemon serves one component: a pod cannot be a client of two daemons, and two daemons cannot have one GPU
    (it is in exclusive-process mode). Ordered by their first GPU; unused GPUs are in none.
    """
    root: dict[Gpu, Gpu] = {}

    def find(gpu: Gpu) -> Gpu:
        root.setdefault(gpu, gpu)
        while root[gpu] != gpu:
            root[gpu] = root[root[gpu]]
            gpu = root[gpu]
        return gpu

    for instance in plan.instances:
        first = find(instance.gpus[0])
        for gpu in instance.gpus[1:]:
            root[find(gpu)] = first
    members: dict[Gpu, list[Gpu]] = {}
    for gpu in sorted(root):
        members.setdefault(find(gpu), []).append(gpu)
    users: dict[Gpu, list[Instance]] = {}
    for instance in plan.instances:
        users.setdefault(find(instance.gpus[0]), []).append(instance)
    shared = shared_gpus(plan)
    return tuple(
        Domain(gpus=tuple(gpus), instances=tuple(users[key]), shared=any(gpu in shared for gpu in gpus))
        for key, gpus in members.items()
    )


def start_waves(instances: Iterable[Instance]) -> dict[str, int]:
    """The wave of each instance by name: 0 for the first on its GPUs, else one more than the latest before it.

    Two engines that start at once on one GPU measure each other's memory; in different waves they never do.

    >>> g0, g1 = Gpu(node="n", index=0), Gpu(node="n", index=1)
    >>> def at(i, *gpus): return Instance(llm="a", index=i, gpus=gpus, share_pct=30, memory_bytes=1)
    >>> start_waves([at(0, g0), at(1, g1), at(2, g0, g1), at(3, g1)])
    {'a-0': 0, 'a-1': 0, 'a-2': 1, 'a-3': 2}
    """
    next_wave: dict[Gpu, int] = {}
    waves: dict[str, int] = {}
    for instance in instances:
        wave = max(next_wave.get(gpu, 0) for gpu in instance.gpus)
        waves[instance.name] = wave
        for gpu in instance.gpus:
            next_wave[gpu] = wave + 1
    return waves


def uuid_of(plan: Plan, gpu: Gpu) -> str:
    """Device UUID of one GPU. Raises ``InputError`` when the cluster file does not know it."""
    uuids = plan.cluster.node(gpu.node).gpu_uuids
    if not uuids:
        raise InputError(
            f"cluster {plan.cluster.name}: node {gpu.node}: gpu_uuids is empty: a plan is pinned to devices by UUID "
            f"(make the cluster file with `scepsy discover`, then plan for it)"
        )
    return uuids[gpu.index]
