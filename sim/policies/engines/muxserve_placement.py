"""MuxServe's placement: LLMs onto meshes of GPUs, several per mesh, each with a decode share of the SMs. Pure.

Source: MuxServe (ICML 2024), Algorithms 1 and 2 as described in public. An LLM sits on one mesh at a tensor-parallel degree
equal to the mesh's size; throughput of LLM m with batch b_m is ``b_m / (Σ_k prefill_k + decode_m · output_m)`` over all LLMs k.
``copies`` is ours: published placement gives every LLM one instance; with more, each copy is placed as an LLM of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from math import fsum

import numpy as np
import numpy.typing as npt

from scepsy.backend import Stream
from scepsy.errors import Infeasible
from scepsy.profile.model import ProfileSet
from scepsy.profile.share import ShareLaw
from sim.policies.engines.pool import PooledLlm

MESH_SIZES = (1, 2, 4, 8)
DECODE_SHARES_PCT = (30, 40, 50, 60, 70, 80, 90)
OVERCOMMIT_PCT = 20
MAX_BATCH = 256


@dataclass(frozen=True)
class Demand:
    """What is asked of one LLM (or of one copy of it)."""

    llm: str
    copy: int
    rate_per_s: float
    """Calls per second."""
    input_tokens: float
    """Mean prompt tokens."""
    output_tokens: float
    """Mean generated tokens; 0: a pooling model."""

    @property
    def name(self) -> str:
        """``<llm>-<copy>``."""
        return f"{self.llm}-{self.copy}"


@dataclass(frozen=True)
class Tenant:
    """One LLM on a mesh."""

    demand: Demand
    decode_share_pct: int


@dataclass(frozen=True)
class Mesh:
    """GPUs that work as one group, and who shares them."""

    node: int
    size: int
    tenants: tuple[Tenant, ...] = field(default=())

    @property
    def decode_pct(self) -> int:
        """Sum of decode shares."""
        return sum(tenant.decode_share_pct for tenant in self.tenants)


@dataclass(frozen=True)
class Estimator:
    """Throughput from step models."""

    profiles: ProfileSet
    gpu_type: str

    def served(self, llm: str, size: int) -> PooledLlm | None:
        """The LLM at a degree; None when it is not profiled there."""
        try:
            return PooledLlm.of(self.profiles.of(llm, self.gpu_type, size))
        except KeyError:
            return None

    @property
    def law(self) -> ShareLaw:
        """What a share costs."""
        return self.profiles.share_law

    def kv_bytes(self, size: int, llms: Sequence[str]) -> float:
        """KV memory per GPU of a mesh that holds the weights of ``llms``; negative when they do not fit."""
        profiles = [self.profiles.of(llm, self.gpu_type, size) for llm in llms]
        gpu, engine = profiles[0].gpu, profiles[0].engine
        weights = fsum(profile.llm.weight_bytes / size for profile in profiles)
        return gpu.memory_bytes * engine.memory_utilization - weights - engine.activation_bytes

    def batch_limits(self, size: int, demands: Sequence[Demand]) -> list[int]:
        """Largest batch of each LLM: KV split by rate · KV per token."""
        free = self.kv_bytes(size, [demand.llm for demand in demands])
        if free < 0:
            return [0] * len(demands)
        needs = []
        for demand in demands:
            profile = self.profiles.of(demand.llm, self.gpu_type, size)
            needs.append(profile.llm.kv_bytes_per_token_per_gpu(size))
        weights = [demand.rate_per_s * need for demand, need in zip(demands, needs, strict=True)]
        limits = []
        for demand, need, weight in zip(demands, needs, weights, strict=True):
            per_call = need * (demand.input_tokens + demand.output_tokens)
            part = free * weight / fsum(weights) if need else 0.0
            limits.append(min(MAX_BATCH, int(part / per_call)) if need else MAX_BATCH)
        return limits

    def throughputs(self, size: int, tenants: Sequence[Tenant]) -> list[float]:
        """Calls per second of each tenant: the smallest batches that meet the rates, or the largest that fit."""
        demands = [tenant.demand for tenant in tenants]
        models = [self.served(demand.llm, size) for demand in demands]
        if any(model is None for model in models):
            return [0.0] * len(tenants)
        limits = self.batch_limits(size, demands)
        batches = [min(1, limit) for limit in limits]
        while True:
            prefill = fsum(
                model.prefill_s(round(demand.input_tokens * batch), round(demand.input_tokens)) if batch else 0.0
                for model, demand, batch in zip(models, demands, batches, strict=True)
                if model is not None
            )
            found = []
            for tenant, model, batch in zip(tenants, models, batches, strict=True):
                assert model is not None
                demand = tenant.demand
                context = round(batch * (demand.input_tokens + demand.output_tokens / 2))
                decode = model.step.step_s(0, 0, batch, context) * self.law.decode_factor(batch, tenant.decode_share_pct or 100)
                found.append(batch / (prefill + decode * demand.output_tokens) if batch else 0.0)
            grow = [
                n
                for n, (rate, demand) in enumerate(zip(found, demands, strict=True))
                if rate < demand.rate_per_s and batches[n] < limits[n]
            ]
            if not grow:
                return found
            for n in grow:
                batches[n] = min(limits[n], 2 * batches[n])


def candidate(estimator: Estimator, demand: Demand, size: int) -> Tenant | None:
    """Algorithm 2: the smallest decode share at which the LLM alone on such a mesh meets its rate, else the best one.

    None when the LLM does not fit or has no profile at that degree. A pooling model never decodes: its share is 0.
    """
    if estimator.served(demand.llm, size) is None or estimator.batch_limits(size, [demand])[0] < 1:
        return None
    if demand.output_tokens == 0:
        return Tenant(demand, 0)
    best, best_rate = None, -1.0
    for share in DECODE_SHARES_PCT:
        tenant = Tenant(demand, share)
        rate = estimator.throughputs(size, [tenant])[0]
        if rate >= demand.rate_per_s:
            return tenant
        if rate > best_rate:
            best, best_rate = tenant, rate
    return best


def node_partitions(gpus: int) -> Iterator[tuple[int, ...]]:
    """Every way to cut a node into meshes of 1, 2, 4 and 8 GPUs, largest mesh first.

    >>> sorted(node_partitions(4))
    [(1, 1, 1, 1), (2, 1, 1), (2, 2), (4,)]
    """

    def cut(left: int, largest: int) -> Iterator[tuple[int, ...]]:
        if left == 0:
            yield ()
        for size in MESH_SIZES:
            if size <= min(left, largest):
                for rest in cut(left - size, size):
                    yield (size, *rest)

    yield from cut(gpus, gpus)


def cluster_partitions(nodes: Sequence[int]) -> Iterator[tuple[tuple[int, int], ...]]:
    """(node, size) of every mesh, for every way to cut every node; equal nodes are not told apart."""
    if len(set(nodes)) == 1:
        for combination in combinations_with_replacement(sorted(node_partitions(nodes[0])), len(nodes)):
            yield tuple((node, size) for node, sizes in enumerate(combination) for size in sizes)
        return
    options: list[tuple[tuple[int, int], ...]] = [()]
    for node, gpus in enumerate(nodes):
        options = [(*front, *((node, size) for size in sizes)) for front in options for sizes in sorted(node_partitions(gpus))]
    yield from options


def size_weight(parameters: float) -> float:
    """MuxServe's weight by model size: 7B 1, 13B 2, 30B 4, 65B 8; in between the next smaller one's, below 7B in proportion.

    >>> [size_weight(p) for p in (7e9, 8e9, 13e9, 70e9, 3.5e9)]
    [1.0, 1.0, 2.0, 8.0, 0.5]
    """
    for least, weight in ((65e9, 8.0), (30e9, 4.0), (13e9, 2.0), (6.7e9, 1.0)):
        if parameters >= least:
            return weight
    return parameters / 7e9


def place(demands: Sequence[Demand], nodes: Sequence[int], estimator: Estimator, *, alone: bool = False) -> tuple[Mesh, ...]:
    """Algorithm 1: the best partition, filled greedily. Raises ``Infeasible`` when no partition takes every LLM.

    ``alone``: one LLM per mesh at most, so that nothing is shared.

    A partition is judged by its total throughput, each LLM's counted up to its rate. Ties that the paper leaves open: among
    meshes of one size the emptiest, among partitions the largest least headroom.
    """
    weights = {demand.llm: size_weight(estimator.profiles.llm(demand.llm).parameters) for demand in demands}
    order = sorted(demands, key=lambda d: (-d.rate_per_s * weights[d.llm], d.name))
    options = {(d.name, size): candidate(estimator, d, size) for d in demands for size in MESH_SIZES}
    best: tuple[tuple[float, float], tuple[Mesh, ...]] | None = None
    known: dict[tuple[int, tuple[str, ...]], list[float]] = {}
    for partition in cluster_partitions(nodes):
        meshes = _fill([Mesh(node=node, size=size) for node, size in partition], order, options, estimator, known, alone)
        if meshes is None:
            continue
        rates = [
            (rate, t.demand.rate_per_s)
            for mesh in meshes
            for rate, t in zip(_rates(mesh, estimator, known), mesh.tenants, strict=True)
        ]
        rank = (fsum(min(rate, want) for rate, want in rates), min(rate / want for rate, want in rates))
        if best is None or rank > best[0]:
            best = (rank, meshes)
    if best is None:
        raise Infeasible(
            f"muxserve: no partition of {sum(nodes)} GPUs into meshes takes all of {', '.join(d.name for d in demands)} within "
            f"{100 + OVERCOMMIT_PCT} % of the SMs and the memory"
        )
    return best[1]


Known = dict[tuple[int, tuple[str, ...]], list[float]]


def _rates(mesh: Mesh, estimator: Estimator, known: Known) -> list[float]:
    key = (mesh.size, tuple(tenant.demand.name for tenant in mesh.tenants))
    if key not in known:
        known[key] = estimator.throughputs(mesh.size, mesh.tenants)
    return known[key]


def _capped(mesh: Mesh, estimator: Estimator, known: Known) -> float:
    if not mesh.tenants:
        return 0.0
    rates = _rates(mesh, estimator, known)
    return fsum(min(rate, tenant.demand.rate_per_s) for rate, tenant in zip(rates, mesh.tenants, strict=True))


def _fill(
    meshes: list[Mesh],
    order: Sequence[Demand],
    options: Mapping[tuple[str, int], Tenant | None],
    estimator: Estimator,
    known: Known,
    alone: bool,
) -> tuple[Mesh, ...] | None:
    for demand in order:
        best: tuple[tuple[float, int, int, int], int, Mesh] | None = None
        seen: set[tuple[int, tuple[str, ...]]] = set()
        for number, mesh in enumerate(meshes):
            like = (mesh.size, tuple(tenant.demand.name for tenant in mesh.tenants))
            tenant = options[demand.name, mesh.size]
            if (
                like in seen
                or tenant is None
                or (alone and mesh.tenants)
                or mesh.decode_pct + tenant.decode_share_pct > 100 + OVERCOMMIT_PCT
            ):
                continue
            seen.add(like)
            fuller = Mesh(node=mesh.node, size=mesh.size, tenants=(*mesh.tenants, tenant))
            if min(estimator.batch_limits(mesh.size, [t.demand for t in fuller.tenants])) < 1:
                continue
            gain = _capped(fuller, estimator, known) - _capped(mesh, estimator, known)
            rank = (-round(gain, 9), mesh.size, len(mesh.tenants), number)
            if best is None or rank < best[0]:
                best = (rank, number, fuller)
        if best is None:
            return None
        meshes[best[1]] = best[2]
    return tuple(mesh for mesh in meshes if mesh.tenants)


def demands(streams: Sequence[Stream], copies: int) -> list[Demand]:
    """What every LLM is asked: calls per second and mean tokens over all workflows, divided over its copies."""
    totals: dict[str, npt.NDArray[np.float64]] = {}
    for stream in streams:
        weight = (stream.arrivals.rate_per_s or 1.0) / len(stream.trace.runs)
        for run in stream.trace.runs:
            for call in run.calls:
                sums = totals.setdefault(call.llm, np.zeros(3))
                sums += weight * np.array([1.0, call.input_tokens, call.output_tokens])
    return [
        Demand(
            llm=llm,
            copy=copy,
            rate_per_s=float(rate) / copies,
            input_tokens=float(tokens / rate),
            output_tokens=float(out / rate),
        )
        for llm, (rate, tokens, out) in totals.items()
        for copy in range(copies)
    ]
