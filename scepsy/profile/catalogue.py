"""What Scepsy knows out of the box: GPU types, models, cluster presets, laws, and profiles made from them.

All of it is data under ``scepsy/data``, each entry with its source. A profile of a pair that was measured says so; any
other is scaled from the nearest measurement (``profile.roofline``) and its source begins with ``scaled:``.
"""

import functools
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import TypeVar

import msgspec
import yaml

from scepsy.cluster import MAX_GPUS, Cluster, GpuType, Node
from scepsy.errors import InputError
from scepsy.llm import Llm
from scepsy.models import names
from scepsy.profile.model import EngineLimits, Profile, ProfileSet
from scepsy.profile.roofline import Efficiencies, MeasuredModel, nearest, scale
from scepsy.profile.share import ColdStartLaw, ContentionLaw, ShareLaw
from scepsy.profile.step import StepModel
from scepsy.profile.tensor_parallel import TensorParallelLaw, at_degree
from scepsy.value import Value

T = TypeVar("T")


class _Preset(Value, frozen=True, kw_only=True):
    name: str
    nodes: int
    gpus_per_node: int
    gpu_type: str


class _Step(Value, frozen=True, kw_only=True):
    llm: str
    gpu: str
    step: StepModel
    residual_pct: float
    source: str


class Laws(Value, frozen=True, kw_only=True):
    """``scepsy/data/laws.yaml``."""

    share_law: ShareLaw
    contention: ContentionLaw
    cold_start: ColdStartLaw
    tensor_parallel: TensorParallelLaw
    kv_efficiency: float
    kv_efficiency_source: str
    attention_efficiency: float
    attention_efficiency_source: str

    @property
    def efficiencies(self) -> Efficiencies:
        """The two efficiencies as the roofline takes them."""
        return Efficiencies(kv_efficiency=self.kv_efficiency, attention_efficiency=self.attention_efficiency)


def _read(name: str, kind: type[T]) -> T:
    text = resources.files("scepsy.data").joinpath(name).read_text(encoding="utf-8")
    # The C loader reads the 130 models in a tenth of the time; it comes with most builds of PyYAML.
    return msgspec.convert(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)), kind)


@functools.cache
def gpu_types() -> Mapping[str, GpuType]:
    """Every known GPU type by name."""
    return {gpu.name: gpu for gpu in _read("gpus.yaml", list[GpuType])}


@functools.cache
def llms() -> Mapping[str, Llm]:
    """Every built-in model by its short name. (A user's own models are found by name, ``llm``, and are not listed here.)"""
    return {llm.name: llm for llm in (*_read("llms.yaml", list[Llm]), *_read("models.yaml", list[Llm]))}


@functools.cache
def laws() -> Laws:
    """The laws that the built-in profiles rest on."""
    return _read("laws.yaml", Laws)


@functools.cache
def references() -> tuple[MeasuredModel, ...]:
    """The step models that others are scaled from: measured ones, and mixtures of experts from vendor data."""
    return tuple(
        MeasuredModel(llm=llm(row.llm), gpu=gpu_type(row.gpu), step=row.step, residual_pct=row.residual_pct, source=row.source)
        for row in (*_read("steps.yaml", list[_Step]), *_read("steps_vendor.yaml", list[_Step]))
    )


@functools.cache
def _presets() -> Mapping[str, _Preset]:
    return {preset.name: preset for preset in _read("clusters.yaml", list[_Preset])}


def _known(kind: str, name: str, table: Mapping[str, T]) -> T:
    if name not in table:
        raise InputError(f"{kind} is {name!r}: must be one of {', '.join(sorted(table))}")
    return table[name]


def gpu_type(name: str) -> GpuType:
    """One GPU type by name. Raises ``InputError`` naming the known ones."""
    return _known("GPU type", name, gpu_types())


def llm(name: str) -> Llm:
    """One model by short name, name on Hugging Face, folder, or from the user's catalogue. Raises ``InputError``
    naming near ones."""
    return names.all_of([name], llms())[name]


def cluster_names() -> tuple[str, ...]:
    """The cluster presets."""
    return tuple(_presets())


def uniform_cluster(name: str, nodes: int, gpus_per_node: int, gpu: GpuType) -> Cluster:
    """A cluster of equal nodes ``n0``, ``n1``, …; each node is one NVLink domain."""
    return Cluster(
        name=name,
        gpu_types=(gpu,),
        nodes=tuple(Node(name=f"n{index}", gpu_type=gpu.name, gpus=gpus_per_node) for index in range(nodes)),
    )


def cluster_preset(name: str) -> Cluster:
    """A cluster preset by name. Raises ``InputError`` naming the known ones."""
    preset = _known("cluster", name, _presets())
    return uniform_cluster(name, preset.nodes, preset.gpus_per_node, gpu_type(preset.gpu_type))


def cluster_of(gpus: int, gpu: str = "A100-80G", gpus_per_node: int = 8) -> Cluster:
    """A cluster of ``gpus`` GPUs in nodes of at most ``gpus_per_node``, the last node taking the rest.

    >>> [node.gpus for node in cluster_of(12).nodes]
    [8, 4]
    """
    if not 1 <= gpus <= MAX_GPUS:
        raise InputError(f"--gpus is {gpus}: must be 1 to {MAX_GPUS}")
    kind = gpu_type(gpu)
    sizes = [gpus_per_node] * (gpus // gpus_per_node) + ([gpus % gpus_per_node] if gpus % gpus_per_node else [])
    nodes = tuple(Node(name=f"n{index}", gpu_type=kind.name, gpus=size) for index, size in enumerate(sizes))
    return Cluster(name=f"{gpus}x-{gpu.lower()}", gpu_types=(kind,), nodes=nodes)


def built_in_profile(model: Llm, gpu: GpuType, degree: int, engine: EngineLimits | None = None) -> Profile:
    """The profile of one (LLM, GPU type, degree): measured where there is a measurement, else scaled and marked."""
    known = laws()
    reference = nearest(model, gpu, references())
    whole = scale(reference, model, gpu, known.tensor_parallel, known.efficiencies)
    measured = (reference.llm.name, reference.gpu.name) == (model.name, gpu.name)
    source = reference.source if measured else f"scaled: from {reference.llm.name} on {reference.gpu.name} ({reference.source})"
    if degree > 1:
        source += f"; TP {degree} by the tensor-parallel law"
    return Profile(
        llm=model,
        gpu=gpu,
        tensor_parallel=degree,
        step=at_degree(whole, model, degree, known.tensor_parallel),
        engine=engine or EngineLimits(),
        source=source,
        residual_pct=reference.residual_pct if measured and degree == 1 else None,
    )


def builtin_profiles(
    wanted: Iterable[str] | Mapping[str, str],
    gpus: Iterable[str | GpuType],
    degrees: Iterable[int] = (1, 2, 4, 8),
    engine: EngineLimits | None = None,
    contexts: Mapping[str, int] | None = None,
) -> ProfileSet:
    """Profiles of the named LLMs on the named GPU types at every degree that their attention heads divide by.

    ``wanted`` may map the name used in a trace to a catalogue name (``{"agent:gpt-4.1": "llama-3.1-70b"}``): the
    profile then carries the trace's name. ``contexts``: mean tokens of context of a name's calls, at which the memory
    of windows
    and constant states is counted. Raises ``InputError`` for unknown names.
    """
    wanted = dict(wanted) if isinstance(wanted, Mapping) else {name: name for name in wanted}
    found = names.all_of(wanted.values(), llms())
    kinds = [gpu if isinstance(gpu, GpuType) else gpu_type(gpu) for gpu in gpus]
    degrees = tuple(degrees)
    profiles = []
    for name, catalogue_name in wanted.items():
        base = found[catalogue_name]
        for kind in kinds:
            for degree in degrees:
                if base.supports_tensor_parallel(degree):
                    profile = built_in_profile(base, kind, degree, engine)
                    context = min((contexts or {}).get(name, 0), base.context_limit)
                    served = msgspec.structs.replace(
                        base,
                        name=name,
                        model=base.name if base.name != name else "",
                        kv_context_tokens=context if base.uneven_cache else 0,
                    )
                    profiles.append(msgspec.structs.replace(profile, llm=served))
    known = laws()
    return ProfileSet(
        profiles=tuple(profiles), share_law=known.share_law, contention=known.contention, cold_start=known.cold_start
    )
