"""One case through both engines, at the level of instances: small KV caches and odd limits, which no plan would have."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from scepsy.arrivals import issue, users
from scepsy.backend import Workload
from scepsy.errors import SimulationError
from scepsy.profile.share import ContentionLaw
from scepsy.records import CALL_SCHEMA, RUN_SCHEMA
from sim.compiled import layout as at
from sim.compiled.arrival_rows import Door, Homes
from sim.compiled.engine import limits_of, queue_number, router_number
from sim.compiled.machine import Machine, Setup
from sim.compiled.rows import RowBatches
from sim.compiled.templates import Templates
from sim.engine.ahead import make_replica
from sim.engine.clock import Kernel
from sim.engine.gpu import GpuState
from sim.engine.prefix import PrefixKeys
from sim.engine.replica import ReplicaSpec
from sim.policies.routers import ROUTERS
from sim.world.recorder import RecordWriter
from sim.world.run import queue_maker, run_to_the_end
from sim.world.world import World

METERS = (
    "busy_ticks",
    "decode_ticks",
    "kv_block_ticks",
    "peak_blocks",
    "iterations",
    "prefilled_tokens",
    "preemptions",
)


@dataclass
class Case:
    """Instances, their GPUs and the load."""

    specs: list[ReplicaSpec]
    places: list[list[int]]
    contention: ContentionLaw
    workload: Workload
    router: str = "least-outstanding"
    order: str = "fcfs"

    @property
    def prefixes(self) -> PrefixKeys:
        sizes = {spec.llm: spec.engine.block_tokens for spec in self.specs}
        return PrefixKeys([(item.trace, item.arrivals.kind != "trace") for item in self.workload.streams], sizes)


@dataclass
class Result:
    """What came out; ``error`` instead of everything else."""

    runs: pa.Table
    calls: pa.Table
    now: int
    meters: list[tuple[int, ...]]
    error: str = ""


def _result(kept, now, meters, error="") -> Result:
    runs = pa.Table.from_batches(kept["runs"], RUN_SCHEMA).combine_chunks()
    calls = pa.Table.from_batches(kept["calls"], CALL_SCHEMA).combine_chunks()
    return Result(runs, calls, now, [tuple(getattr(each, name) for name in METERS) for each in meters], error)


def with_simpy(case: Case) -> Result:
    kept = {"runs": [], "calls": []}
    recorder = RecordWriter(lambda table, batch: kept[table].append(batch))
    env = Kernel()
    world = World(env, recorder, case.prefixes)
    gpus = [GpuState(str(number), case.contention) for number in range(1 + max(max(place) for place in case.places))]
    make_queue = queue_maker(case.order)
    for number, spec in enumerate(case.specs):
        replica = make_replica(env, number, spec, [gpus[gpu] for gpu in case.places[number]], make_queue())
        world.replicas.append(replica)
        if spec.llm not in world.routers:
            world.routers[spec.llm] = ROUTERS[case.router](spec.llm, case.workload.seed)
        world.routers[spec.llm].add(replica)
    error = ""
    try:
        world.load(case.workload, issue(case.workload), users(case.workload))
        run_to_the_end(world)
        recorder.close()
    except SimulationError as raised:
        error = str(raised)
        kept = {"runs": [], "calls": []}
    return _result(kept, env.now, world.replicas, error)


def with_compiled(case: Case) -> Result:
    kept = {"runs": [], "calls": []}
    llms = list(dict.fromkeys(spec.llm for spec in case.specs))
    templates = Templates(case.prefixes, llms)
    order = queue_number(case.order)
    setup = Setup(
        specs=case.specs,
        places=case.places,
        contention=case.contention,
        llms=llms,
        router=router_number(case.router),
        order=order[0],
        first_level_tokens=order[1],
        beta=order[2],
        seed=case.workload.seed,
    )
    names = [[spec.name for spec in case.specs if spec.llm == llm] for llm in llms]
    door = Door(case.workload, templates, Homes(templates, names) if setup.router == at.HASH_AFFINITY else None)
    rows = RowBatches(
        lambda table, batch: kept[table].append(batch), templates, door.names, llms, [spec.name for spec in case.specs]
    )
    machine = Machine(setup, templates, limits_of(case.workload), door.arrivals(), door.users(), door.names, rows)
    error = ""
    try:
        machine.run()
    except SimulationError as raised:
        error = str(raised)
        kept = {"runs": [], "calls": []}
    return _result(kept, machine.now, machine.meters(), error)


def check(case: Case) -> Result:
    """Both engines, whose results must be equal."""
    expected, found = with_simpy(case), with_compiled(case)
    assert found.error == expected.error
    if not expected.error:
        assert found.calls.equals(expected.calls), _first_difference(expected.calls, found.calls)
        assert found.runs.equals(expected.runs), _first_difference(expected.runs, found.runs)
        assert found.meters == expected.meters
    assert found.now == expected.now
    return expected


def _first_difference(expected: pa.Table, found: pa.Table) -> str:
    if expected.num_rows != found.num_rows:
        return f"{found.num_rows} rows instead of {expected.num_rows}"
    for number, (left, right) in enumerate(zip(expected.to_pylist(), found.to_pylist(), strict=True)):
        if left != right:
            return f"row {number}: {right} instead of {left}"
    return ""
