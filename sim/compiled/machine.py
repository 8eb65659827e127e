"""Runs the compiled core: lays out the instances, hands in arrivals, hands out rows, and makes room when the core asks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from scepsy.errors import SimulationError
from scepsy.profile.share import ContentionLaw
from scepsy.profile.step import StepModel
from scepsy.rng import stream
from sim.compiled import layout as at
from sim.compiled.build import advance
from sim.compiled.templates import Templates, Words, split
from sim.engine.clock import TICKS_PER_S
from sim.engine.replica import ReplicaSpec, check_fits, stalled

Floats = npt.NDArray[np.float64]

ROWS = 1 << 14
"""Rows handed over at once."""

LINE = 8
"""Words of a line of the processor's cache."""


class TooLong(SimulationError):
    """The case goes beyond what 64 bits of femtoseconds can tell apart."""


@dataclass(frozen=True)
class Setup:
    """Instances, where they are, and how calls find them."""

    specs: Sequence[ReplicaSpec]
    places: Sequence[Sequence[int]]
    """The GPUs of each."""
    contention: ContentionLaw
    llms: Sequence[str]
    """Their order is their number."""
    router: int
    order: int
    seed: int
    first_level_tokens: int = 1024
    beta: float = 4.0


@dataclass(frozen=True)
class EndRule:
    """When it ends; ticks."""

    runs: int | None
    horizon: int | None
    drain: int | None


Rows = Callable[[str, Words], None]
"""Takes rows of calls or runs; they are overwritten afterwards."""


@dataclass(frozen=True)
class Meters:
    """What one instance did: the fields of ``sim.engine.replica.Replica`` that ``instance_use`` reads."""

    name: str
    spec: ReplicaSpec
    busy_ticks: int
    decode_ticks: int
    kv_block_ticks: int
    peak_blocks: int
    iterations: int
    prefilled_tokens: int
    preemptions: int


class Machine:
    """One simulation."""

    def __init__(
        self,
        setup: Setup,
        templates: Templates,
        limits: EndRule,
        arrivals: Iterator[Words],
        users: Sequence[Iterator[Words]],
        names: Sequence[str],
        rows: Rows,
        warmup_run: int = -1,
    ) -> None:
        """``arrivals`` and ``users``: chunks of arrivals, those of users with the delay as their time."""
        self._setup = setup
        self._templates = templates
        self._arrivals = arrivals
        self._users = users
        self._names = names
        self._rows = rows
        self._homes = len(setup.llms) if setup.router in (at.AFFINITY, at.HASH_AFFINITY, at.PLAS_ROUTER) else 0
        self._width = at.A_WORDS + (self._homes if setup.router == at.HASH_AFFINITY else 0)
        self._pairs: dict[int, tuple[np.random.Generator, Words]] = {}
        self._keep: dict[str, Words] = {}
        """Arrays whose addresses the core has."""
        self._m: Words = np.zeros(at.HEADER_WORDS, dtype=np.int64)
        self._used = at.HEADER_WORDS
        self._instances: list[int] = []
        self._lay_out(limits, warmup_run)

    # ---- layout ------------------------------------------------------------------------------------------------------

    def _lay_out(self, limits: EndRule, warmup_run: int) -> None:
        setup, m = self._setup, self._m
        m[at.EVENT_NUMBER] = 1
        m[at.MORE] = m[at.OPEN_LOOP] = 1
        m[at.LIMIT] = -1 if limits.runs is None else limits.runs
        m[at.HORIZON_EPOCH], m[at.HORIZON] = (0, -1) if limits.horizon is None else split(limits.horizon)
        m[at.DRAIN_EPOCHS], m[at.DRAIN] = (0, -1) if limits.drain is None else split(limits.drain)
        m[at.ROUTER], m[at.ORDER], m[at.HOMES] = setup.router, setup.order, self._homes
        m[at.FIRST_LEVEL_TOKENS] = setup.first_level_tokens
        m.view(np.float64)[at.BETA] = setup.beta
        m.view(np.float64)[at.CAPACITY] = setup.contention.compute_capacity or 0.0
        m[at.WARMUP_RUN] = warmup_run
        m[at.COMPENSATED] = sys.version_info >= (3, 12)
        m[at.ARRIVAL_WORDS] = self._width
        gpus = self._lay_out_gpus()
        outstanding = self._lay_out_llms()
        for number in range(len(setup.specs)):
            self._instances.append(self._lay_out_instance(number, gpus, outstanding[number]))
        self._finish_lists()
        self._m[at.TOP] = LINE * (self._used // LINE + 1)
        self._room(1 << 14)
        # Every user's first arrival is set before the core first asks for room.
        users = len(self._users)
        for name, room in (("heap", (1 << 10) + users), ("far", (1 << 7) + users), ("calls", ROWS), ("runs", ROWS)):
            self._grow(name, room)
        self._new_table(1 << 12)
        self._m[at.MOST_RUNNING] = max(min(s.engine.max_num_seqs, s.kv_blocks) for s in setup.specs)
        self._m[at.MOST_NEW_BLOCKS] = max(
            min(s.kv_blocks, s.engine.max_num_batched_tokens // s.engine.block_tokens + s.engine.max_num_seqs + 1)
            for s in setup.specs
        )
        self._give_arrivals()
        self._give_users()
        self._give_pairs()
        self._know_templates()

    def _more(self, words: int) -> int:
        """Room at the end of the fixed part."""
        place = self._used
        self._used += words
        if self._used > len(self._m):
            self._m = np.concatenate((self._m, np.zeros(self._used, dtype=np.int64)))
        return place

    def _lay_out_gpus(self) -> list[int]:
        setup = self._setup
        count = 1 + max(gpu for places in setup.places for gpu in places)
        tenants: list[list[int]] = [[] for _ in range(count)]
        for number, places in enumerate(setup.places):
            for gpu in places:
                tenants[gpu].append(number)
        self._tenants = tenants
        found = []
        for mine in tenants:
            gpu = self._more(at.G_WORDS + 5 * len(mine))
            m, f = self._m, self._m.view(np.float64)
            m[gpu + at.G_TENANTS] = len(mine)
            m[gpu + at.G_CHANGED_AT] = -1
            f[gpu + at.G_INTERFERENCE] = setup.contention.interference
            m[gpu + at.G_TENANTS_AT] = gpu + at.G_WORDS
            m[gpu + at.G_DEMANDS_AT] = gpu + at.G_WORDS + len(mine)
            m[gpu + at.G_PROMISES_AT] = gpu + at.G_WORDS + 2 * len(mine)
            for place, number in enumerate(mine):
                f[gpu + at.G_WORDS + len(mine) + place] = setup.specs[number].bandwidth_demand
            found.append(gpu)
        self._gpus = found
        return found

    def _lay_out_llms(self) -> list[int]:
        """Records of LLMs; return where each instance's count of calls is."""
        setup = self._setup
        self._of_llm = [[n for n, spec in enumerate(setup.specs) if spec.llm == llm] for llm in setup.llms]
        first = self._more(at.L_WORDS * len(setup.llms))
        counters = [0] * len(setup.specs)
        for number, mine in enumerate(self._of_llm):
            lists = self._more(2 * len(mine))
            llm = first + number * at.L_WORDS
            self._m[llm + at.L_COUNT] = len(mine)
            self._m[llm + at.L_INSTANCES_AT] = lists
            self._m[llm + at.L_OUTSTANDING_AT] = lists + len(mine)
            for place, instance in enumerate(mine):
                counters[instance] = lists + len(mine) + place
        self._m[at.LLMS], self._m[at.LLMS_COUNT] = first, len(setup.llms)
        return counters

    def _lay_out_instance(self, number: int, gpus: Sequence[int], counter: int) -> int:
        spec, places = self._setup.specs[number], self._setup.places[number]
        engine, step, law = spec.engine, spec.step, spec.share_law
        running = min(engine.max_num_seqs, spec.kv_blocks) + 16
        ends = 2 * running
        ahead = running * (1 + at.LEAVING_WORDS) if engine.async_scheduling else 0
        i = self._more(at.I_WORDS + 2 * len(places) + engine.block_tokens + 3 * ends + ahead)
        m, f = self._m, self._m.view(np.float64)
        behind = i + at.I_WORDS
        whole = {
            at.I_NUMBER: number,
            at.I_LLM: self._setup.llms.index(spec.llm),
            at.I_OUTSTANDING_AT: counter,
            at.I_BLOCKS: spec.kv_blocks,
            at.I_BLOCK_TOKENS: engine.block_tokens,
            at.I_MAX_SEQS: engine.max_num_seqs,
            at.I_MAX_TOKENS: engine.max_num_batched_tokens,
            at.I_MAX_QUEUED: -1 if engine.max_num_queued is None else engine.max_num_queued,
            at.I_CACHING: engine.prefix_caching,
            at.I_AHEAD: engine.async_scheduling,
            at.I_LONGEST: min(spec.kv_blocks * engine.block_tokens, spec.context_limit),
            at.I_CONTEXT_LIMIT: spec.context_limit,
            at.I_WEIGHT: spec.weight,
            at.I_SHARED: any(len(self._tenants[gpu]) > 1 for gpu in places),
            at.I_PLACES: len(places),
            at.I_PLACES_AT: behind,
            at.I_RESIDUES: behind + 2 * len(places),
            at.I_ENDS: behind + 2 * len(places) + engine.block_tokens,
            at.I_ENDS_ROOM: ends,
            at.I_BEGINS: behind + 2 * len(places) + engine.block_tokens + 3 * ends,
            at.I_LEAVING: behind + 2 * len(places) + engine.block_tokens + 3 * ends + running,
            at.I_WEIGHTS: self._weights(spec),
            at.I_PREFILL_TOKENS: law.prefill_tokens,
            at.I_ALARM: -1,
            at.I_FREE: spec.kv_blocks,
            at.I_PLAIN: spec.kv_blocks,
        }
        real = {
            at.I_BASE: step.base_s,
            at.I_PREFILL: step.prefill_s_per_token,
            at.I_DECODE: step.decode_s_per_sequence,
            at.I_CONTEXT_COST: step.context_s_per_token,
            at.I_ATTENTION: step.attention_s_per_token2,
            at.I_DECODE_K: law.decode_k,
            at.I_DECODE_LARGE_K: law.decode_large_k,
            at.I_LOW_BATCH: law.decode_small_batch,
            at.I_BATCH_RANGE: law.decode_large_batch - law.decode_small_batch,
            at.I_EXTRA: 100.0 / spec.share_pct - 1.0,
            at.I_PREFILL_FACTOR: law.prefill_factor(law.prefill_tokens, spec.share_pct),
            at.I_PREFILL_SMALL_FACTOR: law.prefill_factor(law.prefill_tokens - 1, spec.share_pct),
            at.I_SLOW: 1.0,
        }
        for field, value in whole.items():
            m[i + field] = value
        for field, figure in real.items():
            f[i + field] = figure
        for place, gpu in enumerate(places):
            m[behind + 2 * place] = gpus[gpu]
            m[behind + 2 * place + 1] = self._tenants[gpu].index(number)
        return i

    def _weights(self, spec: ReplicaSpec) -> int:
        """Address of the seconds that weights take by the tokens of an iteration; 0: always the same."""
        if not spec.step.experts_s:
            return 0
        most = max(spec.engine.max_num_batched_tokens, spec.engine.max_num_seqs)
        table = self._keep[f"weights of {spec.name}"] = _weights_s(spec.step, most)
        return int(table.ctypes.data)

    def _finish_lists(self) -> None:
        """Fill in who is where, now that all have places."""
        first = self._more(len(self._instances))
        m = self._m
        m[first : first + len(self._instances)] = self._instances
        m[at.INSTANCES], m[at.INSTANCES_COUNT] = first, len(self._instances)
        first = self._more(len(self._gpus))
        m = self._m
        m[first : first + len(self._gpus)] = self._gpus
        m[at.GPUS], m[at.GPUS_COUNT] = first, len(self._gpus)
        for gpu, mine in zip(self._gpus, self._tenants, strict=True):
            for place, number in enumerate(mine):
                m[gpu + at.G_WORDS + place] = self._instances[number]
        for number, mine in enumerate(self._of_llm):
            lists = m[m[at.LLMS] + number * at.L_WORDS + at.L_INSTANCES_AT]
            for place, instance in enumerate(mine):
                m[lists + place] = self._instances[instance]

    # ---- what the core asks for --------------------------------------------------------------------------------------

    def _room(self, words: int) -> None:
        """Give the arena at least so many words more."""
        top = int(self._m[at.TOP])
        larger = _on_a_line(max(2 * top, top + 2 * words))
        # The fixed part ends at its last word, and what is behind it begins on a line of its own.
        kept = min(top, len(self._m))
        larger[:kept] = self._m[:kept]
        larger[kept:top] = 0
        self._m = larger
        self._m[at.ROOM] = len(larger)

    def _grow(self, name: str, room: int) -> None:
        field, size_field, room_field, width = {
            "heap": (at.HEAP, at.HEAP_SIZE, at.HEAP_ROOM, at.EVENT_WORDS),
            "far": (at.FAR, at.FAR_SIZE, at.FAR_ROOM, at.FAR_WORDS),
            "calls": (at.OUT_CALLS, at.OUT_CALLS_SIZE, at.OUT_CALLS_ROOM, at.OC_WORDS),
            "runs": (at.OUT_RUNS, at.OUT_RUNS_SIZE, at.OUT_RUNS_ROOM, at.OR_WORDS),
        }[name]
        new, size = np.empty((room, width), dtype=np.int64), int(self._m[size_field])
        if size:
            new[:size] = self._keep[name][:size]
        self._keep[name] = new
        self._m[field], self._m[room_field] = new.ctypes.data, room

    def _new_table(self, slots: int) -> None:
        table = np.zeros(2 * slots, dtype=np.int64)
        if self._m[at.TABLE_COUNT]:
            self._keep["old table"] = self._keep["table"]
            self._m[at.OLD_TABLE], self._m[at.OLD_MASK] = self._m[at.TABLE], self._m[at.TABLE_MASK]
        self._keep["table"] = table
        self._m[at.TABLE], self._m[at.TABLE_MASK] = table.ctypes.data, slots - 1

    def _give_arrivals(self) -> None:
        chunk = next(self._arrivals, None)
        first, end = int(self._m[at.ARRIVALS_AT]), chunk is None
        kept = self._keep.get("arrivals", np.zeros((0, self._width), dtype=np.int64))[first:]
        rows = kept if chunk is None else np.ascontiguousarray(np.concatenate((kept, chunk)))
        self._keep["arrivals"] = rows = np.ascontiguousarray(rows)
        self._m[at.ARRIVALS], self._m[at.ARRIVALS_AT] = rows.ctypes.data, 0
        self._m[at.ARRIVALS_SIZE], self._m[at.ARRIVALS_END] = len(rows), end

    def _give_users(self) -> None:
        """New plans for those who used theirs up; the last, which may still be pending, stays in front."""
        count = len(self._users)
        if "users" not in self._keep:
            self._keep["users"] = np.zeros((max(count, 1), at.U_WORDS), dtype=np.int64)
            self._m[at.USERS], self._m[at.USERS_COUNT] = self._keep["users"].ctypes.data, count
        table = self._keep["users"]
        for number in np.flatnonzero(table[:count, at.U_AT] >= table[:count, at.U_SIZE]).tolist():
            chunk, name = next(self._users[number]), f"user {number}"
            begin = 0
            if name in self._keep:
                chunk, begin = np.concatenate((self._keep[name][-1:], chunk)), 1
            self._keep[name] = chunk = np.ascontiguousarray(chunk)
            table[number] = (chunk.ctypes.data, begin, len(chunk), 0)
        self._m[at.USERS_EMPTY] = 0

    def _give_pairs(self) -> None:
        """Pairs of instances for the router that looks at two, drawn as ``sim.policies.routers.PowerOfTwo`` draws them."""
        if self._setup.router != at.POWER_OF_TWO:
            return
        wanted = 1024 + 2 * int(self._m[at.MOST_CHILDREN]) * (1 + int(min(self._m[at.CALLS_LIVE], self._m[at.MOST_RUNNING])))
        for number, name in enumerate(self._setup.llms):
            count, llm = len(self._of_llm[number]), int(self._m[at.LLMS]) + number * at.L_WORDS
            if count < 2:
                continue
            if number not in self._pairs:
                rng = stream(self._setup.seed, "router", "power-of-two", name)
                self._pairs[number] = (rng, np.zeros((0, 2), dtype=np.int64))
            rng, had = self._pairs[number]
            left = had[int(self._m[llm + at.L_PAIRS_AT]) :]
            new = [rng.choice(count, size=2, replace=False) for _ in range(wanted - len(left))]
            pairs = np.ascontiguousarray(np.concatenate((left, np.array(new, dtype=np.int64).reshape(-1, 2))))
            self._pairs[number] = (rng, pairs)
            self._m[llm + at.L_PAIRS], self._m[llm + at.L_PAIRS_AT] = pairs.ctypes.data, 0
            self._m[llm + at.L_PAIRS_SIZE] = len(pairs)

    def _know_templates(self) -> None:
        """Tell the core where the templates are and what the largest of them asks for."""
        templates, m = self._templates, self._m
        m[at.TEMPLATES] = templates.words.ctypes.data
        m[at.MOST_CHILDREN] = templates.most_children
        m[at.MOST_RUN_WORDS] = 1 << _class_of(at.R_WORDS + self._homes + templates.most_calls)
        m[at.MOST_LIST_WORDS] = (1 << _class_of(templates.most_keys)) if templates.most_keys else 0
        if self._homes and self._setup.router == at.AFFINITY:
            had = self._keep.get("homes", np.zeros((0, self._homes), dtype=np.int64))
            if len(templates.sessions) > len(had) or "homes" not in self._keep:
                new = np.full((2 * len(templates.sessions) + 1, self._homes), -1, dtype=np.int64)
                new[: len(had)] = had
                self._keep["homes"] = new
                m[at.SESSION_HOMES] = new.ctypes.data

    def _hand_over(self) -> None:
        for name, size_field, room_field in (
            ("calls", at.OUT_CALLS_SIZE, at.OUT_CALLS_ROOM),
            ("runs", at.OUT_RUNS_SIZE, at.OUT_RUNS_ROOM),
        ):
            size = int(self._m[size_field])
            if size:
                self._rows(name, self._keep[name][:size])
                self._m[size_field] = 0
            needed = self._rows_needed()
            if needed > int(self._m[room_field]):
                self._grow(name, 2 * needed)

    def _rows_needed(self) -> int:
        m = self._m
        ending = int(min(m[at.CALLS_LIVE], m[at.MOST_RUNNING])) + 1
        return ending * (int(m[at.MOST_CHILDREN]) + 1) + 1

    # ---- running -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """To the end. Raises ``SimulationError`` where the SimPy engine does, and ``TooLong``."""
        step, begin = advance(), 1
        while True:
            code = step(self._m.ctypes.data, begin)
            begin = 0
            if code == at.FINISHED:
                break
            self._serve(code)
        self._hand_over()
        self._finish()

    def _serve(self, code: int) -> None:
        """Give the core what it asks for, or raise what went wrong."""
        m = self._m
        if code == at.NEEDS_ARRIVALS:
            self._give_arrivals()
            self._know_templates()
        elif code == at.NEEDS_USERS:
            self._give_users()
            self._know_templates()
        elif code == at.NEEDS_PAIRS:
            self._give_pairs()
        elif code == at.NEEDS_TABLE:
            slots = int(m[at.TABLE_MASK]) + 1
            while 2 * (int(m[at.TABLE_COUNT]) + int(m[at.MOST_NEW_BLOCKS])) >= slots:
                slots *= 2
            self._new_table(slots)
        elif code == at.NEEDS_HEAP:
            rows = self._rows_needed()
            self._grow("heap", max(2 * int(m[at.HEAP_ROOM]), 2 * (int(m[at.HEAP_SIZE] + m[at.FAR_SIZE]) + 3 * rows + 64)))
            self._grow("far", max(2 * int(m[at.FAR_ROOM]), 2 * (int(m[at.FAR_SIZE]) + rows + 64)))
        elif code == at.NEEDS_ROOM:
            self._room(self._words_needed())
        elif code == at.ROWS_FULL:
            self._hand_over()
        else:
            self._fail(code)

    def _words_needed(self) -> int:
        m = self._m
        ending = int(min(m[at.CALLS_LIVE], m[at.MOST_RUNNING])) + 1
        issued = ending * int(m[at.MOST_CHILDREN])
        words = issued * (3 << at.C_CLASS) + (ending + issued) * (16 + int(m[at.MOST_LIST_WORDS]))
        return words + int(m[at.MOST_RUN_WORDS]) + (int(m[at.MOST_NEW_BLOCKS]) << at.B_CLASS)

    def _fail(self, code: int) -> None:
        m, now_s = self._m, self.now / TICKS_PER_S
        if code == at.STALLED:
            raise SimulationError(
                f"the simulation stalled at {now_s:.6f} s with {m[at.OPEN_COUNT]} of {m[at.RUNS_ISSUED]} runs open "
                f"and {len(self._in_flight())} calls in flight: no event is left"
            )
        if code == at.BACKWARDS:
            row = self._keep["arrivals"][m[at.ARRIVALS_AT]]
            at_s = ((int(row[at.A_EPOCH]) << at.EPOCH_BITS) + int(row[at.A_TIME])) / TICKS_PER_S
            name = f"{self._names[row[at.A_NAME]]}-{row[at.A_NUMBER]}"
            raise SimulationError(f"time goes backwards: run {name} arrives at {at_s!r} s, after {now_s!r} s")
        place = int(m[at.ERROR_PLACE])
        spec = self._setup.specs[self._instances.index(place)]
        if code == at.NEVER_FITS:
            call = int(m[at.ERROR_CALL])
            check_fits(spec, int(m[call + at.C_INPUT]), int(m[call + at.C_OUTPUT]))
        if code == at.CANNOT_ADMIT:
            waiting = self._waiting(place)
            raise stalled(
                spec.name, now_s, len(waiting), int(m[waiting[0] + at.C_INPUT]), int(m[place + at.I_FREE]), spec.kv_blocks
            )
        if code == at.TOO_LONG:
            raise TooLong(
                f"instance {spec.name} decodes for {at.LONGEST / TICKS_PER_S:.0f} s from {now_s:.6f} s on without anything to "
                "decide: the compiled core cannot count that far (use engine 'simpy')"
            )
        raise AssertionError(f"the compiled core returned {code} at {now_s!r} s")

    # ---- what it did -------------------------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """The clock, ticks."""
        return (int(self._m[at.EPOCH_NUMBER]) << at.EPOCH_BITS) + int(self._m[at.NOW])

    @property
    def runs_issued(self) -> int:
        """Runs that arrived."""
        return int(self._m[at.RUNS_ISSUED])

    def meters(self) -> list[Meters]:
        """What each instance did."""
        found = []
        for spec, i in zip(self._setup.specs, self._instances, strict=True):
            field = self._m[i : i + at.I_WORDS].tolist()
            busy = (field[at.I_BUSY_HIGH] << at.METER_BITS) + field[at.I_BUSY]
            prompt = (field[at.I_PROMPT_HIGH] << at.METER_BITS) + field[at.I_PROMPT]
            kv = (field[at.I_KV_HIGH] << at.KV_BITS) + field[at.I_KV_LOW]
            found.append(
                Meters(
                    name=spec.name,
                    spec=spec,
                    busy_ticks=busy,
                    decode_ticks=busy - prompt,
                    kv_block_ticks=kv,
                    peak_blocks=field[at.I_PEAK],
                    iterations=field[at.I_ITERATIONS],
                    prefilled_tokens=field[at.I_PREFILLED],
                    preemptions=field[at.I_PREEMPTIONS],
                )
            )
        return found

    def copied_meters(self, end: bool) -> list[tuple[int, int, int]]:
        """(busy ticks, decoding ticks, prompt tokens) of each instance at the warm-up's end, or at the last arrival."""
        first, found = at.I_END if end else at.I_BEGIN, []
        for i in self._instances:
            busy, busy_high, prompt, prompt_high, tokens = self._m[i + first : i + first + 5].tolist()
            busy += busy_high << at.METER_BITS
            found.append((busy, busy - prompt - (prompt_high << at.METER_BITS), tokens))
        return found

    def _linked(self, first: int, following: int) -> list[int]:
        found = []
        while first:
            found.append(first)
            first = int(self._m[first + following])
        return found

    def _waiting(self, i: int) -> list[int]:
        """Waiting calls, the next to admit first; those of an ordered queue in any order behind it."""
        found = self._linked(int(self._m[i + at.I_FRONT]), at.C_NEXT)
        entries = [int(self._m[i + at.I_ORDERED])]
        while entries:
            entry = entries.pop()
            if entry:
                if self._m[entry + at.N_CALL]:
                    found.append(int(self._m[entry + at.N_CALL]))
                entries += [int(self._m[entry + at.N_LEFT]), int(self._m[entry + at.N_RIGHT])]
        return found

    def _in_flight(self) -> list[int]:
        found = []
        for i in self._instances:
            found += self._linked(int(self._m[i + at.I_DECODERS]), at.C_AFTER)
            found += self._linked(int(self._m[i + at.I_FINISHING]), at.C_NEXT)
            found += [int(self._m[i + at.I_PARTIAL])] if self._m[i + at.I_PARTIAL] else []
            leaving = int(self._m[i + at.I_LEAVING])
            found += self._m[
                leaving : leaving + at.LEAVING_WORDS * int(self._m[i + at.I_LEAVING_SIZE]) : at.LEAVING_WORDS
            ].tolist()
            found += self._waiting(i)
        return found

    def _finish(self) -> None:
        """Write down what is still open as unfinished, calls in order of issue."""
        m, rows = self._m, []
        for call in self._in_flight():
            run, place = int(m[call + at.C_RUN]), int(m[call + at.C_INSTANCE])
            epochs = int(m[call + at.C_EPOCHS])
            row = np.zeros(at.OC_WORDS, dtype=np.int64)
            row[at.OC_NAME], row[at.OC_NUMBER] = m[run + at.R_NAME], m[run + at.R_NUMBER]
            row[at.OC_SALT] = m[run + at.R_SALT]
            row[at.OC_CALL] = self._templates.words[m[call + at.C_STEP] + at.S_INDEX]
            row[at.OC_INSTANCE] = m[place + at.I_NUMBER]
            row[at.OC_ISSUED], row[at.OC_SCHEDULED] = m[call + at.C_ISSUED], m[call + at.C_SCHEDULED]
            row[at.OC_FIRST], row[at.OC_END], row[at.OC_EPOCHS] = m[call + at.C_FIRST], -1, epochs
            row[at.OC_CACHED], row[at.OC_PREEMPTIONS] = m[call + at.C_CACHED], m[call + at.C_PREEMPTIONS]
            row[at.OC_STATUS] = at.STATUS_UNFINISHED
            issued = (epochs & ((1 << at.TAG_BITS) - 1), int(m[call + at.C_ISSUED]))
            name = f"{self._names[m[run + at.R_NAME]]}-{m[run + at.R_NUMBER]}"
            rows.append(((issued, name, int(m[call + at.C_NODE])), row))
        if rows:
            self._rows("calls", np.array([row for _, row in sorted(rows, key=lambda each: each[0])]))
        run, open_rows = int(m[at.OPEN_FIRST]), []
        while run:
            row = np.zeros(at.OR_WORDS, dtype=np.int64)
            row[at.OR_NAME], row[at.OR_NUMBER] = m[run + at.R_NAME], m[run + at.R_NUMBER]
            row[at.OR_TEMPLATE] = self._templates.words[m[run + at.R_TEMPLATE] + at.T_INDEX]
            row[at.OR_ARRIVAL], row[at.OR_ARRIVAL_EPOCH] = m[run + at.R_ARRIVAL], m[run + at.R_ARRIVAL_EPOCH]
            row[at.OR_END], row[at.OR_STATUS] = -1, at.STATUS_UNFINISHED
            open_rows.append(row)
            run = int(m[run + at.R_NEXT])
        if open_rows:
            self._rows("runs", np.array(open_rows))


@lru_cache(maxsize=64)
def _weights_s(step: StepModel, most: int) -> Words:
    """``step.weights_s`` of 0 to ``most`` tokens, floats, by Python's own power."""
    return np.array([step.weights_s(tokens) for tokens in range(most + 1)]).view(np.int64)


def _on_a_line(words: int) -> Words:
    """An array that begins where a line of the processor's cache does, so that a record lies on no more lines than it must."""
    whole = np.empty(words + LINE, dtype=np.int64)
    first = -whole.ctypes.data // 8 % LINE
    return whole[first : first + words]


def _class_of(words: int) -> int:
    return max(words - 1, 0).bit_length()
