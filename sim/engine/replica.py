"""One engine instance: vLLM v1's scheduler with continuous batching, simulated by spans.

Every iteration goes through these steps:

1. Each decoding call gets its KV block. When there is none, the most recently admitted call is preempted and computed again
   later.
2. The one prompt that is part-way through continues.
3. Waiting calls are admitted while sequences, batch tokens and KV blocks last, unless the iteration preempted a call.

An iteration that computes prompt tokens is one event. A row of pure decode iterations with nothing to decide in between is
one event too, a span. Its iterations grow by the same amount each, so its end has a closed form. Whatever happens meanwhile
cuts the span at the next iteration's border.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from math import sqrt
from operator import itemgetter
from typing import Any, NamedTuple

from scepsy.errors import SimulationError
from scepsy.profile.model import EngineLimits
from scepsy.profile.share import ShareLaw
from scepsy.profile.step import StepModel
from sim.engine.arithmetic import blocks_of, span_ticks
from sim.engine.clock import ARRIVAL, SCHEDULE, STEP_END, TICKS_PER_S, Kernel
from sim.engine.costs import costs_of
from sim.engine.gpu import GpuState, Slots
from sim.engine.kv import BlockPool
from sim.engine.queue import CallQueue
from sim.engine.request import NO_BLOCKS, NO_KEYS, Request


@dataclass(frozen=True)
class ReplicaSpec:
    """What one instance is made of."""

    name: str
    llm: str
    step: StepModel
    engine: EngineLimits
    share_law: ShareLaw
    share_pct: int
    kv_blocks: int
    context_limit: int
    bandwidth_demand: float = 0.0
    """Part of each GPU's peak bandwidth drawn while decoding, at this share."""
    weight: int = 100
    """Share times tensor-parallel degree: what a weighted router goes by."""
    tensor_parallel: int = 1


def check_fits(spec: ReplicaSpec, input_tokens: int, output_tokens: int) -> None:
    """Raise ``SimulationError`` for a call that can never fit."""
    never = f"a call of {input_tokens} input and {output_tokens} output tokens never fits instance {spec.name}"
    tokens, most = input_tokens + max(output_tokens - 1, 0), spec.kv_blocks * spec.engine.block_tokens
    if tokens > most:
        raise SimulationError(f"{never}: it needs KV for {tokens} tokens, the instance holds {most}")
    if input_tokens + output_tokens > spec.context_limit:
        raise SimulationError(f"{never}: {spec.llm} takes a context of {spec.context_limit} tokens")


def stalled(name: str, now_s: float, waiting: int, input_tokens: int, free: int, total: int) -> SimulationError:
    """What is said of an instance whose waiting calls do not fit, although it is empty."""
    return SimulationError(
        f"instance {name} is stalled at {now_s:.6f} s: {waiting} calls wait, none runs, and "
        f"the next ({input_tokens} input tokens) does not fit {free} free of {total} KV blocks"
    )


class Work(NamedTuple):
    """What an instance did between two events: one iteration with prompt tokens, or a span of decode iterations."""

    start: int
    end: int
    steps: int
    decoding: int
    """Decoding sequences in each of the iterations."""
    context: int
    """Tokens of context that the first of them read."""
    prompt_tokens: int
    area: float
    """Σ over the prompt tokens of the tokens before them."""

    @property
    def context_sum(self) -> int:
        """Tokens of context read over all iterations."""
        return span_ticks(self.steps, self.context, self.decoding)


class Replica:
    """A running instance. ``submit`` is its only entrance; ended calls go back to their ``caller``."""

    __slots__ = (
        "_admitted",
        "_alarm",
        "_area",
        "_block_tokens",
        "_by_finish",
        "_context",
        "_costs",
        "_decoding",
        "_draws",
        "_finishing",
        "_first",
        "_growth",
        "_longest",
        "_max_queued",
        "_max_seqs",
        "_max_tokens",
        "_partial",
        "_prefix_caching",
        "_priority",
        "_promotes_at",
        "_prompt_ticks",
        "_residues",
        "_slots",
        "_slow",
        "_span",
        "_started",
        "_tokens",
        "_waking",
        "bandwidth_demand",
        "busy_ticks",
        "changed",
        "env",
        "gpu_names",
        "iterations",
        "kv_block_ticks",
        "name",
        "number",
        "observer",
        "outstanding",
        "peak_blocks",
        "pool",
        "preemptions",
        "prefilled_tokens",
        "shared",
        "spec",
        "waiting",
    )

    def __init__(
        self,
        env: Kernel,
        number: int,
        spec: ReplicaSpec,
        gpus: list[GpuState],
        queue: CallQueue,
        changed: Callable[["Replica"], None] | None = None,
    ) -> None:
        self.env = env
        self.number = number
        self._priority = STEP_END + number
        self.spec = spec
        self.name = spec.name
        self.waiting = queue
        self._promotes_at = queue.promotes_at
        self.pool = BlockPool(spec.kv_blocks)
        self.bandwidth_demand = spec.bandwidth_demand
        self.outstanding = 0
        """Calls waiting or running."""
        self.changed = changed
        """Told whenever ``outstanding`` changed: routers keep their order by it."""
        self.observer: Any = None
        self.busy_ticks = 0
        self._prompt_ticks = 0
        """Part of ``busy_ticks`` in which no sequence decoded."""
        self.kv_block_ticks = 0
        """∫ used blocks dt over iterations (a span counts with the mean of its ends)."""
        self.preemptions = 0
        self.iterations = 0
        self.prefilled_tokens = 0
        self.peak_blocks = 0
        self._block_tokens = spec.engine.block_tokens
        self._max_seqs = spec.engine.max_num_seqs
        self._max_tokens = spec.engine.max_num_batched_tokens
        self._prefix_caching = spec.engine.prefix_caching
        self._max_queued = spec.engine.max_num_queued
        self.shared = False
        """Whether any of the GPUs has another instance."""
        self._longest = min(spec.kv_blocks * spec.engine.block_tokens, spec.context_limit)
        self._slots = Slots(self, gpus)
        self.gpu_names = tuple(gpu.name for gpu in gpus)
        self._slow = 1.0
        self._draws = False
        """Whether it draws bandwidth: some sequence decodes in the current iteration."""
        self._decoding = 0
        """Decoding calls."""
        self._partial: Request | None = None
        """The one call whose prompt is part-way through: always the last admitted."""
        self._finishing: list[Request] = []
        """Calls whose prompt the current iteration completes."""
        self._by_finish: list[tuple[int, int, Request]] = []
        """Decoding calls as (iteration of the last token, number, call), a heap; others whose number differs were preempted."""
        self._residues = [0] * self._block_tokens
        self._context = 0
        """Σ (computed + 1) over decoding calls: tokens that the next decode iteration reads."""
        self._admitted = 0
        self._alarm: int | None = None
        self._waking = False
        self._started = 0
        self._span = 0
        """Iterations in the current span; 0: an iteration with prompt tokens, or idle."""
        self._tokens = 0
        self._area = 0.0
        """Prompt tokens of the current iteration, and Σ over them of the tokens before."""
        self._first = 0
        self._growth = 0
        self._costs = costs_of(spec.step, spec.share_law, spec.share_pct)

    # ---- entrance ---------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Take a call in, or reject it when the queue is full. Raises ``SimulationError`` for one that can never fit."""
        tokens = request.input_tokens + request.output_tokens
        if tokens > self._longest:
            check_fits(self.spec, request.input_tokens, request.output_tokens)
        request.instance = self.name
        idle = self._alarm is None
        if (
            self._max_queued is not None
            and len(self.waiting) >= self._max_queued
            and not (idle and self._max_queued == 0 and not self.waiting)
        ):
            request.rejected = True
            request.end = self.env.now
            request.caller.call_ended(request)
            return
        self.outstanding += 1
        if self.changed is not None:
            self.changed(self)
        blocked = self.waiting.push(request)
        if self._promotes_at is not None:
            self._promote_later(request, self._promotes_at(request))
        if idle:
            self._wake()
        elif not blocked:
            self._head_changed()

    def _head_changed(self) -> None:
        """Another call is the next to admit: it may fit where the former did not."""
        if self._span > 1 and self._decoding < self._max_seqs:
            self._cut(self.env.now, 0)

    def _promote_later(self, request: Request, at: int | None) -> None:
        if at is None:
            return

        def promote(_: Any) -> None:
            if not self.waiting.promote(request):
                self._head_changed()

        self.env.alarm(max(0, at - self.env.now), ARRIVAL, promote)

    def _wake(self) -> None:
        if not self._waking:
            self._waking = True
            self.env.alarm(0, SCHEDULE + self.number, self._on_wake)

    def _on_wake(self, _: Any) -> None:
        self._waking = False
        if self._alarm is None:
            self._schedule()

    def requests(self) -> Iterator[Request]:
        """Every call that is running or waits."""
        yield from self._decoders()
        yield from self._finishing
        if self._partial is not None:
            yield self._partial
        yield from self.waiting

    def _decoders(self) -> list[Request]:
        """Decoding calls in order of admission."""
        valid = [(number, request) for _, number, request in self._by_finish if request.number == number]
        return [request for _, request in sorted(valid, key=itemgetter(0))]

    @property
    def running(self) -> int:
        """Calls in the batch."""
        return self.outstanding - len(self.waiting)

    @property
    def decode_ticks(self) -> int:
        """Ticks of iterations in which some sequence decoded."""
        return self.busy_ticks - self._prompt_ticks

    def busy_so_far(self) -> int:
        """Ticks spent in iterations, the current one included."""
        return self.busy_ticks + (self.env.now - self._started if self._alarm is not None else 0)

    def evacuate(self) -> list[Request]:
        """Lose everything at once (the process died): return the calls that were here, in order of admission, then of waiting.

        Their tokens so far are lost with their KV blocks; where they go next, they start anew.
        """
        lost = list(self.requests())
        if self._draws:
            self._switch(self.env.now)
        self._slots.withdraw()
        while self.waiting:
            self.waiting.take()
        self._finishing.clear()
        self._by_finish.clear()
        self._partial = None
        self._alarm = None
        self._span = 0
        self._decoding = 0
        self._context = 0
        self._residues = [0] * self._block_tokens
        self.pool = BlockPool(self.spec.kv_blocks)
        self.outstanding = 0
        if self.changed is not None:
            self.changed(self)
        for request in lost:
            request.forget()
        return lost

    def kv_load(self) -> float:
        """Part of the KV blocks held now or asked for by waiting prompts."""
        return (self.pool.total - self.pool.free + self.waiting.input_tokens / self._block_tokens) / self.pool.total

    # ---- the end of an iteration or a span -------------------------------------------------------------------------

    def _on_end(self, alarm: Any) -> None:
        if alarm != self._alarm:
            return  # the span was cut: this was its former end
        self._alarm = None
        now = self.env.now
        steps = self._span or 1
        decoding = self._decoding
        self._account(now, steps, decoding)
        self.iterations = iterations = self.iterations + steps
        if self.observer is not None:
            work = Work(self._started, now, steps, decoding, self._context, self._tokens, self._area)
            self.observer.iteration_ended(self, work)
        self._context += decoding * steps
        self._span = 0
        by_finish = self._by_finish
        while by_finish and by_finish[0][0] == iterations:
            _, number, request = heappop(by_finish)
            if request.number == number:
                self._leave(request, self._stop_decoding(request), now)
        if self._finishing:
            finishing, self._finishing = self._finishing, []
            for request in finishing:
                request.emitted += 1
                if request.first_token < 0:
                    request.first_token = now
                left = request.output_tokens - request.emitted
                if left > 0:
                    self._begin_decoding(request, left)
                else:
                    self._leave(request, request.held, now)
        self._go_on()

    def _go_on(self) -> None:
        """Schedule, after whatever else happens at this instant."""
        if self.env.busy_now():
            self._wake()
        else:
            self._schedule()

    def _account(self, now: int, steps: int, decoding: int) -> None:
        """Count the time and KV blocks of the iterations that end, and take the blocks of those after the first."""
        pool = self.pool
        elapsed = now - self._started
        used = pool.total - pool.free
        if steps > 1:
            need = self._blocks_needed(self.iterations + 1, steps - 1)
            if need:
                pool.take(need)
            self.kv_block_ticks += (used + used + need) * elapsed // 2
            used += need
        else:
            self.kv_block_ticks += used * elapsed
        if used > self.peak_blocks:
            self.peak_blocks = used
        self.busy_ticks += elapsed
        if not decoding:
            self._prompt_ticks += elapsed

    def _stop_decoding(self, request: Request) -> int:
        """A call has its last token, or will have it when the iteration under way ends: return the blocks that it holds."""
        self._decoding -= 1
        self._residues[request.residue] -= 1
        total = request.input_tokens + request.output_tokens
        self._context -= total
        return blocks_of(total - 1, self._block_tokens)

    def _begin_decoding(self, request: Request, left: int) -> None:
        """A call's prompt is computed, and ``left`` tokens are to come."""
        iterations = self.iterations
        request.computed = computed = request.target
        request.joined_at = iterations
        request.residue = residue = (iterations - computed) % self._block_tokens
        self._residues[residue] += 1
        self._decoding += 1
        self._context += computed + 1
        heappush(self._by_finish, (iterations + left, request.number, request))

    def _leave(self, request: Request, held: int, now: int) -> None:
        blocks = request.blocks
        if blocks:
            self.pool.give(held - len(blocks))
            self.pool.release(blocks)
            request.blocks = NO_BLOCKS
        else:
            self.pool.give(held)
        request.keys = NO_KEYS
        request.number = -1
        request.end = now
        self.outstanding -= 1
        if self.changed is not None:
            self.changed(self)
        request.caller.call_ended(request)

    # ---- the start of an iteration or a span -----------------------------------------------------------------------

    def _schedule(self) -> None:
        now = self.env.now
        while True:
            tokens, area, preempted = self._fill(now)
            decoding = self._decoding
            if tokens:
                self._begin_mixed(now, decoding, tokens, area)
                return
            if decoding:
                self._begin_span(now, decoding, 1 if preempted else 0)
                return
            if not self._again(now, preempted):
                return

    def _fill(self, now: int) -> tuple[int, float, bool]:
        """Schedule the next iteration: its prompt tokens, Σ of the tokens before each, and whether a call was preempted."""
        pool, preempted = self.pool, False
        need = self._residues[self.iterations % self._block_tokens]
        if need:
            if need > pool.free:
                self._make_room()
                preempted = True
            else:
                pool.take(need)
        tokens, area = 0, 0.0
        if self._partial is not None:
            tokens, area = self._continue_partial(self._partial, self._max_tokens - self._decoding)
            preempted = preempted or not tokens
        if self.waiting and not preempted:
            more, more_area = self._admit(now, self._max_tokens - self._decoding - tokens)
            tokens += more
            area += more_area
        return tokens, area, preempted

    def _again(self, now: int, preempted: bool) -> bool:
        """No call can run. Whether to schedule again, since some were preempted and fit now; else the instance is idle.

        Raises ``SimulationError`` when calls wait that do not fit an empty instance.
        """
        if self.waiting:
            if preempted:
                return True
            head, pool = self.waiting.peek(), self.pool
            waiting = len(self.waiting)
            raise stalled(self.name, now / TICKS_PER_S, waiting, head.input_tokens, pool.free, pool.total)
        if self._draws:
            self._switch(now)
        if self.observer is not None:
            self.observer.idle(self, now)
        return False

    def _begin_mixed(self, now: int, decoding: int, tokens: int, area: float) -> None:
        slow = self._slots.slowdown(now) if decoding and self.shared else 1.0
        length = self._costs.mixed(tokens, area, decoding, self._context, slow)
        if self.shared:
            length = self._slots.promise(now, length, self._costs.work(tokens, area, self._slots.compute_capacity))
        self.prefilled_tokens += tokens
        self._tokens, self._area = tokens, area
        self._started = now
        self._span = 0
        self._alarm = self.env.alarm(length, self._priority, self._on_end)
        if (decoding > 0) is not self._draws:
            self._switch(now)

    def _begin_span(self, now: int, decoding: int, limit: int) -> None:
        steps = limit or self._steps_to_go(decoding)
        if not self._draws:
            self._switch(now)
        if self.shared:
            slow = self._slots.slowdown(now)
            if slow != self._slots.slowdown_after():
                steps = 1
            self._slow = slow
            fixed, per_token = self._costs.slowed(decoding, slow)
        else:
            fixed, per_token = self._costs.decode[decoding]
        self._first = first = fixed + per_token * self._context
        self._growth = growth = per_token * decoding
        self._started = now
        self._span = steps
        self._tokens, self._area = 0, 0.0
        self._alarm = self.env.alarm(span_ticks(steps, first, growth), self._priority, self._on_end)

    def _steps_to_go(self, decoding: int) -> int:
        """Iterations until the first decoding call ends or KV blocks are short."""
        by_finish = self._by_finish
        finish, number, request = by_finish[0]
        while request.number != number:  # preempted since
            heappop(by_finish)
            finish, number, request = by_finish[0]
        steps, free = finish - self.iterations, self.pool.free
        if steps > 1 and free < decoding * (steps // self._block_tokens + 1):
            steps = self._steps_that_fit(steps, free)
        return steps

    def _blocks_needed(self, first: int, steps: int) -> int:
        """Blocks that the decoding calls need in ``steps`` iterations, the first of them being number ``first``."""
        block_tokens, residues = self._block_tokens, self._residues
        begin = first % block_tokens
        end = begin + steps % block_tokens
        need = steps // block_tokens * self._decoding + sum(residues[begin:end])
        if end > block_tokens:
            need += sum(residues[: end - block_tokens])
        return need

    def _steps_that_fit(self, steps: int, free: int) -> int:
        """Iterations that ``free`` blocks allow, the first of which has its blocks already; at most ``steps``."""
        decoding, block_tokens = self._decoding, self._block_tokens
        whole = min(free // decoding, (steps - 1) // block_tokens)
        done = 1 + whole * block_tokens
        free -= whole * decoding
        while done < steps:
            free -= self._residues[(self.iterations + done) % block_tokens]
            if free < 0:
                break
            done += 1
        return done

    # ---- cutting a span --------------------------------------------------------------------------------------------

    def neighbours_changed(self, now: int) -> None:
        """A neighbour began or stopped decoding: iterations that start after ``now`` may have another speed."""
        if self._span > 1 and self._slots.slowdown_after() != self._slow:
            self._cut(now, 1)

    def _cut(self, now: int, margin: int) -> None:
        """End the span at the first border at least ``margin`` ticks after ``now``."""
        elapsed = now - self._started
        first, growth = self._first, self._growth
        linear = first - growth / 2
        steps = int(2 * elapsed / (linear + sqrt(linear * linear + 2.0 * growth * elapsed))) + 1
        steps = min(steps, self._span)
        late = elapsed + margin
        while steps > 1 and span_ticks(steps - 1, first, growth) >= late:
            steps -= 1
        while (end := span_ticks(steps, first, growth)) < late:
            steps += 1
        if steps < self._span:
            self._span = steps
            self._alarm = self.env.alarm(self._started + end - now, self._priority, self._on_end)

    def _switch(self, now: int) -> None:
        self._draws = not self._draws
        self._slots.switch(self, now)

    # ---- admission -------------------------------------------------------------------------------------------------

    def _continue_partial(self, request: Request, budget: int) -> tuple[int, float]:
        """Schedule the next chunk of the prompt under way; no tokens when its blocks do not fit and it was preempted."""
        chunk = min(request.target - request.computed, budget)
        end = request.computed + chunk
        more = blocks_of(end, self._block_tokens) - request.held
        if more > self.pool.free:
            self._preempt(request, request.computed, request.emitted)
            return 0, 0
        self.pool.take(more)
        self._extend(request, end)
        if end == request.target:
            self._partial = None
            self._finishing.append(request)
        return chunk, chunk * (2 * end - chunk) / 2

    def _room(self) -> int:
        """Sequences that may still be admitted."""
        return self._max_seqs - self._decoding - len(self._finishing) - (self._partial is not None)

    def _admit(self, now: int, budget: int) -> tuple[int, float]:
        """Admit waiting calls in order while they fit; return the prompt tokens scheduled and Σ of the tokens before each."""
        tokens, area = 0, 0.0
        pool, block_tokens, waiting, finishing = self.pool, self._block_tokens, self.waiting, self._finishing
        room = self._room()
        while room > 0 and budget > 0 and waiting:
            request = waiting.peek()
            target = request.input_tokens + request.emitted
            full = blocks_of(target, block_tokens)
            hit = 0
            if self._prefix_caching and (request.keys or request.own is not None):
                hit = self._reuse(request, target, full)
                if hit < 0:
                    break
            elif full > pool.free:
                break
            waiting.take()
            self._admitted = request.number = self._admitted + 1
            request.target = target
            if request.scheduled < 0:
                request.scheduled = now
                request.cached_tokens = hit
            end = target if target - hit <= budget else hit + budget
            held = full if end == target else blocks_of(end, block_tokens)
            pool.take(held - hit // block_tokens)
            if request.keys:
                self._extend(request, end)
            else:
                request.held = held
                request.computed = end
            tokens += end - hit
            area += (end - hit) * (end + hit) / 2
            budget -= end - hit
            room -= 1
            if end == target:
                finishing.append(request)
            else:
                self._partial = request
        return tokens, area

    def _reuse(self, request: Request, target: int, full: int) -> int:
        """Hold the blocks that the prefix cache has; return their tokens, or −1 when the whole sequence would not fit."""
        pool = self.pool
        limit = (target - 1) // self._block_tokens  # the last token is always computed: its logits are needed
        found = pool.find(request.keys, limit)
        own = 0
        segment = request.own
        if segment is not None and len(found) == len(request.keys):
            own = min(segment.count, limit - len(found), request.own_full)
        in_use = sum(block.refs > 0 for block in found)
        if full - in_use > pool.free:
            return -1
        pool.hold(found)
        if segment is not None:
            pool.reclaim(segment, own)
            request.own = None
        request.blocks = found
        return (len(found) + own) * self._block_tokens

    def _extend(self, request: Request, end: int) -> None:
        """Prompt tokens up to ``end`` are scheduled: their full blocks with a known prefix enter the cache at once."""
        request.held = blocks_of(end, self._block_tokens)
        request.computed = end
        keys, blocks = request.keys, request.blocks
        if keys and self._prefix_caching:
            full = end // self._block_tokens
            if len(blocks) < full and len(blocks) < len(keys):
                blocks += self.pool.cache(keys[len(blocks) : full])

    # ---- preemption ------------------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Give each decoding call its block in order of admission, preempting the most recent calls while none is free."""
        now_residue = self.iterations % self._block_tokens
        decoders = self._decoders()
        for request in decoders.copy():
            if request.number < 0:
                return  # it and all after it were preempted
            if request.residue != now_residue:
                continue
            while self.pool.free == 0:
                if self._preempt_last(decoders) is request:
                    return
            self.pool.take(1)

    def _preempt_last(self, decoders: list[Request]) -> Request:
        """Preempt the most recently admitted call: the prompt under way, else the last of ``decoders``, which loses it."""
        if self._partial is not None:
            victim = self._partial
            self._preempt(victim, victim.computed, victim.emitted)
        else:
            victim = decoders.pop()
            computed = victim.computed + self.iterations - victim.joined_at
            self._preempt(victim, computed, computed - victim.input_tokens + 1)
        return victim

    def _preempt(self, request: Request, computed: int, emitted: int) -> None:
        """Free a call's blocks and put it at the front of the queue, to be computed again with what it has emitted."""
        if request is self._partial:
            self._partial = None
        else:
            self._decoding -= 1
            self._residues[request.residue] -= 1
            self._context -= computed + 1
        private = blocks_of(computed, self._block_tokens) - len(request.blocks)
        if self._prefix_caching:
            request.own = self.pool.give_own(private)
            request.own_full = computed // self._block_tokens - len(request.blocks)
        else:
            self.pool.give(private)
        self.pool.release(request.blocks)
        request.blocks = NO_BLOCKS
        request.number = -1
        request.emitted = emitted
        request.preemptions += 1
        self.preemptions += 1
        self.waiting.push_front(request)
