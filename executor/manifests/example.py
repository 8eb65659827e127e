"""Rendering before a cluster exists: made-up device UUIDs and names, marked so that nobody takes them for real ones. Pure."""

from collections.abc import Iterable

import msgspec

from executor.manifests.options import RenderOptions
from executor.manifests.pods import Manifest
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.profile.served import served

MARK = "scepsy.dev/example"
WARNING = "made-up GPU UUIDs: an example to look at, not to apply (scepsy discover writes the real cluster file)"
IMAGE = "example.invalid/scepsy:made-up"
"""``.invalid`` never resolves (RFC 2606)."""


def example_plan(plan: Plan) -> Plan:
    """The plan with a made-up UUID for every GPU of every node, also where real ones are known.

    They have the form of real ones, and zeros where those are random.
    """
    nodes = tuple(
        msgspec.structs.replace(
            node, gpu_uuids=tuple(f"GPU-00000000-0000-0000-{number:04d}-{index:012d}" for index in range(node.gpus))
        )
        for number, node in enumerate(plan.cluster.nodes)
    )
    return msgspec.structs.replace(plan, cluster=msgspec.structs.replace(plan.cluster, nodes=nodes))


def example_options(plan: Plan, profiles: ProfileSet, options: RenderOptions) -> RenderOptions:
    """The options with made-up names where an image or a model must be known and is not."""
    unknown = {
        allocation.llm: f"example.invalid/{allocation.llm}"
        for allocation in plan.allocations
        if allocation.llm not in options.models
        and not (plan.served(allocation.llm) or served(profiles.llm(allocation.llm))).hub_id
    }
    return msgspec.structs.replace(options, gateway_image=options.gateway_image or IMAGE, models={**options.models, **unknown})


def mark(objects: Iterable[Manifest]) -> None:
    """Annotate every object as an example."""
    for each in objects:
        each["metadata"].setdefault("annotations", {})[MARK] = WARNING
