"""One run walks its DAG: it issues a call when all its parents have ended and its tool gap is over."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from scepsy.records import UNFINISHED
from scepsy.workload import Run
from sim.clock import ARRIVAL, ticks
from sim.prefix import Keys, salted
from sim.request import Request

if TYPE_CHECKING:
    from sim.world import World


class Walk:
    """What all replays of one traced run have in common."""

    __slots__ = (
        "children",
        "gaps",
        "input_tokens",
        "keys",
        "llms",
        "output_tokens",
        "parents",
        "roots",
        "run",
        "session",
        "tail",
        "tokens",
    )

    def __init__(self, run: Run, keys: Sequence[Keys], session: str) -> None:
        place = {call.id: index for index, call in enumerate(run.calls)}
        self.run = run
        self.llms = [call.llm for call in run.calls]
        self.input_tokens = [call.input_tokens for call in run.calls]
        self.output_tokens = [call.output_tokens for call in run.calls]
        self.gaps = [ticks(call.gap_s) for call in run.calls]
        self.parents = [len(set(call.parents)) for call in run.calls]
        self.children: list[list[int]] = [[] for _ in run.calls]
        for index, call in enumerate(run.calls):
            for parent in set(call.parents):
                self.children[place[parent]].append(index)
        self.roots = [index for index, call in enumerate(run.calls) if not call.parents]
        self.keys = keys
        self.tail = ticks(run.tail_s)
        self.session = session
        """What its calls have in common with those of other runs; empty: nothing."""
        self.tokens = sum(self.input_tokens) + sum(self.output_tokens)


class Agent:
    """One issued run."""

    in_flight = 0
    failed = False
    end = -1
    status = UNFINISHED
    served_tokens = 0
    """Input and output tokens of ended calls: what least-attained-service orders go by."""
    waited_ticks = 0
    served_ticks = 0

    def __init__(self, world: World, run_id: str, walk: Walk, arrival: int, salt: int, user: int) -> None:
        self.world = world
        self.id = run_id
        self.walk = walk
        self.arrival = arrival
        self.salt = salt
        """Tells apart the private prefixes of several replays of one traced run."""
        self.user = user
        """The closed-loop user who waits for the answer, else −1."""
        self.calls_left = len(walk.llms)
        self.missing = walk.parents.copy() if self.calls_left > 1 else walk.parents

    @property
    def remaining_tokens(self) -> int:
        """Input and output tokens of calls that have not ended."""
        return self.walk.tokens - self.served_tokens

    def start(self) -> None:
        """Arrive: issue the roots."""
        for node in self.walk.roots:
            gap = self.walk.gaps[node]
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
        shared, private = walk.keys[node]
        request = Request(
            self,
            node,
            walk.input_tokens[node],
            walk.output_tokens[node],
            salted(shared, private, self.salt) if private else shared,
            world.env.now,
        )
        self.in_flight += 1
        world.send(request, walk.llms[node], walk.session or self.id)

    def call_ended(self, request: Request) -> None:
        """A call is done or was rejected: record it, issue its children, and leave when it was the last."""
        world, walk, node = self.world, self.walk, request.node
        self.in_flight -= 1
        world.record(request)
        if request.rejected:
            self.failed = True
        else:
            self.waited_ticks += request.scheduled - request.issued
            self.served_ticks += request.end - request.scheduled
        self.served_tokens += request.input_tokens + request.output_tokens
        self.calls_left -= 1
        for child in walk.children[node]:
            self.missing[child] -= 1
            if self.missing[child] == 0 and not self.failed:
                gap = walk.gaps[child]
                if gap:
                    world.env.alarm(gap, ARRIVAL, partial(self._issue_later, child))
                else:
                    self._issue(child)
        if self.calls_left == 0 or (self.failed and self.in_flight == 0):
            if walk.tail and not self.failed:
                world.env.alarm(walk.tail, ARRIVAL, self._leave)
            else:
                self._leave(None)

    def _leave(self, _: Any) -> None:
        self.world.run_ended(self)
