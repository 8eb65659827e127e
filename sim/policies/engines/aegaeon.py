"""Aegaeon: pooled GPUs, engines for prefill and engines for decode, models switched at token level.

What is simulated: Algorithm 1 (grouped prefill, one call per batch), Algorithm 2 (decode in rounds of quotas), switches with
prefetch, KV over the host link. One GPU per engine (TP 1), whole GPUs. A batch's calls reserve their final KV length; calls in
flight between the two kinds of engine wait in host memory, which is taken to be large enough. Step times are those of the other
systems' engines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from functools import partial
from math import fsum, sqrt
from typing import Any

from scepsy.backend import Stream, Workload
from scepsy.cluster import Cluster
from scepsy.errors import Infeasible, InputError
from scepsy.profile.model import ProfileSet
from scepsy.records import Records
from sim.engine.arithmetic import span_ticks
from sim.engine.clock import SCHEDULE, STEP_END, TICKS_PER_S, Kernel, ticks
from sim.engine.request import Request
from sim.policies.engines.aegaeon_rules import Settings, quotas_s, switch_s
from sim.policies.engines.pool import PooledLlm, PrefixStore, cached_tokens, replay_pool


class Group:
    """Waiting prefills of one LLM."""

    def __init__(self, served: PooledLlm, created: int) -> None:
        self.served = served
        self.created = created
        self.taken = 0
        """Calls it ever had: a group is full after ``max_group``."""
        self.waiting: deque[Request] = deque()
        self.prompt_ticks = 0
        """What the waiting prompts take, estimated without reuse."""
        self.gone = False
        """Served to its end: nothing joins it any more."""

    def add(self, request: Request) -> int:
        """One more call. Returns the ticks that its prompt takes."""
        cost = self._prompt(request)
        self.taken += 1
        self.waiting.append(request)
        self.prompt_ticks += cost
        return cost

    def pop(self) -> tuple[Request, int]:
        """The next call, and the ticks that its prompt takes."""
        request = self.waiting.popleft()
        cost = self._prompt(request)
        self.prompt_ticks -= cost
        return request, cost

    def _prompt(self, request: Request) -> int:
        return ticks(self.served.prefill_s(request.input_tokens, request.input_tokens))


class Device:
    """One GPU that holds one model at a time, and prefetches the next."""

    def __init__(self, env: Kernel, settings: Settings) -> None:
        self.env = env
        self.settings = settings
        self.model = ""
        self._switched = 0

    def switch_ticks(self, served: PooledLlm, known_since: int) -> int:
        """Make ``served`` the model; how long that takes now. 0 when it is there already."""
        if self.model == served.name:
            return 0
        since = self.env.now - max(self._switched, known_since)
        cost = ticks(switch_s(served.llm.weight_bytes, since / TICKS_PER_S if since > 0 else None, self.settings))
        self.model = served.name
        self._switched = self.env.now + cost
        return cost


class PrefillEngine:
    """Groups in order, one call per batch."""

    def __init__(self, pool: AegaeonPool, number: int) -> None:
        self.pool = pool
        self.number = number
        self.name = f"prefill-{number}"
        self.groups: deque[Group] = deque()
        self.device = Device(pool.env, pool.settings)
        self._busy = False
        self._ends = 0
        """Tick at which the call under way ends."""
        self._queued_ticks = 0
        """Prompts that wait in the groups, and the switches from each group to the next."""

    def wait_ticks(self, served: PooledLlm, group: Group | None) -> int:
        """Estimated time until a call of ``served`` that joins a group here, or opens one behind all (None), is prefilled.

        Counts what is under way, the prompts before it, and every switch on the way, its own included.
        """
        total = max(0, self._ends - self.pool.env.now) if self._busy else 0
        model = self.device.model
        for ahead in self.groups:
            if ahead.waiting or ahead is group:
                total += self._switch_ticks(model, ahead.served) + ahead.prompt_ticks
                model = ahead.served.name
            if ahead is group:
                return total
        return total + self._switch_ticks(model, served)

    def load_ticks(self) -> int:
        """Estimated time for what waits here: prompts, and a switch wherever the model changes. Published: no more is counted.

        One tick for what is under way, so that an idle engine goes before a busy one.
        """
        first = self._switch_ticks(self.device.model, self.groups[0].served) if self.groups else 0
        return int(self._busy) + first + self._queued_ticks

    def _switch_ticks(self, model: str, served: PooledLlm) -> int:
        return 0 if served.name == model else ticks(switch_s(served.llm.weight_bytes, None, self.pool.settings))

    def open(self, served: PooledLlm) -> Group:
        """A new group behind all others."""
        group = Group(served, self.pool.env.now)
        if self.groups:
            self._queued_ticks += self._switch_ticks(self.groups[-1].served.name, served)
        self.groups.append(group)
        return group

    def _close_first(self) -> None:
        """Drop the first group: it has been served."""
        first = self.groups.popleft()
        first.gone = True
        if self.groups:
            self._queued_ticks -= self._switch_ticks(first.served.name, self.groups[0].served)

    def add(self, group: Group, request: Request) -> None:
        """One more call for a group here."""
        self._queued_ticks += group.add(request)
        if not self._busy:
            self._busy = True
            self.pool.env.alarm(0, SCHEDULE, self._next)

    def _next(self, _: Any) -> None:
        while self.groups and not self.groups[0].waiting:
            self._close_first()
        if not self.groups:
            self._busy = False
            return
        group, env = self.groups[0], self.pool.env
        (request, prompt), served = group.pop(), group.served
        self._queued_ticks -= prompt
        cost = self.device.switch_ticks(served, group.created)
        request.instance = self.name
        request.scheduled = env.now + cost
        request.cached_tokens = hit = cached_tokens(self.pool.kept[served.name], request, served.engine.block_tokens)
        back = hit * served.llm.kv_bytes_per_token / self.pool.settings.host_bytes_per_s
        cost += ticks(back + served.prefill_s(request.input_tokens - hit, request.input_tokens))
        self._ends = env.now + cost
        env.alarm(cost, STEP_END + self.number, partial(self._done, request, served))

    def _done(self, request: Request, served: PooledLlm, _: Any) -> None:
        env = self.pool.env
        request.first_token = env.now
        self.pool.kept[served.name].keep(request.keys)
        if request.output_tokens <= 1:
            request.end = env.now
            request.caller.call_ended(request)
        else:
            out = request.input_tokens * served.llm.kv_bytes_per_token / self.pool.settings.host_bytes_per_s
            env.alarm(ticks(out), SCHEDULE, lambda _: self.pool.to_decode(served, request))
        self._next(None)


class Batch:
    """Decoding calls of one LLM."""

    def __init__(self, served: PooledLlm, created: int) -> None:
        self.served = served
        self.created = created
        self.left: dict[Request, int] = {}
        """Tokens still to come, by call."""
        self.context = 0
        self.kv_bytes = 0
        """Reserved: every call's final length."""

    def add(self, request: Request) -> None:
        """A call joins."""
        self.left[request] = request.output_tokens - 1
        self.context += request.input_tokens + 1
        self.kv_bytes += self.need(request)

    def need(self, request: Request) -> int:
        """KV bytes of a call at its end."""
        return (request.input_tokens + request.output_tokens) * self.served.llm.kv_bytes_per_token

    def resident_bytes(self) -> int:
        """KV bytes held now."""
        return self.context * self.served.llm.kv_bytes_per_token

    def step_s(self) -> float:
        """Seconds of its next step."""
        return self.served.step.step_s(0, 0, len(self.left), self.context)


class DecodeEngine:
    """Rounds over its batches, each decoding for its quota. A round ends early for nobody; a lone batch has no quota."""

    def __init__(self, pool: AegaeonPool, number: int) -> None:
        self.pool = pool
        self.number = pool.settings.prefill_engines + number
        self.name = f"decode-{number}"
        self.batches: list[Batch] = []
        self.device = Device(pool.env, pool.settings)
        self._turns: deque[tuple[Batch, int]] = deque()
        self._resident: Batch | None = None
        self._running: Batch | None = None
        self._joining: list[Request] = []
        self._busy = False
        self._until = 0
        self._alarm: int | None = None
        self._started = self._first = self._growth = self._span = 0

    @property
    def calls(self) -> int:
        """Calls that decode or wait to decode here."""
        return sum(len(batch.left) for batch in self.batches) + len(self._joining)

    def place(self, batch: Batch, request: Request) -> None:
        """A call joins one of its batches, or brings a new one."""
        request.instance = self.name
        if batch is self._running:
            self._joining.append(request)
            batch.kv_bytes += batch.need(request)
            self._cut()
            return
        batch.add(request)
        if batch not in self.batches:
            self.batches.append(batch)
            if self._running is not None and not self._turns:
                self._cut()
        if not self._busy:
            self._busy = True
            self.pool.env.alarm(0, SCHEDULE, self._next_turn)

    def _next_turn(self, _: Any) -> None:
        self.batches = [batch for batch in self.batches if batch.left]
        while self._turns and not self._turns[0][0].left:
            self._turns.popleft()
        if not self._turns:
            if not self.batches:
                self._busy, self._resident = False, None
                return
            self._begin_round()
        batch, quota = self._turns.popleft()
        cost = 0
        if batch is not self._resident:
            bandwidth = self.pool.settings.host_bytes_per_s
            leaving = self._resident.resident_bytes() if self._resident is not None else 0
            cost = ticks((leaving + batch.resident_bytes()) / bandwidth) + self.device.switch_ticks(batch.served, batch.created)
            self._resident = batch
        self.pool.env.alarm(cost, SCHEDULE, partial(self._begin_turn, batch, quota))

    def _begin_round(self) -> None:
        """Order the batches so that one model's follow each other, the resident one's first, and give each its quota."""
        order = [self.device.model, *dict.fromkeys(batch.served.name for batch in self.batches)]
        self.batches.sort(key=lambda batch: order.index(batch.served.name))
        settings = self.pool.settings
        models = {batch.served.name: batch.served for batch in self.batches}
        switches = fsum(switch_s(item.llm.weight_bytes, None, settings) for item in models.values()) if len(models) > 1 else 0.0
        quotas = quotas_s([batch.step_s() for batch in self.batches], switches, settings)
        self._turns = deque((batch, ticks(quota)) for batch, quota in zip(self.batches, quotas, strict=True))

    def _begin_turn(self, batch: Batch, quota: int, _: Any) -> None:
        self._running = batch
        self._until = self.pool.env.now + quota
        self._begin_span()

    def _begin_span(self) -> None:
        """Decode until the next call ends or the quota is over, at least one step."""
        batch, env = self._running, self.pool.env
        assert batch is not None
        step = batch.served.step
        self._started = env.now
        self._first = max(1, ticks(batch.step_s()))
        self._growth = ticks(step.context_s_per_token * len(batch.left))
        self._span = min(batch.left.values())
        if len(self.batches) > 1:
            self._span = max(1, min(self._span, self._steps_within(self._until - env.now)))
        self._alarm = env.alarm(self._length(self._span), STEP_END + self.number, self._end_span)

    def _length(self, steps: int) -> int:
        return span_ticks(steps, self._first, self._growth)

    def _steps_within(self, room: int) -> int:
        """Whole steps that fit ``room`` ticks: the closed form, corrected by whole steps."""
        if room <= 0:
            return 0
        growth = self._growth
        b = self._first - growth / 2
        steps = int((sqrt(b * b + 2 * growth * room) - b) / growth) if growth else room // self._first
        while self._length(steps) > room:
            steps -= 1
        while self._length(steps + 1) <= room:
            steps += 1
        return steps

    def _cut(self) -> None:
        """End the span under way at its next step's end."""
        now = self.pool.env.now
        if self._alarm is None:
            return
        steps = self._steps_within(now - self._started)
        steps += self._length(steps) < now - self._started or steps == 0
        if steps < self._span:
            self._span = steps
            self._alarm = self.pool.env.alarm(self._started + self._length(steps) - now, STEP_END + self.number, self._end_span)

    def _end_span(self, alarm: int) -> None:
        if alarm != self._alarm:
            return  # the span was cut
        self._alarm = None
        batch, now = self._running, self.pool.env.now
        assert batch is not None
        batch.context += self._span * len(batch.left)
        ended = []
        for request in batch.left:
            batch.left[request] -= self._span
            if batch.left[request] == 0:
                ended.append(request)
        for request in ended:
            del batch.left[request]
            batch.context -= request.input_tokens + request.output_tokens
            batch.kv_bytes -= batch.need(request)
        for request in self._joining:
            batch.kv_bytes -= batch.need(request)
            batch.add(request)
        self._joining = []
        more = batch.left and (now < self._until or len(self.batches) == 1)
        if not more:
            self._running = None
        for request in ended:
            request.end = now
            request.caller.call_ended(request)
        if more:
            self._begin_span()
        else:
            self._next_turn(None)


class AegaeonPool:
    """All engines and the two dispatchers."""

    def __init__(self, env: Kernel, served: Mapping[str, PooledLlm], settings: Settings, kv_bytes: int) -> None:
        self.env = env
        self.served = served
        self.settings = settings
        self.kv_bytes = kv_bytes
        self.kept = {name: PrefixStore(settings.host_cache_tokens // item.engine.block_tokens) for name, item in served.items()}
        self._open: dict[str, tuple[PrefillEngine, Group]] = {}
        """By LLM: the group that was opened last, and where."""
        self.prefill = [PrefillEngine(self, number) for number in range(settings.prefill_engines)]
        self.decode = [DecodeEngine(self, number) for number in range(settings.decode_engines)]

    def submit(self, llm: str, request: Request) -> None:
        """Algorithm 1: append to a group of the same model with room, else a new group on the least-loaded engine."""
        served = self.served[llm]
        per_token = served.llm.kv_bytes_per_token
        served.check_fits(request, self.kv_bytes // per_token if per_token else 0, "an engine of Aegaeon")
        engine, group = self._first_served(served) if self.settings.dispatch == "counted" else self._published(served)
        if group is None:
            group = engine.open(served)
            self._open[served.name] = engine, group
        engine.add(group, request)

    def _published(self, served: PooledLlm) -> tuple[PrefillEngine, Group | None]:
        """The engine with a group of the model that has room, else the one with the least queued work.

        Only the youngest group of a model can have room: a new one is opened where there is none.
        """
        found = self._open.get(served.name)
        if found is not None and not found[1].gone and found[1].taken < self.settings.max_group:
            return found
        return min(self.prefill, key=lambda engine: (engine.load_ticks(), engine.number)), None

    def _first_served(self, served: PooledLlm) -> tuple[PrefillEngine, Group | None]:
        """Where a call would be served first, its own switch counted; at equal waits a group that is there already."""
        places: list[tuple[PrefillEngine, Group | None]] = []
        for engine in self.prefill:
            mine = (g for g in engine.groups if g.served is served and g.taken < self.settings.max_group)
            places += [*((engine, group) for group in mine), (engine, None)]
        return min(places, key=lambda place: (place[0].wait_ticks(served, place[1]), place[1] is None, place[0].number))

    def to_decode(self, served: PooledLlm, request: Request) -> None:
        """Algorithm 2's dispatch: join a batch of the same model that has room, else the engine with the fewest batches."""
        dispatch = self.settings.dispatch
        balanced = dispatch != "published"
        idle = balanced and any(not engine.batches for engine in self.decode)
        if not idle:
            for engine in sorted(self.decode, key=lambda e: (len(e.batches), e.calls)) if balanced else self.decode:
                for batch in engine.batches:
                    room = (
                        batch.kv_bytes + batch.need(request) <= self.kv_bytes and len(batch.left) < served.engine.max_num_seqs
                    )
                    if batch.served is served and batch.left and room:
                        engine.place(batch, request)
                        return

        def rank(engine: DecodeEngine) -> tuple[int, int, int]:
            """Fewest batches; counted: then engines that hold the model before empty ones, and those before others."""
            held = engine.device.model if dispatch == "counted" else served.name
            return len(engine.batches), 0 if held == served.name else 1 if not held else 2, engine.number

        min(self.decode, key=rank).place(Batch(served, self.env.now), request)


def simulate_aegaeon(workload: Workload, profiles: ProfileSet, cluster: Cluster, settings: Settings) -> Records:
    """Replay a workload on a pool of all the cluster's GPUs.

    Raises ``InputError`` when the split does not use the cluster's GPUs, ``Infeasible`` when a model does not fit one GPU
    beside the buffer for the next one.
    """
    if settings.prefill_engines + settings.decode_engines != len(cluster.gpus):
        raise InputError(
            f"aegaeon split is {settings.prefill_engines}:{settings.decode_engines}: must add up to {len(cluster.gpus)} GPUs"
        )
    served, kv = pooled(workload.streams, profiles, cluster)
    return replay_pool(lambda env: AegaeonPool(env, served, settings, kv), workload, served, system="aegaeon")


def pooled(streams: Iterable[Stream], profiles: ProfileSet, cluster: Cluster) -> tuple[dict[str, PooledLlm], int]:
    """The streams' LLMs as a GPU serves them, and the bytes that are left for KV. Raises as ``simulate_aegaeon`` does."""
    gpu = cluster.gpu_types[0]
    served = {}
    for name in dict.fromkeys(name for stream in streams for name in stream.trace.llms):
        try:
            served[name] = PooledLlm.of(profiles.of(name, gpu.name, 1))
        except KeyError as error:
            raise InputError(f"aegaeon: {error.args[0]}") from error
    engine = next(iter(served.values())).engine
    largest = max(served.values(), key=lambda item: item.llm.weight_bytes)
    kv = int(gpu.memory_bytes * engine.memory_utilization) - 2 * largest.llm.weight_bytes - engine.activation_bytes
    if kv <= 0:
        raise Infeasible(
            f"aegaeon holds a model and prefetches the next on one GPU: two of {largest.name} "
            f"({2 * largest.llm.weight_bytes / 1e9:.0f} GB) exceed a {gpu.name}"
        )
    return served, kv
