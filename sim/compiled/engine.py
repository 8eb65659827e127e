"""A plan and a workload through the compiled core; and what it does not model, said in words."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import fsum

from scepsy.arrivals import stream_names
from scepsy.backend import Workload
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.workload import Trace
from sim.compiled import layout as at
from sim.compiled import unusable
from sim.compiled.arrival_rows import Door, Homes
from sim.compiled.machine import EndRule, Machine, Meters, Setup
from sim.compiled.rows import RowBatches, Sink
from sim.compiled.templates import Templates
from sim.engine.clock import ticks
from sim.engine.prefix import PrefixKeys
from sim.engine.replica import ReplicaSpec
from sim.policies.orders import QUEUE_ORDERS
from sim.policies.orders.plas import Plas
from sim.policies.orders.shortest_remaining import shortest_remaining_work
from sim.policies.routers import ROUTERS
from sim.policies.routers.builtin import (
    Affinity,
    HashAffinity,
    LeastKvLoad,
    LeastOutstanding,
    PowerOfTwo,
    RoundRobin,
    WeightedByShare,
)
from sim.policies.routers.plas import PlasRouter

_ROUTER_CLASSES: dict[object, int] = {
    RoundRobin: at.ROUND_ROBIN,
    LeastOutstanding: at.LEAST_OUTSTANDING,
    LeastKvLoad: at.LEAST_KV_LOAD,
    WeightedByShare: at.WEIGHTED,
    PowerOfTwo: at.POWER_OF_TWO,
    Affinity: at.AFFINITY,
    HashAffinity: at.HASH_AFFINITY,
    PlasRouter: at.PLAS_ROUTER,
}
MOST_TENANTS = 62
"""Instances on one GPU: their states are bits of a word."""


def router_number(name: str) -> int | None:
    """The core's number of a registered router; none: it does not know that class."""
    return _ROUTER_CLASSES.get(ROUTERS.get(name))


def queue_number(name: str) -> tuple[int, int, float] | None:
    """(Number, tokens of the first level, β) of a registered queue order; none: the core does not know it."""
    key = QUEUE_ORDERS.get(name)
    if name == "fcfs":
        return at.FCFS, 1, 0.0
    if key is shortest_remaining_work:
        return at.SHORTEST_REMAINING, 1, 0.0
    if type(key) is Plas and key.first_level_tokens >= 1 and key.beta >= 0:
        return at.PLAS, key.first_level_tokens, key.beta
    return None


@dataclass
class SimulationInputs:
    """What is to be simulated."""

    plan: Plan
    workload: Workload
    profiles: ProfileSet
    router: str
    queue_order: str
    specs: list[ReplicaSpec] = field(default_factory=list)


def refusal(case: SimulationInputs, *, policies: bool = False, timeline: bool = False) -> str | None:
    """Why the compiled core does not model a case; none: it does."""
    if policies:
        return "policies act on the cluster while it runs"
    if timeline:
        return "a timeline watches every iteration"
    if router_number(case.router) is None:
        return f"router {case.router!r} is not one of its own"
    if queue_number(case.queue_order) is None:
        return f"queue order {case.queue_order!r} is not one of its own"
    tenants = Counter(gpu for instance in case.plan.instances for gpu in instance.gpus)
    if max(tenants.values(), default=0) > MOST_TENANTS:
        return f"more than {MOST_TENANTS} instances share a GPU"
    return _sessions_look_like_runs(case) or unusable()  # last: it loads the compiler


def longest_span_s(case: SimulationInputs) -> float:
    """More than any instance can decode for without anything to decide: the longest output, every iteration the slowest."""
    longest = max(call.output_tokens for item in case.workload.streams for run in item.trace.runs for call in run.calls)
    drawn: dict[object, list[float]] = defaultdict(list)
    for spec, instance in zip(case.specs, case.plan.instances, strict=True):
        for gpu in instance.gpus:
            drawn[gpu].append(spec.bandwidth_demand)
    demand, law = max(map(fsum, drawn.values())), case.profiles.contention
    return max(longest * law.slowdown(demand, demand) * _slowest_iteration_s(spec) for spec in case.specs)


def _slowest_iteration_s(spec: ReplicaSpec) -> float:
    sequences, step = spec.engine.max_num_seqs, spec.step
    factor = max(spec.share_law.decode_factor(batch, spec.share_pct) for batch in (1, sequences))
    return factor * step.step_s(0, 0.0, sequences, spec.kv_blocks * spec.engine.block_tokens)


def _sessions_look_like_runs(case: SimulationInputs) -> str | None:
    """Routers that remember sessions by name take a session called like a run for that run."""
    names = "|".join(re.escape(name) for name in stream_names(case.workload))
    like = re.compile(rf"({names})(-u\d+)?-\d+")
    for item in case.workload.streams:
        for run in item.trace.runs:
            if run.session and like.fullmatch(run.session):
                return f"session {run.session!r} is called like a run"
    return None


_made: list[tuple[object, Templates]] = []
"""The templates of the last simulation: plans are often tried on the same traces, and templates take longer than a short
simulation."""


def _templates_of(traces: list[tuple[Trace, bool]], block_tokens: dict[str, int], llms: list[str]) -> Templates:
    key = ([(id(trace), sampled) for trace, sampled in traces], block_tokens, llms)
    if not _made or _made[0][0] != key:
        templates = Templates(PrefixKeys(traces, block_tokens), llms)
        templates.traces = [trace for trace, _ in traces]  # kept alive, so that their ids stay theirs
        _made[:] = [(key, templates)]
    return _made[0][1]


def simulate_compiled(case: SimulationInputs, sink: Sink) -> tuple[int, list[Meters]]:
    """Simulate a case that ``refusal`` does not refuse; rows go to the sink. Returns the clock, ticks, and the meters."""
    plan, workload = case.plan, case.workload
    llms = list(dict.fromkeys(instance.llm for instance in plan.instances))
    block_tokens = {profile.llm.name: profile.engine.block_tokens for profile in case.profiles.profiles}
    traces = [(item.trace, item.arrivals.kind != "trace") for item in workload.streams]
    templates = _templates_of(traces, block_tokens, llms)
    router, order = router_number(case.router), queue_number(case.queue_order)
    assert router is not None
    assert order is not None
    gpus = {gpu: number for number, gpu in enumerate(plan.cluster.gpus)}
    setup = Setup(
        specs=case.specs,
        places=[[gpus[gpu] for gpu in instance.gpus] for instance in plan.instances],
        contention=case.profiles.contention,
        llms=llms,
        router=router,
        order=order[0],
        seed=workload.seed,
        first_level_tokens=order[1],
        beta=order[2],
    )
    names = [[spec.name for spec in case.specs if spec.llm == llm] for llm in llms]
    door = Door(workload, templates, Homes(templates, names) if router == at.HASH_AFFINITY else None)
    machine = Machine(
        setup,
        templates,
        limits_of(workload),
        door.arrivals(),
        door.users(),
        door.names,
        RowBatches(sink, templates, door.names, llms, [spec.name for spec in case.specs]),
    )
    machine.run()
    return machine.now, machine.meters()


def limits_of(workload: Workload) -> EndRule:
    """When a workload ends."""
    return EndRule(
        runs=workload.runs,
        horizon=None if workload.horizon_s is None else ticks(workload.horizon_s),
        drain=None if workload.drain_s is None else ticks(workload.drain_s),
    )
