"""An instance whose engine schedules one iteration ahead: vLLM's asynchronous scheduling.

While iteration n runs, n+1 is scheduled already, in the instant n began. It counts on n's tokens, whatever they will be.
So three things happen one iteration later than in ``sim.engine.replica``:

- A call that arrives during n is first looked at when n ends, which is when n+2 is scheduled.
- A call whose last token comes out of n is not scheduled for n+1, because its length is known. It keeps its KV blocks and its
  place among ``max_num_seqs`` until n ends. A preemption in between may take the blocks, and the token comes all the same.
- A preempted call loses the KV of the token that is under way, and the content of a block that this token filled.

After an idle time, or where nothing could be scheduled ahead, the next iteration starts at once.
Source: vLLM 0.19–0.32, ``v1/core/sched/async_scheduler.py`` and ``EngineCore.step_with_batch_queue`` with two batches.
"""

from collections.abc import Callable, Iterator
from heapq import heappop
from typing import Any, NamedTuple

from sim.engine.arithmetic import span_ticks
from sim.engine.clock import Kernel
from sim.engine.gpu import GpuState
from sim.engine.queue import CallQueue
from sim.engine.replica import Replica, ReplicaSpec, Work
from sim.engine.request import NO_BLOCKS, Request


class _Batch(NamedTuple):
    """A scheduled iteration."""

    decoding: int
    context: int
    """Tokens of context that its decoding calls read."""
    tokens: int
    area: float
    """Prompt tokens, and Σ over them of the tokens before."""


class AheadReplica(Replica):
    """The decoding calls, their context and the count of iterations are those after the iteration under way."""

    __slots__ = ("_begins", "_leaving", "_next", "_preempted", "_ran")

    def __init__(
        self,
        env: Kernel,
        number: int,
        spec: ReplicaSpec,
        gpus: list[GpuState],
        queue: CallQueue,
        changed: Callable[[Replica], None] | None = None,
    ) -> None:
        super().__init__(env, number, spec, gpus, queue, changed)
        self._next: _Batch | None = None
        """The iteration after the one under way; none: nothing could be scheduled for it."""
        self._ran = _Batch(0, 0, 0, 0.0)
        """The iteration under way, or the first of the span."""
        self._preempted = False
        """Whether the last scheduling preempted a call."""
        self._begins: list[Request] = []
        """Calls whose first token comes out of the iteration under way."""
        self._leaving: dict[int, tuple[Request, int]] = {}
        """Calls whose last token does, by number, and the blocks that they hold; −1: preempted, they hold none."""

    def requests(self) -> Iterator[Request]:
        """Every call that is running or waits."""
        yield from (request for request, _ in self._leaving.values())
        yield from super().requests()

    def evacuate(self) -> list[Request]:
        """Lose everything at once, the iteration scheduled ahead included."""
        lost = super().evacuate()
        self._next = None
        self._begins.clear()
        self._leaving.clear()
        return lost

    # ---- the end of an iteration or a span -------------------------------------------------------------------------

    def _on_end(self, alarm: Any) -> None:
        if alarm != self._alarm:
            return  # the span was cut: this was its former end
        self._alarm = None
        now = self.env.now
        steps = self._span or 1
        decoding, context, tokens, area = self._ran
        self._account(now, steps, decoding)
        if steps > 1:
            self.iterations += steps - 1
            self._context += decoding * (steps - 1)
            self._next = _Batch(decoding, self._context, 0, 0.0)
        if self.observer is not None:
            self.observer.iteration_ended(self, Work(self._started, now, steps, decoding, context, tokens, area))
        self._span = 0
        if self._begins:
            for request in self._begins:
                request.first_token = now
            self._begins = []
        if self._leaving:
            leaving, self._leaving = self._leaving, {}
            for request, held in leaving.values():
                self._leave(request, max(held, 0), now)
        self._go_on()

    # ---- the start of an iteration or a span -----------------------------------------------------------------------

    def _schedule(self) -> None:
        now = self.env.now
        batch, self._next = self._next, None
        while batch is None:
            batch = self._scheduled(now)
            if batch is None and not self._again(now, self._preempted):
                return
        self._begin(now, batch)

    def _scheduled(self, now: int) -> _Batch | None:
        """Schedule the iteration after all those that are; none when no call can run in it."""
        tokens, area, self._preempted = self._fill(now)
        decoding = self._decoding
        return _Batch(decoding, self._context, tokens, area) if tokens or decoding else None

    def _begin(self, now: int, batch: _Batch) -> None:
        """Start an iteration, schedule the next, and run on as long as the next are of the same kind."""
        decoding, context, tokens, area = self._ran = batch
        slow = self._slots.slowdown(now) if decoding and self.shared else 1.0
        if (decoding > 0) is not self._draws:
            self._switch(now)
        self._started = now
        if tokens:
            self._span, self._growth = 0, 0
            self._first = self._costs.mixed(tokens, area, decoding, context, slow)
            if self.shared:
                work = self._costs.work(tokens, area, self._slots.compute_capacity)
                self._first = self._slots.promise(now, self._first, work)
            self.prefilled_tokens += tokens
        else:
            fixed, per_token = self._costs.slowed(decoding, slow)
            self._span, self._slow = 1, slow
            self._first = fixed + per_token * context
            self._growth = per_token * decoding
        self._advance()
        following = self._next = self._scheduled(now)
        if not (tokens or self._leaving or self._preempted or following is None or following.tokens):
            self._span = self._steps(decoding)
        steps = self._span or 1
        length = span_ticks(steps, self._first, self._growth)
        self._alarm = self.env.alarm(length, self._priority, self._on_end)

    def _steps(self, decoding: int) -> int:
        """Iterations of the span that begins: the one scheduled ahead at its end still has the same calls, and blocks."""
        if self.shared and self._slow != self._slots.slowdown_after():
            return 1
        return self._steps_to_go(decoding)

    def _advance(self) -> None:
        """Count on the tokens of the iteration that begins: its calls decode on, or leave when it ends."""
        self.iterations = iterations = self.iterations + 1
        self._context += self._ran.decoding
        by_finish = self._by_finish
        while by_finish and by_finish[0][0] == iterations:
            _, number, request = heappop(by_finish)
            if request.number == number:
                self._leaving[number] = request, self._stop_decoding(request)
        finishing, self._finishing = self._finishing, []
        for request in finishing:
            request.emitted += 1
            if request.first_token < 0:
                self._begins.append(request)
            left = request.output_tokens - request.emitted
            if left > 0:
                self._begin_decoding(request, left)
            else:
                self._leaving[request.number] = request, request.held

    def _room(self) -> int:
        """Sequences that may still be admitted: those about to leave keep their place until they are out."""
        return super()._room() - len(self._leaving)

    # ---- preemption ------------------------------------------------------------------------------------------------

    def _preempt_last(self, decoders: list[Request]) -> Request:
        """As ever, but that a call about to leave may be the most recent one."""
        leaving = max((number for number, (_, held) in self._leaving.items() if held >= 0), default=-1)
        if self._partial is None and leaving > decoders[-1].number:
            return self._preempt_leaving(leaving)
        return super()._preempt_last(decoders)

    def _preempt(self, request: Request, computed: int, emitted: int) -> None:
        under_way = request is not self._partial and request.joined_at < self.iterations
        super()._preempt(request, computed, emitted)
        if under_way and computed % self._block_tokens == 0:
            request.own_full -= 1  # the token that fills this block is not known yet

    def _preempt_leaving(self, number: int) -> Request:
        """Take the blocks of a call whose last token is under way: it leaves at the end of this iteration all the same."""
        request, held = self._leaving[number]
        self.pool.give(held - len(request.blocks))
        self.pool.release(request.blocks)
        request.blocks = NO_BLOCKS
        request.preemptions += 1
        self.preemptions += 1
        self._leaving[number] = request, -1
        return request


def make_replica(env: Kernel, number: int, spec: ReplicaSpec, gpus: list[GpuState], queue: CallQueue) -> Replica:
    """An engine instance that schedules as its settings say."""
    kind = AheadReplica if spec.engine.async_scheduling else Replica
    return kind(env, number, spec, gpus, queue)
