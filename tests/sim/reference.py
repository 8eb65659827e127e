"""A tick-by-tick engine, written for clarity: every iteration, every sequence, every KV block by itself.

Shares nothing with ``sim.engine.replica`` but the parameters and the definition of an iteration's duration (in femtoseconds).
Blocks are kept as vLLM v1 keeps them: an id each, a reference count, a content key once full, one free queue.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from sim.engine.replica import ReplicaSpec

FS = 10**15


@dataclass(eq=False)
class Job:
    """One call and what became of it (ticks)."""

    name: int
    instance: int
    arrival: int
    prompt: int
    output: int
    keys: list[int] = field(default_factory=list)
    children: list[tuple[int, Job]] = field(default_factory=list)
    """(gap, child): issued that long after this call's end."""
    emitted: int = 0
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    scheduled: int = -1
    first: int = -1
    end: int = -1
    preemptions: int = 0
    cached: int = 0
    rejected: bool = False
    in_flight: int = 0
    """Tokens that scheduled iterations will bring; at most one an iteration."""
    filled: bool = False
    """Whether the (re)prefill is scheduled to its end: from then on it decodes."""

    @property
    def tokens(self) -> int:
        return self.prompt + self.emitted

    def key_of(self, block: int) -> tuple[str, int, int]:
        return ("shared", self.keys[block], 0) if block < len(self.keys) else ("own", self.name, block)


class Blocks:
    def __init__(self, total: int, caching: bool) -> None:
        self.free = list(range(total))
        self.refs = [0] * total
        self.key: list[tuple[str, int, int] | None] = [None] * total
        self.known: dict[tuple[str, int, int], list[int]] = {}
        self.caching = caching

    def new(self, count: int) -> list[int]:
        taken, self.free = self.free[:count], self.free[count:]
        for block in taken:
            key = self.key[block]
            if key is not None:
                self.known[key].remove(block)
                if not self.known[key]:
                    del self.known[key]
                self.key[block] = None
            self.refs[block] = 1
        return taken

    def hits(self, job: Job, block_tokens: int) -> list[int]:
        found: list[int] = []
        if self.caching:
            for index in range((job.tokens - 1) // block_tokens):
                known = self.known.get(job.key_of(index))
                if not known:
                    break
                found.append(known[0])
        return found

    def touch(self, blocks: list[int]) -> None:
        for block in blocks:
            if self.refs[block] == 0:
                self.free.remove(block)
            self.refs[block] += 1

    def register(self, job: Job, upto_tokens: int, block_tokens: int) -> None:
        if self.caching:
            for index in range(upto_tokens // block_tokens):
                block = job.blocks[index]
                if self.key[block] is None:
                    self.key[block] = job.key_of(index)
                    self.known.setdefault(job.key_of(index), []).append(block)

    def release(self, job: Job) -> None:
        for block in reversed(job.blocks):
            self.refs[block] -= 1
            if self.refs[block] == 0:
                self.free.append(block)
        job.blocks = []


@dataclass(frozen=True, eq=False)
class Part:
    """What a job does in one iteration."""

    job: Job
    new: int
    before: int
    """Tokens with KV before it."""
    decodes: bool
    completes: bool
    """Whether a token comes out."""


class Engine:
    def __init__(self, spec: ReplicaSpec) -> None:
        self.spec = spec
        self.blocks = Blocks(spec.kv_blocks, spec.engine.prefix_caching)
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self.depth = 2 if spec.engine.async_scheduling else 1
        self.batches: list[list[Part]] = []
        """Scheduled iterations that have not ended: the one under way, then (asynchronous scheduling) the next."""
        self.iterations: list[tuple[int, int, bool]] = []
        """(start, end, whether any sequence decoded)"""
        self.done: list[tuple[int, int, int]] = []
        """(start, end, ticks of prompt work) of every iteration."""
        self.held_up = 0
        """Iterations that the compute budget made longer."""

    def busy_at(self, now: int) -> bool:
        return bool(self.iterations) and self.iterations[-1][1] > now

    def decoded_just_before(self, now: int) -> bool:
        return any(decoding and start < now <= end for start, end, decoding in self.iterations[-2:])

    def submit(self, job: Job) -> bool:
        limit = self.spec.engine.max_num_queued
        if limit is not None and len(self.waiting) >= limit and (limit or self.waiting or self.batches):
            job.rejected = True
            return False
        self.waiting.append(job)
        return True

    def _slots(self, tokens: int) -> int:
        return -(-tokens // self.spec.engine.block_tokens)

    def schedule(self) -> list[Part]:
        engine, block_tokens = self.spec.engine, self.spec.engine.block_tokens
        budget, batch, preempted = engine.max_num_batched_tokens, [], False

        def run(job: Job, new: int) -> None:
            nonlocal budget
            # the content of a block is known, and so cached, only up to the last token that has come out
            self.blocks.register(job, min(job.computed + new, job.tokens), block_tokens)
            completes = job.computed + new == job.tokens + job.in_flight
            batch.append(Part(job, new, job.computed, job.filled, completes))
            job.computed += new
            job.in_flight += completes
            job.filled = job.filled or completes
            budget -= new

        index = 0
        while index < len(self.running) and budget > 0:
            job = self.running[index]
            if job.in_flight and job.emitted + job.in_flight >= job.output:
                index += 1  # its last token is under way
                continue
            new = min(job.tokens + job.in_flight - job.computed, budget)
            need = self._slots(job.computed + new) - len(job.blocks)
            while need > len(self.blocks.free):
                victim = self.running.pop()
                preempted = True
                self.blocks.release(victim)
                victim.computed = 0
                victim.filled = False
                victim.preemptions += 1
                self.waiting.insert(0, victim)
                if victim is job:
                    break
            else:
                job.blocks += self.blocks.new(need)
                run(job, new)
                index += 1
                continue
            break
        while not preempted and self.waiting and budget > 0 and len(self.running) < engine.max_num_seqs:
            job = self.waiting[0]
            hits = self.blocks.hits(job, block_tokens)
            idle_hits = sum(self.blocks.refs[block] == 0 for block in hits)
            if self._slots(job.tokens) - len(hits) + idle_hits > len(self.blocks.free):
                break
            self.waiting.pop(0)
            self.blocks.touch(hits)
            job.blocks = list(hits)
            job.computed = len(hits) * block_tokens
            if job.scheduled < 0:
                job.cached = job.computed
            new = min(job.tokens - job.computed, budget)
            job.blocks += self.blocks.new(self._slots(job.computed + new) - len(job.blocks))
            self.running.append(job)
            run(job, new)
        return batch

    def duration(self, slowdown: float) -> tuple[int, bool]:
        step, share, law = self.spec.step, self.spec.share_pct, self.spec.share_law
        decoding = [part for part in self.batches[0] if part.decodes]
        prefill = [part for part in self.batches[0] if not part.decodes]
        context = sum(part.before + 1 for part in decoding)
        sequences = len(decoding)
        tokens = sum(part.new for part in prefill)
        area = sum(part.new * (2 * part.before + part.new) for part in prefill) / 2
        slow = law.decode_factor(sequences, share) * slowdown
        work = step.prefill_s_per_token * tokens + step.attention_s_per_token2 * area
        if not prefill:
            fixed = max(1, round(slow * (step.weights_s(sequences) + step.decode_s_per_sequence * sequences) * FS))
            return fixed + round(slow * step.context_s_per_token * FS) * context, True
        if not decoding:
            return max(1, round(law.prefill_factor(tokens, share) * (step.weights_s(tokens) + work) * FS)), False
        weights = step.weights_s(tokens + sequences)
        decode = weights + step.decode_s_per_sequence * sequences + step.context_s_per_token * context
        return max(1, round((slow * decode + law.prefill_factor(tokens, share) * work) * FS)), True

    def prompt_work(self) -> int:
        """Ticks that a whole GPU needs for the prompt tokens of the iteration that starts."""
        step = self.spec.step
        prefill = [part for part in self.batches[0] if not part.decodes]
        tokens = sum(part.new for part in prefill)
        area = sum(part.new * (2 * part.before + part.new) for part in prefill) / 2
        return round((step.prefill_s_per_token * tokens + step.attention_s_per_token2 * area) * FS)

    def finish(self, now: int) -> list[Job]:
        done = []
        for part in self.batches.pop(0):
            job = part.job
            if not part.completes:
                continue
            job.emitted += 1
            job.in_flight -= 1
            if job in self.running:
                self.blocks.register(job, job.computed - job.in_flight, self.spec.engine.block_tokens)
            if job.first < 0:
                job.first = now
            if job.emitted >= job.output:
                job.end = now
                if job in self.running:
                    self.running.remove(job)
                    self.blocks.release(job)
                else:
                    self.waiting.remove(job)  # preempted while its last token was under way
                done.append(job)
        return done


class Compute:
    """A GPU's compute budget: what it promised to do, kept by working on the earliest deadline without pause."""

    def __init__(self) -> None:
        self.owed: list[list[int]] = []
        """[deadline, ticks of work still to do]"""
        self.at = 0

    def work_until(self, now: int) -> None:
        while self.owed and self.at < now:
            first = min(self.owed)
            done = min(first[1], now - self.at)
            first[1] -= done
            self.at += done
            if not first[1]:
                self.owed.remove(first)
        self.at = now

    def keeps_all(self, promises: list[list[int]]) -> bool:
        at = self.at
        for deadline, work in sorted(promises):
            at += work
            if at > deadline:
                return False
        return True

    def can_end_at(self, end: int, work: int) -> bool:
        return self.keeps_all([*self.owed, [end, work]])

    def candidates(self, work: int) -> list[int]:
        """The earliest end is the floor, or the instant at which this work and that of the earliest deadlines is done."""
        found, at = [self.at + work], self.at + work
        for _, rest in sorted(self.owed):
            at += rest
            found.append(at)
        return found


def run(
    specs: list[ReplicaSpec], places: list[list[int]], interference: float, jobs: list[Job], budget: bool = True
) -> list[Engine]:
    """Simulate; ``places`` lists the GPUs of each instance. Results are left in the jobs."""
    engines = [Engine(spec) for spec in specs]
    compute = [Compute() for _ in range(1 + max(gpu for place in places for gpu in place))]
    arrivals = [(job.arrival, number, job) for number, job in enumerate(jobs)]
    heapq.heapify(arrivals)
    count = len(jobs)

    def submit(job: Job, now: int) -> None:
        job.arrival = now
        if not engines[job.instance].submit(job):
            ended(job, now)

    def ended(job: Job, now: int) -> None:
        nonlocal count
        for gap, child in job.children:
            if gap:
                count += 1
                heapq.heappush(arrivals, (now + gap, count, child))
            else:
                submit(child, now)

    while arrivals or any(engine.batches for engine in engines):
        ends = [engine.iterations[-1][1] for engine in engines if engine.batches]
        now = min([entry[0] for entry in arrivals[:1]] + ends)
        while arrivals and arrivals[0][0] == now:
            submit(heapq.heappop(arrivals)[2], now)
        for engine in engines:
            if engine.batches and engine.iterations[-1][1] == now:
                for job in engine.finish(now):
                    ended(job, now)
        for number, engine in enumerate(engines):
            if engine.busy_at(now):
                continue
            while len(engine.batches) < engine.depth and (engine.waiting or engine.running):
                batch = engine.schedule()
                for part in batch:
                    if part.job.scheduled < 0:
                        part.job.scheduled = now
                if batch:
                    engine.batches.append(batch)
                elif engine.batches:
                    break  # nothing can be scheduled before an iteration ends
            if engine.batches:
                slowdown = 1.0
                for gpu in places[number]:
                    others = sum(
                        specs[other].bandwidth_demand
                        for other in range(len(specs))
                        if other != number and gpu in places[other] and engines[other].decoded_just_before(now)
                    )
                    if others > 0:
                        slowdown = max(slowdown, 1 + interference * others, specs[number].bandwidth_demand + others)
                length, decoding = engine.duration(slowdown)
                work = engine.prompt_work() if budget else 0
                if work:
                    gpus = [compute[gpu] for gpu in places[number]]
                    for gpu in gpus:
                        gpu.work_until(now)
                    floor = now + length
                    ends = [end for gpu in gpus for end in gpu.candidates(work) if end > floor]
                    end = min(end for end in [floor, *ends] if all(gpu.can_end_at(end, work) for gpu in gpus))
                    for gpu in gpus:
                        gpu.owed.append([end, work])
                    length = end - now
                    engine.held_up += end > floor
                engine.done.append((now, now + length, work))
                engine.iterations = [*engine.iterations[-1:], (now, now + length, decoding)]
    return engines
