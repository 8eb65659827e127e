"""``simulate``: a plan and a workload in, records out."""

import gc
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import pyarrow as pa
from scepsy import __version__
from scepsy.arrivals import issue, users
from scepsy.backend import Workload
from scepsy.errors import InputError, SimulationError
from scepsy.plan import Instance, Plan
from scepsy.profile.model import Profile, ProfileSet, kv_capacity_tokens
from scepsy.records import CALL_SCHEMA, RUN_SCHEMA, Records
from sim.clock import TICKS_PER_S, Kernel
from sim.gpu import GpuState
from sim.prefix import PrefixKeys
from sim.queue import QUEUE_ORDERS, CallQueue, OrderedQueue, Queue
from sim.recorder import Recorder, Sink
from sim.replica import Replica, ReplicaSpec
from sim.router import ROUTERS
from sim.world import World


T = TypeVar("T")


def simulate(
    plan: Plan,
    workload: Workload,
    *,
    profiles: ProfileSet,
    router: str = "least-outstanding",
    queue_order: str = "fcfs",
    sink: Sink | None = None,
) -> Records:
    """Replay the workload on the plan's instances; bind the keyword arguments with ``partial`` to get a ``Backend``.

    With ``sink``, batches of records go there as they come and the returned tables are empty. Raises ``InputError`` for
    an unknown name, an LLM without profile or a plan that cannot be built, ``SimulationError`` when the
    simulated system cannot go on.
    """
    kept: dict[str, list[pa.RecordBatch]] = {"runs": [], "calls": []}

    def keep(table: str, batch: pa.RecordBatch) -> None:
        kept[table].append(batch)

    recorder = Recorder(sink or keep)
    world = build(plan, workload, profiles=profiles, router=router, queue_order=queue_order, recorder=recorder)
    run_to_the_end(world)
    recorder.close()
    meta = {
        "source": "simulated",
        "seed": str(workload.seed),
        "planner": plan.planner,
        "router": router,
        "queue_order": queue_order,
        "version": __version__,
        "simulated_s": repr(world.env.now / TICKS_PER_S),
        "instances": json.dumps([instance_use(replica, world.env.now) for replica in world.replicas]),
    }
    return Records(
        runs=pa.Table.from_batches(kept["runs"], RUN_SCHEMA), calls=pa.Table.from_batches(kept["calls"], CALL_SCHEMA), meta=meta
    )


def build(plan: Plan, workload: Workload, *, profiles: ProfileSet, router: str, queue_order: str, recorder: Recorder) -> World:
    """Set up instances, routers and arrivals, nothing simulated yet."""
    make_router = _named(ROUTERS, "router", router)
    make_queue = queue_maker(queue_order)
    env = Kernel()
    block_tokens = {profile.llm.name: profile.engine.block_tokens for profile in profiles.profiles}
    traces = [(item.trace, item.arrivals.kind != "trace") for item in workload.streams]
    world = World(env, recorder, PrefixKeys(traces, block_tokens))
    _check_llms(plan, workload)
    gpus = {gpu: GpuState(str(gpu), profiles.contention) for gpu in plan.cluster.gpus}
    for number, instance in enumerate(plan.instances):
        spec = replica_spec(plan, instance, profiles)
        replica = Replica(env, number, spec, [gpus[gpu] for gpu in instance.gpus], make_queue())
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
                    f"workflow {item.workflow} calls {llm}, of which the plan has 0 instances (it has {', '.join(sorted(allocated))})"
                )


def profile_of(plan: Plan, instance: Instance, profiles: ProfileSet) -> Profile:
    """The profile of one placed instance. Raises ``InputError`` when there is none."""
    gpu_type = plan.cluster.type_of(instance.gpus[0]).name
    try:
        return profiles.of(instance.llm, gpu_type, instance.tensor_parallel)
    except KeyError as error:
        raise InputError(f"instance {instance.name}: {error.args[0]}") from error


def replica_spec(plan: Plan, instance: Instance, profiles: ProfileSet) -> ReplicaSpec:
    """Everything an instance needs to know. Raises ``InputError`` when its memory holds no KV cache."""
    profile = profile_of(plan, instance, profiles)
    return spec_of(profile, instance.name, instance.share_pct, profiles, memory_bytes=instance.memory_bytes)


def spec_of(
    profile: Profile, name: str, share_pct: int, profiles: ProfileSet, *, memory_bytes: int | None = None
) -> ReplicaSpec:
    """The same from a profile and a share; ``memory_bytes`` per GPU defaults to the share's part."""
    engine, llm = profile.engine, profile.llm
    if engine.max_num_batched_tokens < engine.max_num_seqs:
        raise InputError(
            f"profile of {llm.name}: max_num_batched_tokens is {engine.max_num_batched_tokens}: must be >= max_num_seqs ({engine.max_num_seqs})"
        )
    tokens = kv_capacity_tokens(profile, share_pct)
    if memory_bytes is not None and llm.kv_bytes_per_token > 0:
        free = memory_bytes - llm.weight_bytes / profile.tensor_parallel - engine.activation_bytes * share_pct / 100
        tokens = int(free // llm.kv_bytes_per_token_per_gpu(profile.tensor_parallel))
    blocks = tokens // engine.block_tokens
    if blocks < 1:
        raise InputError(
            f"instance {name}: {share_pct} % of a {profile.gpu.name} leaves {tokens} tokens of KV cache: must hold a block"
        )
    demand = profile.decode_bandwidth_demand / profiles.share_law.decode_factor(1, share_pct)
    return ReplicaSpec(
        name=name,
        llm=llm.name,
        step=profile.step,
        engine=engine,
        share_law=profiles.share_law,
        share_pct=share_pct,
        kv_blocks=blocks,
        context_limit=llm.context_limit,
        bandwidth_demand=demand,
        weight=share_pct * profile.tensor_parallel,
        tensor_parallel=profile.tensor_parallel,
    )


def instance_use(replica: Replica, now: int) -> dict[str, float | int | str]:
    """What one instance did in all: the entries of ``meta["instances"]``."""
    blocks = replica.pool.total
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
