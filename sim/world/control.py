"""What a policy may do to a running cluster: look, wait, start, place, drain, fail, switch and lose instances.

A policy is a callable ``Control -> generator``: a SimPy process that yields ``control.sleep(seconds)`` and acts in between.
It runs until the last run has ended.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from math import fsum
from typing import Any

import simpy

from scepsy.cluster import Gpu
from scepsy.errors import InputError, SimulationError
from scepsy.plans import Instance, Plan
from scepsy.profile.model import Profile, ProfileSet, instance_memory_bytes
from sim.engine.ahead import make_replica
from sim.engine.clock import ARRIVAL, seconds, ticks
from sim.engine.queue import CallQueue
from sim.engine.replica import Replica
from sim.engine.request import Request
from sim.engine.spec import spec_of
from sim.policies.routers.base import Router
from sim.world.agent import Agent
from sim.world.watchers import Watchers
from sim.world.world import World

Policy = Callable[["Control"], Generator[simpy.Event, Any, None]]

PENDING, STARTING, READY, DRAINING, STOPPED = "pending", "starting", "ready", "draining", "stopped"

STALL_S = 24 * 3600.0
"""A policy that waits while nothing at all happens for so long, with work left, has a stalled cluster in front of it."""


@dataclass(eq=False)
class Member:
    """One instance through its life: pending (no GPU yet), starting, ready, draining, stopped."""

    llm: str
    index: int
    profile: Profile
    share_pct: int
    state: str
    gpus: tuple[Gpu, ...] = ()
    replica: Replica | None = None
    start_s: float = 0.0
    """Cold start it needs (s)."""
    history: list[tuple[float, str]] = field(default_factory=list)
    """(time, state) of every change."""
    wanted: tuple[Gpu, ...] = ()
    """The GPUs that it must have; empty: any with room."""

    @property
    def name(self) -> str:
        """``<llm>-<index>``."""
        return f"{self.llm}-{self.index}"

    @property
    def waiting(self) -> int:
        """Calls in its queue."""
        return len(self.replica.waiting) if self.replica else 0

    @property
    def running(self) -> int:
        """Calls in its batch."""
        return self.replica.running if self.replica else 0

    @property
    def kv_use(self) -> float:
        """Part of its KV blocks in use, as of its last event."""
        return self.replica.pool.used / self.replica.pool.total if self.replica else 0.0

    @property
    def busy_s(self) -> float:
        """Seconds it has been busy so far."""
        return seconds(self.replica.busy_so_far()) if self.replica else 0.0


class Control:
    """The control surface. Everything it does takes effect at once unless it says when."""

    def __init__(
        self,
        world: World,
        plan: Plan,
        profiles: ProfileSet,
        make_router: Callable[[str], Router],
        make_queue: Callable[[], CallQueue],
    ) -> None:
        self._world = world
        self._plan = plan
        self._profiles = profiles
        self._make_router = make_router
        self._make_queue = make_queue
        self._free = dict.fromkeys(plan.cluster.gpus, 100)
        self._queue: list[Member] = []
        """Pending members, first come first served."""
        self._seen = (-1, 0.0)
        self.lost: set[Gpu] = set()
        """GPUs that are gone for good."""
        self.members: list[Member] = []
        for instance, replica in zip(plan.instances, world.replicas, strict=True):
            self._adopt(instance, replica)

    def _adopt(self, instance: Instance, replica: Replica) -> None:
        gpu_type = self._plan.cluster.type_of(instance.gpus[0]).name
        profile = self._profiles.of(instance.llm, gpu_type, instance.tensor_parallel)
        member = Member(instance.llm, instance.index, profile, instance.share_pct, READY, instance.gpus, replica)
        member.history.append((0.0, READY))
        for gpu in instance.gpus:
            self._free[gpu] -= instance.share_pct
        self.members.append(member)

    # ---- looking ---------------------------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        """Seconds since the workload began."""
        return seconds(self._world.env.now)

    @property
    def llms(self) -> tuple[str, ...]:
        """LLMs of the plan, in its order."""
        return tuple(allocation.llm for allocation in self._plan.allocations)

    def of(self, llm: str, *states: str) -> list[Member]:
        """Members of one LLM in any of the states (default: all but stopped), oldest first."""
        wanted = states or (PENDING, STARTING, READY, DRAINING)
        return [member for member in self.members if member.llm == llm and member.state in wanted]

    def held(self, llm: str) -> int:
        """Calls that wait because no instance of the LLM is ready."""
        return sum(wanted == llm for _, wanted, _ in self._world.held)

    def free_pct(self, gpu: Gpu) -> int:
        """Share of a GPU that no member holds."""
        return self._free[gpu]

    def cold_start_s(self, llm: str) -> float:
        """Seconds from starting an instance of the LLM to its first call."""
        return self._profiles.cold_start.seconds(self._profiles.llm(llm).parameters)

    @property
    def open_runs(self) -> list[Agent]:
        """Runs that have arrived and not ended, in order of arrival."""
        return list(self._world.open.values())

    def tell_ended_runs(self, tell: Callable[[Agent], None]) -> None:
        """From now on, call ``tell`` with every run that ends."""
        self._world.observer = Watchers(self._world.observer, run_ended=tell)

    def tell_ended_calls(self, tell: Callable[[Request], None]) -> None:
        """From now on, call ``tell`` with every call that ends."""
        self._world.observer = Watchers(self._world.observer, call_ended=tell)

    def resize(self, llm: str, want: int) -> None:
        """Start or drain instances until ``want`` are there or coming: the youngest that do not serve yet go first."""
        ready, unready = self.of(llm, READY), self.of(llm, STARTING, PENDING)
        here = len(ready) + len(unready)
        for _ in range(want - here):
            self.start(llm)
        for member in [*reversed(unready), *reversed(ready)][: max(0, here - want)]:
            self.drain(member)

    # ---- waiting ---------------------------------------------------------------------------------------------------

    def sleep(self, seconds_: float) -> simpy.Event:
        """An event to yield. Raises ``SimulationError`` when nothing happened for a day of simulated time with work left."""
        world = self._world
        progress = sum(replica.iterations for replica in world.replicas) + world.runs_issued + len(self.members)
        if progress != self._seen[0]:
            self._seen = (progress, self.now_s)
        elif self.now_s - self._seen[1] > STALL_S and (world.held or world.in_flight()):
            raise SimulationError(
                f"the simulation stalled at {self.now_s:.6f} s: {len(world.open)} of {world.runs_issued} runs are open, "
                f"{len(world.in_flight())} calls in flight ({len(world.held)} without an instance), and nothing happened "
                f"for {STALL_S:g} s"
            )
        if seconds_ < 0:
            raise SimulationError(f"time goes backwards: a policy sleeps {seconds_!r} s at {self.now_s!r} s")
        return world.env.timeout(ticks(seconds_))

    # ---- acting ----------------------------------------------------------------------------------------------------

    def start(
        self, llm: str, *, share_pct: int | None = None, tensor_parallel: int | None = None, start_s: float | None = None
    ) -> Member:
        """Add an instance, by default of the size that the plan gives its LLM.

        It goes to the first GPUs with room (a group inside one NVLink domain), else it stays pending until some are freed,
        first come first served. Ready after ``start_s`` seconds on its GPUs (default: the cold-start law). Raises
        ``InputError`` without a profile.
        """
        allocation = self._plan.allocation(llm)
        degree = tensor_parallel or allocation.tensor_parallel
        try:
            profile = self._profiles.of(llm, allocation.gpu_type, degree)
        except KeyError as error:
            raise InputError(str(error.args[0])) from error
        index = 1 + max((member.index for member in self.members if member.llm == llm), default=-1)
        member = Member(llm, index, profile, share_pct or allocation.share_pct, PENDING)
        member.start_s = self.cold_start_s(llm) if start_s is None else start_s
        self._wait_for_gpus(member)
        return member

    def place(self, instance: Instance, *, start_s: float | None = None) -> Member:
        """Add an instance where a plan has it: same LLM, share and GPUs. It is pending until they have room for it.

        Ready after ``start_s`` seconds on its GPUs (default: the cold-start law). Raises ``InputError`` without a profile.
        """
        gpu_type = self._plan.cluster.type_of(instance.gpus[0]).name
        try:
            profile = self._profiles.of(instance.llm, gpu_type, instance.tensor_parallel)
        except KeyError as error:
            raise InputError(str(error.args[0])) from error
        index = 1 + max((member.index for member in self.members if member.llm == instance.llm), default=-1)
        member = Member(instance.llm, index, profile, instance.share_pct, PENDING, wanted=instance.gpus)
        member.start_s = self.cold_start_s(instance.llm) if start_s is None else start_s
        self._wait_for_gpus(member)
        return member

    def lose(self, gpu: Gpu) -> None:
        """A GPU is gone for good: its instances die, their calls are sent again, and nothing starts on it any more.

        From then on, calls to an LLM without any instance wait instead of ending the simulation.
        """
        self._world.patient = True
        self.lost.add(gpu)
        for member in self.members:
            if gpu not in (member.gpus or member.wanted):
                continue
            if member.state in (READY, DRAINING):
                self.fail(member)
            elif member.state in (PENDING, STARTING):
                self.drain(member)

    def drain(self, member: Member) -> None:
        """Take no more calls; stop and free the GPUs when the last has ended. Pending or starting ones stop at once."""
        if member.state in (PENDING, STARTING):
            self._world.coming[member.llm] -= 1
            self._retire(member)
        elif member.state == READY:
            self._leave_router(member)
            self._enter(member, DRAINING)
            self._when_empty(member)

    def fail(self, member: Member, *, restart_s: float | None = None) -> None:
        """The process dies: its calls lose what was computed and are sent again. It restarts in ``restart_s`` (None: never)."""
        if member.state not in (READY, DRAINING) or member.replica is None:
            raise InputError(f"instance {member.name} is {member.state}: must be ready or draining to fail")
        if member.state == READY:
            self._leave_router(member)
        lost = member.replica.evacuate()
        if restart_s is None:
            self._retire(member)
        else:
            self._world.coming[member.llm] = self._world.coming.get(member.llm, 0) + 1
            self._begin_start(member, restart_s)
        for request in lost:
            self._world.send(request, member.llm, request.caller.id)

    def switch(self, member: Member, llm: str, *, switch_s: float) -> Member:
        """Drain a member, then start an instance of another LLM on its GPUs, ready ``switch_s`` seconds later."""
        successor = self.start(llm, share_pct=member.share_pct, tensor_parallel=len(member.gpus) or None, start_s=switch_s)
        if successor.state == PENDING:
            self._queue.remove(successor)
            self._queue.insert(0, successor)
        self.drain(member)
        return successor

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _enter(self, member: Member, state: str) -> None:
        member.state = state
        member.history.append((self.now_s, state))

    def _leave_router(self, member: Member) -> None:
        assert member.replica is not None
        self._world.routers[member.llm].remove(member.replica)

    def _wait_for_gpus(self, member: Member) -> None:
        self._enter(member, PENDING)
        self.members.append(member)
        self._world.coming[member.llm] = self._world.coming.get(member.llm, 0) + 1
        self._queue.append(member)
        self._place_pending()

    def _place_pending(self) -> None:
        """Give GPUs to those that wait. One that takes any GPUs keeps the later ones of its kind waiting."""
        full = False
        for member in list(self._queue):
            if member.wanted:
                fits = all(self._has_room(gpu, member.share_pct) for gpu in member.wanted)
                group = member.wanted if fits else None
            else:
                group = None if full else self._room(member)
                full = full or group is None
            if group is None:
                continue
            self._queue.remove(member)
            member.gpus = group
            for gpu in group:
                self._free[gpu] -= member.share_pct
            self._begin_start(member, member.start_s)

    def _has_room(self, gpu: Gpu, share_pct: int) -> bool:
        return gpu not in self.lost and self._free[gpu] >= share_pct

    def _room(self, member: Member) -> tuple[Gpu, ...] | None:
        degree = member.profile.tensor_parallel
        for domain in self._plan.cluster.nvlink_domains():
            if self._plan.cluster.type_of(domain[0]).name != member.profile.gpu.name:
                continue
            fitting = [gpu for gpu in domain if self._has_room(gpu, member.share_pct)]
            if len(fitting) >= degree:
                return self._plan.cluster.best_group(fitting, degree)
        return None

    def _begin_start(self, member: Member, start_s: float) -> None:
        self._enter(member, STARTING)

        def ready(_: Any) -> None:
            if member.state == STARTING:
                self._make_ready(member)

        self._world.env.alarm(ticks(start_s), ARRIVAL, ready)

    def _make_ready(self, member: Member) -> None:
        world = self._world
        if member.replica is None:
            memory = instance_memory_bytes(member.profile, member.share_pct)
            spec = spec_of(member.profile, member.name, member.share_pct, self._profiles, memory_bytes=memory)
            gpus = [world.gpus[gpu] for gpu in member.gpus]
            member.replica = make_replica(world.env, len(world.replicas), spec, gpus, self._make_queue())
            member.replica.observer = world.observer
            world.replicas.append(member.replica)
        if member.llm not in world.routers:
            world.routers[member.llm] = self._make_router(member.llm)
        self._enter(member, READY)
        world.coming[member.llm] -= 1
        world.routers[member.llm].add(member.replica)
        world.release(member.llm)

    def _when_empty(self, member: Member) -> None:
        replica = member.replica
        assert replica is not None

        def emptied(_: Replica) -> None:
            if replica.outstanding == 0 and member.state == DRAINING:
                replica.changed = None
                self._world.env.alarm(0, ARRIVAL, lambda _: self._retire(member))

        replica.changed = emptied
        emptied(replica)

    def _retire(self, member: Member) -> None:
        if member in self._queue:
            self._queue.remove(member)
        for gpu in member.gpus:
            self._free[gpu] += member.share_pct
        self._enter(member, STOPPED)
        self._place_pending()

    def gpu_seconds(self) -> float:
        """GPU time held by members from placement to stop, shares counted in part, up to now."""
        return fsum(self._held_s(member) * len(member.gpus) * member.share_pct / 100 for member in self.members)

    def _held_s(self, member: Member) -> float:
        return fsum(
            end - begin for (begin, state), (end, _) in _pairs(member.history, self.now_s) if state not in (PENDING, STOPPED)
        )


def _pairs(history: list[tuple[float, str]], now_s: float) -> Iterator[tuple[tuple[float, str], tuple[float, str]]]:
    return zip(history, [*history[1:], (now_s, "")], strict=True)


__all__ = ["DRAINING", "PENDING", "READY", "STARTING", "STOPPED", "Control", "Member", "Policy"]
