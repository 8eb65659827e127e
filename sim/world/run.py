"""``simulate``: a plan and a workload in, records out."""

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

import pyarrow as pa

from scepsy.arrivals import issue, users
from scepsy.backend import Workload
from scepsy.errors import InputError, SimulationError
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.records import CALL_SCHEMA, RUN_SCHEMA, Records
from scepsy.version import __version__
from sim.compiled.build import NotLoaded
from sim.compiled.engine import SimulationInputs, simulate_compiled
from sim.compiled.machine import TooLong
from sim.engine.ahead import make_replica
from sim.engine.clock import TICKS_PER_S, Kernel
from sim.engine.gpu import GpuState
from sim.engine.prefix import PrefixKeys
from sim.engine.queue import CallQueue, OrderedQueue, Queue
from sim.engine.replica import ReplicaSpec
from sim.engine.spec import replica_spec, spec_of
from sim.policies.orders import QUEUE_ORDERS
from sim.policies.routers import ROUTERS
from sim.world.choice import Choice, choose
from sim.world.control import Control, Policy
from sim.world.recorder import RecordWriter, Sink
from sim.world.timeline import Timeline, watch
from sim.world.world import World

__all__ = ["build", "instance_use", "queue_maker", "run_to_the_end", "simulate", "spec_of"]

T = TypeVar("T")


class Metered(Protocol):
    """What is read of an instance at the end."""

    @property
    def name(self) -> str: ...
    @property
    def spec(self) -> ReplicaSpec: ...
    @property
    def busy_ticks(self) -> int: ...
    @property
    def decode_ticks(self) -> int: ...
    @property
    def kv_block_ticks(self) -> int: ...
    @property
    def peak_blocks(self) -> int: ...
    @property
    def iterations(self) -> int: ...
    @property
    def prefilled_tokens(self) -> int: ...
    @property
    def preemptions(self) -> int: ...


def simulate(
    plan: Plan,
    workload: Workload,
    *,
    profiles: ProfileSet,
    router: str = "least-outstanding",
    queue_order: str = "fcfs",
    policies: Sequence[Policy] = (),
    timeline: Timeline | None = None,
    sink: Sink | None = None,
    engine: str = "auto",
) -> Records:
    """Replay the workload on the plan's instances; bind the keyword arguments with ``partial`` to get a ``Backend``.

    ``engine``: "simpy" models everything; "compiled" (``sim.compiled``) is faster, has the same results, and raises
    ``InputError`` for what it does not model; "auto" takes it where it models the case and can be had (``sim.world.choice``).
    The metadata say which ("engine") and why ("engine_why"). ``policies`` act on the running cluster
    (``sim.world.control``), ``timeline`` watches it (``sim.world.timeline``). With ``sink``, batches of records go there as
    they come and the returned tables are empty.

    Raises ``InputError`` for an unknown name, an LLM without profile or a plan that cannot be built, ``SimulationError``
    when the simulated system cannot go on.
    """
    kept: dict[str, list[pa.RecordBatch]] = {"runs": [], "calls": []}

    def keep(table: str, batch: pa.RecordBatch) -> None:
        kept[table].append(batch)

    _named(ROUTERS, "router", router)
    queue_maker(queue_order)
    case = SimulationInputs(plan, workload, profiles, router, queue_order)
    _check_llms(plan, workload)
    chosen = choose(engine, case, policies=bool(policies), timeline=timeline is not None, streamed=sink is not None)
    meters: Sequence[Metered] = ()
    if chosen.engine == "compiled":
        try:
            now, meters = simulate_compiled(case, sink or keep)
        except (NotLoaded, TooLong) as error:
            if engine != "auto":
                raise
            chosen, kept = Choice("simpy", str(error)), {"runs": [], "calls": []}
    if chosen.engine == "simpy":
        now, meters = _with_simpy(case, policies, timeline, sink or keep)
    meta = {
        "source": "simulated",
        "seed": str(workload.seed),
        "planner": plan.planner,
        "router": router,
        "queue_order": queue_order,
        "engine": chosen.engine,
        "engine_why": chosen.why,
        "version": __version__,
        "simulated_s": repr(now / TICKS_PER_S),
        "instances": json.dumps([instance_use(each, now) for each in meters]),
    }
    return Records(
        runs=pa.Table.from_batches(kept["runs"], RUN_SCHEMA), calls=pa.Table.from_batches(kept["calls"], CALL_SCHEMA), meta=meta
    )


def _with_simpy(
    case: SimulationInputs, policies: Sequence[Policy], timeline: Timeline | None, sink: Sink
) -> tuple[int, Sequence[Metered]]:
    """Simulate with the SimPy engine; return its clock, and the instances."""
    plan, workload, profiles, router = case.plan, case.workload, case.profiles, case.router
    recorder = RecordWriter(sink)
    world = build(plan, workload, profiles=profiles, router=router, queue_order=case.queue_order, recorder=recorder)
    if timeline is not None:
        watch(world, timeline)
    if policies:
        make_router = ROUTERS[router]
        control = Control(world, plan, profiles, lambda llm: make_router(llm, workload.seed), queue_maker(case.queue_order))
        for policy in policies:
            world.env.process(policy(control))
    run_to_the_end(world)
    recorder.close()
    return world.env.now, world.replicas


def build(
    plan: Plan, workload: Workload, *, profiles: ProfileSet, router: str, queue_order: str, recorder: RecordWriter
) -> World:
    """Set up instances, routers and arrivals, nothing simulated yet."""
    make_router = _named(ROUTERS, "router", router)
    make_queue = queue_maker(queue_order)
    env = Kernel()
    block_tokens = {profile.llm.name: profile.engine.block_tokens for profile in profiles.profiles}
    traces = [(item.trace, item.arrivals.kind != "trace") for item in workload.streams]
    world = World(env, recorder, PrefixKeys(traces, block_tokens))
    _check_llms(plan, workload)
    gpus = world.gpus = {gpu: GpuState(str(gpu), profiles.contention) for gpu in plan.cluster.gpus}
    for number, instance in enumerate(plan.instances):
        spec = replica_spec(plan, instance, profiles)
        replica = make_replica(env, number, spec, [gpus[gpu] for gpu in instance.gpus], make_queue())
        world.replicas.append(replica)
        if instance.llm not in world.routers:
            world.routers[instance.llm] = make_router(instance.llm, workload.seed)
        world.routers[instance.llm].add(replica)
    world.load(workload, issue(workload), users(workload))
    return world


def run_to_the_end(world: World) -> None:
    """Run until the last run has ended (or the drain time is over). Raises ``SimulationError`` when it stalls before.

    Python's cycle collector rests meanwhile: nothing that a call leaves behind is cyclic, and looking for cycles among the open
    calls would cost a tenth of the time.
    """
    env, collecting = world.env, gc.isenabled()
    gc.disable()
    try:
        if not world.done.triggered:
            env.run(until=world.done)
    except RuntimeError as error:
        if world.done.triggered:
            raise
        raise SimulationError(
            f"the simulation stalled at {env.now / TICKS_PER_S:.6f} s with {len(world.open)} of {world.runs_issued} runs open "
            f"and {len(world.in_flight())} calls in flight: no event is left"
        ) from error
    finally:
        if collecting:
            gc.enable()
    world.finish()


def _named(registry: Mapping[str, T], field: str, name: str) -> T:
    if name not in registry:
        raise InputError(f"{field} is {name!r}: must be one of {', '.join(sorted(registry))}")
    return registry[name]


def queue_maker(order: str) -> Callable[[], CallQueue]:
    """A factory of empty queues of one order."""
    if order == "fcfs":
        return Queue
    return partial(OrderedQueue, _named(QUEUE_ORDERS, "queue_order", order))


def _check_llms(plan: Plan, workload: Workload) -> None:
    allocated = {instance.llm for instance in plan.instances}
    for item in workload.streams:
        for llm in item.trace.llms:
            if llm not in allocated:
                raise SimulationError(
                    f"workflow {item.workflow} calls {llm}, of which the plan has 0 instances "
                    f"(it has {', '.join(sorted(allocated))})"
                )


def instance_use(replica: Metered, now: int) -> dict[str, float | int | str]:
    """What one instance did in all: the entries of ``meta["instances"]``."""
    blocks = replica.spec.kv_blocks
    return {
        "instance": replica.name,
        "llm": replica.spec.llm,
        "busy_s": replica.busy_ticks / TICKS_PER_S,
        "decode_s": replica.decode_ticks / TICKS_PER_S,
        "gpu_s": replica.busy_ticks / TICKS_PER_S * replica.spec.tensor_parallel,
        "sm_s": replica.busy_ticks / TICKS_PER_S * replica.spec.tensor_parallel * replica.spec.share_pct / 100,
        "kv_mean": replica.kv_block_ticks / (blocks * now) if now else 0.0,
        "kv_peak": replica.peak_blocks / blocks,
        "iterations": replica.iterations,
        "prefill_tokens": replica.prefilled_tokens,
        "preemptions": replica.preemptions,
    }
