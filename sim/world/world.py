"""Everything one simulation holds: the kernel, the instances of each LLM behind their router, the open runs, the records."""

from collections.abc import Iterator
from typing import Any, Protocol

from scepsy.arrivals import Issue, User
from scepsy.backend import Workload
from scepsy.cluster import Gpu
from scepsy.errors import SimulationError
from scepsy.records import COMPLETED, REJECTED, UNFINISHED
from scepsy.workload import Run
from sim.engine.clock import ARRIVAL, TICKS_PER_S, Kernel, ticks
from sim.engine.gpu import GpuState
from sim.engine.prefix import PrefixKeys
from sim.engine.replica import Replica, Work
from sim.engine.request import Request
from sim.policies.routers.base import Router
from sim.world.agent import Agent, Walk
from sim.world.recorder import RecordWriter


class Observer(Protocol):
    """Sees what happens; changes nothing."""

    def iteration_ended(self, replica: Replica, work: Work) -> None:
        """An instance ended an iteration or a span."""

    def idle(self, replica: Replica, now: int) -> None:
        """An instance has nothing to do."""

    def call_ended(self, request: Request) -> None:
        """A call completed or was rejected."""

    def run_ended(self, agent: Agent) -> None:
        """A run completed or was rejected."""


class World:
    """The simulated cluster and its load."""

    def __init__(self, env: Kernel, recorder: RecordWriter, prefixes: PrefixKeys) -> None:
        self.env = env
        self.recorder = recorder
        self.prefixes = prefixes
        self.routers: dict[str, Router] = {}
        self.replicas: list[Replica] = []
        self.open: dict[str, Agent] = {}
        self.done = env.event()
        self.runs_issued = 0
        self.observer: Observer | None = None
        self.gpus: dict[Gpu, GpuState] = {}
        self.coming: dict[str, int] = {}
        """Instances of each LLM that are starting or wait for a GPU: calls wait for them when there is no other."""
        self.held: list[tuple[Request, str, str]] = []
        """(call, LLM, session): waiting for an instance to become ready."""
        self.patient = False
        """Calls to an LLM that has no instance wait, even if none is coming."""
        self._walks: dict[int, Walk] = {}
        self._more = True
        self._open_loop = True
        self._users: list[User] = []
        self._issues: Iterator[Issue] = iter(())
        self._coming: Issue
        self._limit: int | None = None
        self._horizon: int | None = None
        self._drain: int | None = None

    # ---- arrivals --------------------------------------------------------------------------------------------------

    def load(self, workload: Workload, issues: Iterator[Issue], users: list[User]) -> None:
        """Set the first arrivals; each arrival then sets the next."""
        self._limit = workload.runs
        self._horizon = None if workload.horizon_s is None else ticks(workload.horizon_s)
        self._drain = None if workload.drain_s is None else ticks(workload.drain_s)
        self._users = users
        self._issues = issues
        self._next_arrival()
        for number in range(len(users)):
            self._next_of_user(number)
        self._check_done()

    def _next_arrival(self) -> None:
        entry = next(self._issues, None)
        if entry is None or (self._limit is not None and self.runs_issued >= self._limit):
            self._open_loop = False
            if not self._users:
                self._last_arrival()
            return
        self._coming = entry
        delay = ticks(entry[0]) - self.env.now
        if delay < 0:
            raise SimulationError(
                f"time goes backwards: run {entry[1]} arrives at {entry[0]!r} s, after {self.env.now / TICKS_PER_S!r} s"
            )
        self.env.alarm(delay, ARRIVAL, self._arrive)

    def _arrive(self, _: Any) -> None:
        _, run_id, run = self._coming
        self._begin(run_id, run, -1)
        self._next_arrival()

    def _next_of_user(self, number: int) -> None:
        think_s, run_id, run = next(self._users[number])

        def arrive(_: Any) -> None:
            enough = self._limit is not None and self.runs_issued >= self._limit
            late = self._horizon is not None and self.env.now > self._horizon
            if not self._more or enough or late:
                self._last_arrival()
            else:
                self._begin(run_id, run, number)

        self.env.alarm(ticks(think_s), ARRIVAL, arrive)

    def _last_arrival(self) -> None:
        if self._more and not self._open_loop:
            self._more = False
            if self._drain is not None:
                self.env.alarm(self._drain, ARRIVAL, self._stop)
        self._check_done()

    def _begin(self, run_id: str, run: Run, user: int) -> None:
        walk = self._walks.get(id(run))
        if walk is None:
            walk = self._walks[id(run)] = Walk(run, self.prefixes.of(run), self.prefixes.session(run))
        self.runs_issued += 1
        agent = Agent(self, run_id, walk, self.env.now, self.runs_issued, user)
        self.open[run_id] = agent
        agent.start()

    # ---- calls -----------------------------------------------------------------------------------------------------

    def send(self, request: Request, llm: str, session: str) -> None:
        """Route a call to an instance of its LLM."""
        router = self.routers.get(llm)
        if router is None:
            raise SimulationError(
                f"router of {llm} has 0 instances: the plan allocates none of {len(self.routers)} LLMs called {llm!r}"
            )
        if (self.patient or (self.coming and self.coming.get(llm))) and not router.replicas:
            self.held.append((request, llm, session))
        else:
            router(request, session).submit(request)

    def release(self, llm: str) -> None:
        """An instance of ``llm`` became ready: send on the calls that waited for one."""
        held, self.held = self.held, []
        for request, wanted, session in held:
            if wanted == llm:
                self.send(request, llm, session)
            else:
                self.held.append((request, wanted, session))

    def in_flight(self) -> list[Request]:
        """Calls that some instance has, in order of issue."""
        found = [r for replica in self.replicas for r in replica.requests()] + [request for request, _, _ in self.held]
        return sorted(found, key=lambda r: (r.issued, r.caller.id, r.node))

    def record(self, request: Request) -> None:
        """Write down an ended call."""
        self.recorder.call(request, REJECTED if request.rejected else COMPLETED)
        if self.observer is not None:
            self.observer.call_ended(request)

    def run_ended(self, agent: Agent) -> None:
        """Write down an ended run; its user thinks about the next."""
        del self.open[agent.id]
        self.recorder.run(agent, self.env.now, REJECTED if agent.failed else COMPLETED)
        if self.observer is not None:
            self.observer.run_ended(agent)
        if agent.user >= 0:
            self._next_of_user(agent.user)
        self._check_done()

    # ---- the end ---------------------------------------------------------------------------------------------------

    def _check_done(self) -> None:
        if not self._more and not self.open and not self.done.triggered:
            self.done.succeed()

    def _stop(self, _: Any) -> None:
        if not self.done.triggered:
            self.done.succeed()

    def finish(self) -> None:
        """Write down what is still open as unfinished."""
        for request in self.in_flight():
            self.recorder.call(request, UNFINISHED)
        for agent in self.open.values():
            self.recorder.run(agent, -1, UNFINISHED)
