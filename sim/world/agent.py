"""One run walks its DAG: it issues a call when all its parents have ended and its tool gap is over."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from scepsy.records import UNFINISHED
from scepsy.workload import Call, Run
from sim.engine.clock import ARRIVAL, Kernel, ticks
from sim.engine.prefix import Keys, salted
from sim.engine.request import Request


class Surroundings(Protocol):
    """What a run needs of the world that it walks in."""

    env: Kernel

    def send(self, request: Request, llm: str, session: str) -> None:
        """Give a call to an instance of the LLM."""

    def record(self, request: Request) -> None:
        """Keep an ended call."""

    def run_ended(self, agent: Agent) -> None:
        """The run has left."""


class Step:
    """One call of a walk."""

    __slots__ = ("children", "gap", "id", "input_tokens", "llm", "output_tokens", "private", "shared")

    def __init__(self, call: Call, keys: Keys) -> None:
        self.id = call.id
        self.llm = call.llm
        self.input_tokens = call.input_tokens
        self.output_tokens = call.output_tokens
        self.gap = ticks(call.gap_s)
        self.shared, self.private = keys
        self.children: list[int] = []


class Walk:
    """What all replays of one traced run have in common."""

    __slots__ = ("parents", "roots", "run", "run_id", "session", "steps", "tail", "tokens", "workflow")

    def __init__(self, run: Run, keys: Sequence[Keys], session: str) -> None:
        place = {call.id: index for index, call in enumerate(run.calls)}
        self.run = run
        self.run_id = run.id
        self.workflow = run.workflow
        self.steps = [Step(call, its_keys) for call, its_keys in zip(run.calls, keys, strict=True)]
        self.parents = [len(set(call.parents)) for call in run.calls]
        for index, call in enumerate(run.calls):
            for parent in set(call.parents):
                self.steps[place[parent]].children.append(index)
        self.roots = [index for index, call in enumerate(run.calls) if not call.parents]
        self.tail = ticks(run.tail_s)
        self.session = session
        """What its calls have in common with those of other runs; empty: nothing."""
        self.tokens = sum(step.input_tokens + step.output_tokens for step in self.steps)


class Agent:
    """One issued run. With slots, as calls have (``sim.engine.request``)."""

    __slots__ = (
        "arrival",
        "calls_left",
        "end",
        "failed",
        "gone",
        "id",
        "in_flight",
        "missing",
        "salt",
        "served_ticks",
        "served_tokens",
        "status",
        "user",
        "waited_ticks",
        "walk",
        "world",
    )

    def __init__(self, world: Surroundings, run_id: str, walk: Walk, arrival: int, salt: int, user: int) -> None:
        self.world = world
        self.id = run_id
        self.walk = walk
        self.arrival = arrival
        self.salt = salt
        """Tells apart the private prefixes of several replays of one traced run."""
        self.user = user
        """The closed-loop user who waits for the answer, else −1."""
        self.calls_left = len(walk.steps)
        self.missing = walk.parents.copy() if self.calls_left > 1 else walk.parents
        self.in_flight = 0
        self.failed = self.gone = False
        self.end = -1
        self.status = UNFINISHED
        self.served_tokens = 0
        """Input and output tokens of ended calls, as long as others are to come: what least-attained-service orders go by."""
        self.waited_ticks = self.served_ticks = 0

    @property
    def remaining_tokens(self) -> int:
        """Input and output tokens of calls that have not ended."""
        return self.walk.tokens - self.served_tokens

    def start(self) -> None:
        """Arrive: issue the roots."""
        for node in self.walk.roots:
            self._issue_after_gap(node)

    def _issue_after_gap(self, node: int) -> None:
        gap = self.walk.steps[node].gap
        if gap:
            self.world.env.alarm(gap, ARRIVAL, partial(self._issue_later, node))
        else:
            self._issue(node)

    def _issue_later(self, node: int, _: Any) -> None:
        self._issue(node)

    def _issue(self, node: int) -> None:
        if self.failed:
            return
        world, walk = self.world, self.walk
        step = walk.steps[node]
        keys = salted(step.shared, step.private, self.salt) if step.private else step.shared
        self.in_flight += 1
        request = Request(self, node, step.input_tokens, step.output_tokens, keys, world.env.now)
        world.send(request, step.llm, walk.session or self.id)

    def call_ended(self, request: Request) -> None:
        """A call is done or was rejected: record it, issue its children, and leave when it was the last."""
        world, walk = self.world, self.walk
        self.in_flight -= 1
        world.record(request)
        if request.rejected:
            self.failed = True
        self.calls_left -= 1
        if self.calls_left:
            self._go_on(request)
        if not self.gone and (self.calls_left == 0 or (self.failed and self.in_flight == 0)):
            if walk.tail and not self.failed:
                world.env.alarm(walk.tail, ARRIVAL, self._leave)
            else:
                self._leave(None)

    def _go_on(self, request: Request) -> None:
        self.served_tokens += request.input_tokens + request.output_tokens
        if not request.rejected:
            self.waited_ticks += request.scheduled - request.issued
            self.served_ticks += request.end - request.scheduled
        for child in self.walk.steps[request.node].children:
            self.missing[child] -= 1
            if self.missing[child] == 0 and not self.failed:
                self._issue_after_gap(child)

    def _leave(self, _: Any) -> None:
        self.gone = True
        self.world.run_ended(self)
