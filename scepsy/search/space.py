"""The search space: what each LLM may get, what that costs in GPU units, and what it gives in seconds and calls per second.

An option is (GPU type, share, tensor-parallel degree, replicas). It exists when

- its instance type was profiled for every workflow that calls the LLM,
- the share is one the GPU type and the back end can enforce, and the degree fits an NVLink domain,
- its KV cache holds the longest traced call (``kv_capacity_tokens``). Calls in flight together need not all fit: those that do
  not wait, and the replay behind the curve had them wait;
- its replicas carry the LLM's calls at no more than ``max_utilisation``.

Units are the greatest common divisor of all shares, so that every cost is an integer.
"""

from dataclasses import dataclass
from functools import cached_property
from math import ceil, fsum, gcd

import numpy as np

from scepsy.cluster import GpuType
from scepsy.errors import Infeasible, InputError
from scepsy.plans import Allocation
from scepsy.predictors.aggregate import Floats, Integers, Stack, call_rates_per_s, capacity_calls_per_s
from scepsy.profile.model import kv_capacity_tokens
from scepsy.search.problem import Problem

Columns = tuple[Integers, Integers, Integers, Integers, Integers, Floats, Floats]
"""GPU type, share, degree, replicas, units, capacity, busy seconds: as in ``Options``."""


@dataclass(frozen=True)
class Options:
    """Every option of one LLM, as parallel arrays of K entries, ordered by (GPU type, degree, share, replicas)."""

    llm: str
    load_per_s: float
    """Calls per second from all workflows at their target rates."""
    gpu_type: Integers
    """Index into ``Space.gpu_types``."""
    share_pct: Integers
    tensor_parallel: Integers
    replicas: Integers
    units: Integers
    busy_s: Floats
    """Shape (workflows, K): busy seconds per run; 0 for workflows that do not call the LLM."""
    cost_s: Floats
    """Shape (K,): busy seconds weighted over workflows, what the search minimises."""
    capacity_per_s: Floats
    """Shape (K,): calls per second of all replicas when saturated."""

    def __len__(self) -> int:
        return len(self.units)

    def take(self, index: Integers) -> "Options":
        """The options at ``index``, in that order."""
        return Options(
            llm=self.llm,
            load_per_s=self.load_per_s,
            gpu_type=self.gpu_type[index],
            share_pct=self.share_pct[index],
            tensor_parallel=self.tensor_parallel[index],
            replicas=self.replicas[index],
            units=self.units[index],
            busy_s=self.busy_s[:, index],
            cost_s=self.cost_s[index],
            capacity_per_s=self.capacity_per_s[index],
        )

    def allocation(self, choice: int, gpu_types: tuple[str, ...]) -> Allocation:
        """Option number ``choice`` as a value."""
        return Allocation(
            llm=self.llm,
            share_pct=int(self.share_pct[choice]),
            tensor_parallel=int(self.tensor_parallel[choice]),
            replicas=int(self.replicas[choice]),
            gpu_type=gpu_types[int(self.gpu_type[choice])],
        )


@dataclass(frozen=True)
class Space:
    """The options of every LLM and the budget they compete for."""

    problem: Problem
    gpu_types: tuple[str, ...]
    unit_pct: int
    budgets: tuple[int, ...]
    """Units of each GPU type in the cluster."""
    llms: tuple[Options, ...]

    @cached_property
    def tool_s(self) -> float:
        """Weighted tool time: the part of the objective that no allocation changes."""
        uses, weights = self.problem.uses, self.problem.normal_weights
        return fsum(weight * use.tool_s for weight, use in zip(weights, uses, strict=True))

    def allocations(self, choices: tuple[int, ...]) -> tuple[Allocation, ...]:
        """The allocation of each LLM, from one option number for each."""
        return tuple(options.allocation(choice, self.gpu_types) for options, choice in zip(self.llms, choices, strict=True))

    @property
    def gpus_of(self) -> tuple[int, ...]:
        """GPUs of each type."""
        return tuple(budget * self.unit_pct // 100 for budget in self.budgets)


def build_space(problem: Problem, *, keep_all: bool = False, load_factor: float = 1.0) -> Space:
    """Enumerate every LLM's options at ``load_factor`` times the target rates.

    Replica counts beyond which a curve cannot fall any further are left out unless ``keep_all``: they cost more and give
    nothing.
    With ``keep_all`` overloaded options stay too, with infinite cost. Raises ``Infeasible`` when an LLM has no option,
    ``InputError`` when it has no curve.
    """
    cluster = problem.cluster
    present = sorted({node.gpu_type for node in cluster.nodes})
    counts = {name: sum(node.gpus for node in cluster.nodes if node.gpu_type == name) for name in present}
    shares = {name: allowed_shares(problem, cluster.gpu_type(name)) for name in present}
    unit = gcd(100, *(share for allowed in shares.values() for share in allowed))
    budgets = tuple(counts[name] * 100 // unit for name in present)
    loads = call_rates_per_s(problem.uses, [rate * load_factor for rate in problem.rates_per_s])
    build = _Builder(problem, tuple(present), shares, counts, unit, keep_all)
    llms = tuple(build.options(llm, load) for llm, load in loads.items())
    return Space(problem=problem, gpu_types=tuple(present), unit_pct=unit, budgets=budgets, llms=llms)


def allowed_shares(problem: Problem, gpu: GpuType) -> tuple[int, ...]:
    """Shares that the GPU type's partitions and the back end allow, ascending; 100 is always among them."""
    can = problem.capabilities
    if not (can.exact_gpu and can.sm_percent and can.mem_cap):
        return (100,)
    if gpu.partitions_pct:
        return tuple(sorted({*gpu.partitions_pct, 100}))
    return tuple(sorted({*range(problem.share_unit_pct, 101, problem.share_unit_pct), 100}))


def needed_tokens(problem: Problem, llm: str) -> int:
    """KV tokens an instance must hold at least: the longest traced call, or one block where that is not known."""
    return max(problem.longest_call_tokens.get(llm, 1), 1)


@dataclass(frozen=True)
class _Builder:
    problem: Problem
    gpu_types: tuple[str, ...]
    shares: dict[str, tuple[int, ...]]
    counts: dict[str, int]
    unit: int
    keep_all: bool

    def options(self, llm: str, load: float) -> Options:
        kinds = self.problem.index.kinds(llm)
        if not kinds:
            known = sorted({key[1] for key in self.problem.curves})
            raise InputError(f"LLM {llm}: no curve among the profiled LLMs ({', '.join(known)}): profile it first")
        possible = [kind for kind in kinds if self._usable(llm, *kind)]
        if not possible:
            raise Infeasible(self._why_unusable(llm))
        choices = self.problem.choices
        usable = [kind for kind in possible if choices.allow(llm, *kind[1:])]
        if not usable:
            raise Infeasible(choices.why_none(llm, possible))
        columns = self._columns(llm, load, usable)
        if columns is None:
            raise Infeasible(self._why_overloaded(llm, load, usable))
        gpu_type, share, degree, replicas, units, capacity, busy = columns
        weights = np.asarray(self.problem.normal_weights)
        with np.errstate(invalid="ignore"):
            cost = np.where(np.isfinite(busy).all(axis=0), weights @ np.where(np.isfinite(busy), busy, 0.0), np.inf)
        return Options(llm, load, gpu_type, share, degree, replicas, units, busy, cost, capacity)

    def _usable(self, llm: str, gpu_type: str, degree: int, share: int) -> bool:
        if gpu_type not in self.shares or share not in self.shares[gpu_type]:
            return False
        if degree > self._largest_domain(gpu_type):
            return False
        if degree > 1 and share < 100 and not self.problem.capabilities.tp_on_shared_gpu:
            return False
        profile = self.problem.profiles.of(llm, gpu_type, degree)
        return kv_capacity_tokens(profile, share) >= needed_tokens(self.problem, llm)

    def _largest_domain(self, gpu_type: str) -> int:
        return max(len(domain) for node in self.problem.cluster.nodes if node.gpu_type == gpu_type for domain in node.domains)

    def _columns(self, llm: str, load: float, usable: list[tuple[str, int, int]]) -> Columns | None:
        """Every usable instance type at every replica count, as columns; None when none carries the load."""
        index = self.problem.index
        callers = [(w, use) for w, use in enumerate(self.problem.uses) if use.calls_per_run(llm) > 0]
        stacks = [index.stack(use.workflow, llm) for _, use in callers]
        whole = [stack for stack in stacks if stack is not None]
        if len(whole) < len(stacks) or any(stack.kinds != whole[0].kinds for stack in whole):
            raise InputError(
                f"LLM {llm}: its curves differ in replica counts or utilisations by workflow: profile them together"
            )
        number = {kind: n for n, kind in enumerate(whole[0].kinds)}
        kinds = [kind for kind in usable if kind in number]
        pin = self.problem.choices.pin(llm)
        most = [self._most(load, whole, number[kind], kind, pin is not None) for kind in kinds]
        row = np.repeat([number[kind] for kind in kinds], most).astype(np.int64)
        replicas = np.concatenate([np.arange(1, count + 1, dtype=np.int64) for count in most]) if kinds else row
        which = np.repeat(np.arange(len(kinds)), most)
        capacity = np.min([stack.capacity(row, replicas) for stack in whole], axis=0) if len(row) else np.zeros(0)
        fits = load <= capacity * self.problem.max_utilisation
        if pin is not None:
            chosen = replicas == pin.replicas
            row, replicas, which, capacity, fits = row[chosen], replicas[chosen], which[chosen], capacity[chosen], fits[chosen]
        if not self.keep_all:
            row, replicas, which, capacity = row[fits], replicas[fits], which[fits], capacity[fits]
            fits = fits[fits]
        if len(row) == 0:
            return None
        busy = np.zeros((len(self.problem.uses), len(row)))
        for (w, _), stack in zip(callers, whole, strict=True):
            busy[w] = stack.busy(row, replicas, load)
        busy[:, ~fits] = np.inf
        gpu_type, degree, share = (
            np.array(values, dtype=np.int64)[which]
            for values in zip(*((self.gpu_types.index(name), degree, share) for name, degree, share in kinds), strict=True)
        )
        return gpu_type, share, degree, replicas, replicas * (share * degree // self.unit), capacity, busy

    def _most(self, load: float, stacks: list[Stack], row: int, kind: tuple[str, int, int], every: bool) -> int:
        """Replicas worth listing: what the GPUs hold, and (unless ``every``) no more than change the curves."""
        gpu_type, degree, share = kind
        most = self.counts[gpu_type] * 100 // (share * degree)
        if self.keep_all or every:
            return most
        flat = max(ceil(load / float(stack.capacity_per_s[row].min() * stack.utilisation[0])) for stack in stacks)
        return min(most, max(flat, *(int(stack.counts[-1]) for stack in stacks)))

    def _why_unusable(self, llm: str) -> str:
        need = needed_tokens(self.problem, llm)
        best, where = -1, "no profiled degree"
        for gpu_type in self.gpu_types:
            for degree in self.problem.profiles.degrees(llm, gpu_type):
                if degree <= self._largest_domain(gpu_type):
                    room = kv_capacity_tokens(self.problem.profiles.of(llm, gpu_type, degree), 100)
                    if room > best:
                        best, where = room, f"{degree} x {gpu_type}"
        weights = self.problem.profiles.llm(llm).weight_bytes / 1e9
        if best < 0:
            return f"LLM {llm}: its {weights:.1f} GB of weights fit no instance this cluster can hold (largest tried: {where})"
        if best < need:
            return f"LLM {llm}: its longest call has {need} tokens, the largest KV cache ({where}) holds {best}"
        return f"LLM {llm}: no profiled instance type is one that this cluster and back end can enforce"

    def _why_overloaded(self, llm: str, load: float, usable: list[tuple[str, int, int]]) -> str:
        best = 0.0
        pin = self.problem.choices.pin(llm)
        for gpu_type, degree, share in usable:
            most = self.counts[gpu_type] * 100 // (share * degree)
            if pin is not None:
                most = pin.replicas if pin.replicas <= most else 0
            found = self.problem.index.by_workflow(llm, gpu_type, degree, share)
            for family in found.values():
                if most:
                    best = max(best, float(capacity_calls_per_s(family, most)))
        limit = best * self.problem.max_utilisation
        gpus = sum(self.counts.values())
        if pin is not None and not limit:
            return f"LLM {llm}: --pin {pin} takes {pin.tensor_parallel * pin.share_pct * pin.replicas / 100:g} GPUs of {gpus}"
        if pin is not None:
            return (
                f"LLM {llm}: load {load:.4g} calls/s exceeds the {limit:.4g} calls/s that --pin {pin} carries "
                f"({load / limit:.2f} times): give it more, or lower --rate"
            )
        return (
            f"LLM {llm}: load {load:.4g} calls/s exceeds the {limit:.4g} calls/s that all {gpus} GPUs could carry for it alone "
            f"({load / limit if limit else float('inf'):.2f} times)"
        )
