"""One LLM's calls replayed through a few simulated instances: what profiling measures, before any curve is drawn.

``Bench`` holds one instance type and the traced runs projected onto its LLM; each method is one simulation, on the
compiled core where its compiler is there, else on the SimPy engine, with the same results. Every instance has its GPUs to
itself, and calls go to the one with the fewest.
"""

from collections.abc import Iterator
from functools import cache
from itertools import cycle
from typing import Any

import numpy as np

from scepsy.arrivals import Issue, User
from scepsy.backend import Workload
from scepsy.predictors.aggregate import Floats, Integers
from scepsy.profile.model import Profile, ProfileSet
from scepsy.records import COMPLETED
from sim.compiled import layout as at
from sim.compiled import unusable
from sim.engine.ahead import make_replica
from sim.engine.clock import TICKS_PER_S, Kernel, ticks
from sim.engine.gpu import GpuState
from sim.engine.prefix import PrefixKeys
from sim.engine.queue import Queue
from sim.engine.replica import ReplicaSpec
from sim.policies.routers.builtin import LeastOutstanding
from sim.profiling.calls import Calls, Duty
from sim.profiling.load import Arriving, LlmLoad, Users
from sim.world.agent import Walk
from sim.world.recorder import RecordWriter
from sim.world.run import run_to_the_end, spec_of
from sim.world.world import World

Meters = list[tuple[int, int, int]]
"""(Busy ticks, decoding ticks, prompt tokens) of each instance."""


class Bench:
    """One instance type, ready to be loaded."""

    def __init__(self, load: LlmLoad, profile: Profile, share_pct: int, profiles: ProfileSet, *, engine: str = "") -> None:
        """``engine``: compiled or simpy; empty: the faster one that is there."""
        self.load = load
        self.profiles = profiles
        self.profile = profile
        self.spec: ReplicaSpec = spec_of(profile, profile.llm.name, share_pct, profiles)
        self.engine = engine or ("simpy" if unusable() else "compiled")

    def replay(
        self, source: Arriving | Users, replicas: int, *, warm_runs: int = 1, drain_s: float | None = None
    ) -> tuple[Calls, Duty]:
        """Simulate a load on ``replicas`` instances behind the least-outstanding router.

        ``warm_runs``: runs issued before the meters count. ``drain_s``: seconds that calls may take after the last arrival;
        None: until all are done.
        """
        run = _compiled if self.engine == "compiled" else _with_simpy
        calls, begin, end = run(self, source, replicas, warm_runs, drain_s)
        return calls, self._duty(np.array(end, dtype=float) - np.array(begin, dtype=float))

    def _duty(self, meters: Floats) -> Duty:
        busy, decoding, prompt_tokens = meters.sum(axis=0).tolist()
        if busy <= 0:
            return Duty(0.0, 1.0)
        per_token = self.spec.step.prefill_s_per_token * self.spec.share_law.prefill_factor(
            self.spec.share_law.prefill_tokens, self.spec.share_pct
        )
        prompts = min(1.0, prompt_tokens * per_token / (busy / TICKS_PER_S))
        return Duty(min(1.0, decoding / busy), 1.0 - prompts)


# ---- the compiled core -------------------------------------------------------------------------------------------------


class _Prepared:
    """What the compiled core's replays of one load have in common."""

    def __init__(self, load: LlmLoad) -> None:
        from sim.compiled.templates import Templates

        self.load = load
        self.templates = Templates(load.prefixes, [load.llm])
        self.places: Integers = np.zeros(0, dtype=np.int64)
        self._known = -1
        self._workflow: Integers = np.zeros(0, dtype=np.int64)

    def rows(self, time_s: Floats, parts: Integers, workflow: Integers) -> Integers:
        """Arrivals as the core takes them."""
        from sim.compiled.arrival_rows import ticks_of

        if len(self.places) < len(self.load.parts):
            new = np.full(len(self.load.parts), -1, dtype=np.int64)
            new[: len(self.places)] = self.places
            self.places = new
        for part in np.unique(parts[self.places[parts] < 0]).tolist():
            run, whole = self.load.parts[part], self.load.whole_of.get(part)
            self.places[part] = self.templates.place(run) if whole is None else self.templates.place_part(run, whole)
        rows = np.empty((parts.size, at.A_WORDS), dtype=np.int64)
        rows[:, at.A_EPOCH], rows[:, at.A_TIME] = ticks_of(time_s)
        rows[:, at.A_TEMPLATE], rows[:, at.A_NAME], rows[:, at.A_NUMBER] = self.places[parts], workflow, np.arange(parts.size)
        return rows

    def plans(self, users: Users) -> Integers:
        """What users ask for, shape (users, ``PLANNED_RUNS`` + 1, words). The last row stands in front too, for the core."""
        plans, found = self.load.plans(users), []
        for number, parts in enumerate(plans):
            turned = np.concatenate((parts[:, -1:], parts), axis=1)
            flat = self.rows(np.zeros(turned.size), turned.reshape(-1), np.full(turned.size, number, dtype=np.int64))
            found.append(flat.reshape(*turned.shape, at.A_WORDS))
        return np.concatenate(found)

    def calls(self, rows: Integers) -> Calls:
        """The core's rows of calls."""
        templates = self.templates
        if self._known != len(templates.runs):
            self._known = len(templates.runs)
            numbers = {name: number for number, name in enumerate(self.load.workflows)}
            self._workflow = np.array([numbers[run.workflow] for run in templates.runs], dtype=np.int64)[
                np.array(templates.call_templates, dtype=np.int64)
            ]
            self._inputs = np.array(templates.call_inputs, dtype=float)
            self._outputs = np.array(templates.call_outputs, dtype=float)
        which, tags = rows[:, at.OC_CALL], rows[:, at.OC_EPOCHS] & ((1 << at.TAG_BITS) - 1)
        return Calls(
            workflow=self._workflow[which],
            run=rows[:, at.OC_SALT],
            issued_s=_seconds(tags, rows[:, at.OC_ISSUED]),
            end_s=_seconds(rows[:, at.OC_END_EPOCH], rows[:, at.OC_END]),
            input_tokens=self._inputs[which],
            output_tokens=self._outputs[which],
            cached_tokens=rows[:, at.OC_CACHED].astype(float),
        )


def _seconds(epochs: Integers, rest: Integers) -> Floats:
    from sim.compiled.rows import exact_ticks

    return exact_ticks(epochs, rest) / TICKS_PER_S


@cache
def _machine() -> Any:
    from sim.compiled.machine import Machine

    arenas: list[Integers] = []

    class Replaying(Machine):
        """Users repeat their plans, and calls that have not ended when it is over are not written down."""

        def _give_users(self) -> None:
            if "users" not in self._keep:
                none = np.zeros((0, 1, at.A_WORDS), dtype=np.int64)
                plans: Integers = np.ascontiguousarray(next(self._users[0])) if self._users else none
                count, length = plans.shape[:2]
                table = np.zeros((max(count, 1), at.U_WORDS), dtype=np.int64)
                table[:count, at.U_PLANS] = plans.ctypes.data + np.arange(count) * (plans.strides[0] if count else 0)
                table[:count, at.U_AT], table[:count, at.U_SIZE] = 1, length
                self._keep["plans"], self._keep["users"] = plans, table
                self._m[at.USERS], self._m[at.USERS_COUNT] = table.ctypes.data, count
            table = self._keep["users"]
            table[table[:, at.U_AT] >= table[:, at.U_SIZE], at.U_AT] = 1
            self._m[at.USERS_EMPTY] = 0

        def _room(self, words: int) -> None:
            """Take the former replay's memory, where it is large enough: new pages cost as much as the replay itself."""
            top = int(self._m[at.TOP])
            if arenas and len(arenas[0]) >= top + 2 * words:
                larger = arenas.pop()
                larger[:top] = self._m[:top]
                self._m = larger
                self._m[at.ROOM] = len(larger)
            else:
                super()._room(words)

        def _finish(self) -> None:
            self.left = (self.copied_meters(end=False), self.copied_meters(end=True))
            arenas[:] = [self._m]

    return Replaying


def _compiled(
    bench: Bench, source: Arriving | Users, replicas: int, warm_runs: int, drain_s: float | None
) -> tuple[Calls, Meters, Meters]:
    from sim.compiled.machine import EndRule, Setup

    load = bench.load
    if load.prepared is None:
        load.prepared = _Prepared(load)
    prepared: _Prepared = load.prepared
    degree, kept = bench.profile.tensor_parallel, []

    def keep(table: str, rows: Integers) -> None:
        if table == "calls":
            kept.append(rows.copy())

    arrivals: Iterator[Integers] = iter(())
    users: list[Iterator[Integers]] = []
    if isinstance(source, Arriving):
        arrivals = iter([prepared.rows(source.time_s, source.part, source.workflow)])
    else:
        plans = prepared.plans(source)
        users = [iter([plans]), *(iter(()) for _ in plans[1:])]
    machine = _machine()(
        Setup(
            specs=[bench.spec] * replicas,
            places=[range(number * degree, (number + 1) * degree) for number in range(replicas)],
            contention=bench.profiles.contention,
            llms=[load.llm],
            router=at.LEAST_OUTSTANDING,
            order=at.FCFS,
            seed=load.seed,
        ),
        prepared.templates,
        EndRule(
            runs=None if isinstance(source, Arriving) else source.runs,
            horizon=None,
            drain=None if drain_s is None else ticks(drain_s),
        ),
        arrivals,
        users,
        load.workflows,
        keep,
        warm_runs,
    )
    machine.run()
    calls = prepared.calls(np.concatenate(kept) if kept else np.zeros((0, at.OC_WORDS), dtype=np.int64))
    return calls, *machine.left


# ---- the SimPy engine --------------------------------------------------------------------------------------------------


class _Log(RecordWriter):
    """Keeps the calls themselves: no tables are made."""

    def __init__(self) -> None:
        super().__init__(lambda table, batch: None)
        self._ended: list[Any] = []

    def call(self, request: Any, status: str) -> None:
        """Keep a call that has ended."""
        if status == COMPLETED:
            self._ended.append(request)

    def run(self, agent: Any, end: int, status: str) -> None:
        """Runs are not needed: their calls say it all."""

    def calls(self, workflows: list[str]) -> Calls:
        """The calls as arrays."""
        rows = [
            (
                workflows.index(request.caller.walk.run.workflow),
                request.caller.salt,
                request.issued / TICKS_PER_S,
                request.end / TICKS_PER_S,
                request.input_tokens,
                request.output_tokens,
                request.cached_tokens,
            )
            for request in self._ended
        ]
        table = np.array(rows, dtype=float).reshape(-1, 7)
        return Calls(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), *table[:, 2:].T)


class _World(World):
    """A world whose walks outlive it: every simulation of a load replays the same runs."""

    def __init__(self, env: Kernel, log: _Log, prefixes: PrefixKeys, walks: dict[int, Walk], warm_runs: int) -> None:
        super().__init__(env, log, prefixes)
        self._walks = walks
        self._warm_runs = warm_runs
        self.begin: Meters = [(0, 0, 0)]
        self.end: Meters = [(0, 0, 0)]

    def _begin(self, run_id: str, run: Any, user: int) -> None:
        super()._begin(run_id, run, user)
        if self.runs_issued == self._warm_runs:
            self.begin = self._meters()

    def _last_arrival(self) -> None:
        if self._more:
            self.end = self._meters()
        super()._last_arrival()

    def _meters(self) -> Meters:
        return [(r.busy_ticks, r.decode_ticks, r.prefilled_tokens) for r in self.replicas]


def _with_simpy(
    bench: Bench, source: Arriving | Users, replicas: int, warm_runs: int, drain_s: float | None
) -> tuple[Calls, Meters, Meters]:
    load, env, log = bench.load, Kernel(), _Log()
    world = _World(env, log, load.prefixes, load.walks, warm_runs)
    router = LeastOutstanding(load.llm, load.seed)
    for number in range(replicas):
        gpus = [GpuState(f"{number}/{n}", bench.profiles.contention) for n in range(bench.profile.tensor_parallel)]
        replica = make_replica(env, number, bench.spec, gpus, Queue())
        world.replicas.append(replica)
        router.add(replica)
    world.routers[load.llm] = router
    issues: Iterator[Issue] = iter(())
    users: list[User] = []
    if isinstance(source, Arriving):
        issues = (
            (time_s, f"run-{number}", load.parts[part])
            for number, (time_s, part) in enumerate(zip(source.time_s.tolist(), source.part.tolist(), strict=True))
        )
        runs = len(source.time_s) + 1
    else:
        plans = [plan for each in load.plans(source) for plan in each.tolist()]
        users = [_asked(load, number, plan) for number, plan in enumerate(plans)]
        runs = source.runs
    world.load(Workload(streams=load.streams, seed=load.seed, runs=runs, drain_s=drain_s), issues, users)
    run_to_the_end(world)
    begin, end = world.begin, world.end
    return log.calls(load.workflows), begin if len(begin) == len(end) else [(0, 0, 0)] * len(end), end


def _asked(load: LlmLoad, user: int, plan: list[int]) -> User:
    for count, part in enumerate(cycle(plan)):
        yield 0.0, f"user{user}-{count}", load.parts[part]
