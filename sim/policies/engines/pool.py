"""Systems whose engines serve several LLMs: runs walk their DAGs as ever, but calls enter a pool instead of a router."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import pyarrow as pa

from scepsy.arrivals import issue, users
from scepsy.backend import Workload
from scepsy.errors import SimulationError
from scepsy.llm import Llm
from scepsy.profile.model import EngineLimits, Profile
from scepsy.profile.step import StepModel
from scepsy.records import CALL_SCHEMA, RUN_SCHEMA, Records
from scepsy.version import __version__
from sim.engine.clock import TICKS_PER_S, Kernel
from sim.engine.prefix import PrefixKeys
from sim.engine.request import Request
from sim.policies.routers.base import Router
from sim.world.recorder import RecordWriter
from sim.world.run import run_to_the_end
from sim.world.world import World


class Pool(Protocol):
    """Takes every call of every LLM; ended calls go back to their ``caller``."""

    def submit(self, llm: str, request: Request) -> None:
        """Take a call in. Raises ``SimulationError`` for one that can never fit."""


class _Gate:
    """Stands where a router and its instance stand: hands the calls of one LLM to the pool."""

    def __init__(self, llm: str, pool: Pool) -> None:
        self._llm = llm
        self._pool = pool

    def __call__(self, request: Request, session: str) -> _Gate:
        return self

    def submit(self, request: Request) -> None:
        self._pool.submit(self._llm, request)


@dataclass(frozen=True)
class PooledLlm:
    """What a pool's engine needs to know of one LLM on one mesh of GPUs."""

    llm: Llm
    step: StepModel
    engine: EngineLimits
    tensor_parallel: int = 1

    @classmethod
    def of(cls, profile: Profile) -> PooledLlm:
        """From a profile."""
        return cls(profile.llm, profile.step, profile.engine, profile.tensor_parallel)

    @property
    def name(self) -> str:
        """The LLM's name."""
        return self.llm.name

    def prefill_s(self, tokens: int, context: int) -> float:
        """Seconds to compute ``tokens`` prompt tokens of a prompt of ``context`` tokens in an iteration of their own."""
        return (
            self.step.weights_s(tokens)
            + self.step.prefill_s_per_token * tokens
            + self.step.attention_s_per_token2 * tokens * context
        )

    def check_fits(self, request: Request, kv_tokens: int, where: str) -> None:
        """Raise ``SimulationError`` when the call fits neither the context nor ``kv_tokens`` of KV cache."""
        total = request.input_tokens + request.output_tokens
        if total > self.llm.context_limit:
            raise SimulationError(
                f"a call of {request.input_tokens} input and {request.output_tokens} output tokens never fits: "
                f"{self.name} takes a context of {self.llm.context_limit} tokens"
            )
        if self.llm.kv_bytes_per_token and total > kv_tokens:
            raise SimulationError(
                f"a call of {total} tokens never fits {where}, which holds KV for {kv_tokens} tokens of {self.name}"
            )


class PrefixStore:
    """Prompt blocks whose KV is kept, the least recently used dropped first."""

    def __init__(self, blocks: int) -> None:
        self._room = blocks
        self._kept: OrderedDict[int, None] = OrderedDict()

    def find(self, keys: Sequence[int], limit: int) -> int:
        """How many leading blocks are kept, at most ``limit``."""
        found = 0
        for key in keys[:limit]:
            if key not in self._kept:
                break
            self._kept.move_to_end(key)
            found += 1
        return found

    def keep(self, keys: Sequence[int]) -> None:
        """Keep a prompt's blocks."""
        for key in keys:
            self._kept[key] = None
            self._kept.move_to_end(key)
        while len(self._kept) > self._room:
            self._kept.popitem(last=False)


def cached_tokens(store: PrefixStore, request: Request, block_tokens: int) -> int:
    """Prompt tokens that the store has; the last token is always computed, since its logits are needed."""
    return store.find(request.keys, (request.input_tokens - 1) // block_tokens) * block_tokens


def replay_pool(make: Callable[[Kernel], Pool], workload: Workload, llms: Mapping[str, PooledLlm], *, system: str) -> Records:
    """Replay a workload on the pool that ``make`` builds. Raises ``SimulationError`` for an LLM not served, or on a stall."""
    kept: dict[str, list[pa.RecordBatch]] = {"runs": [], "calls": []}
    recorder = RecordWriter(lambda table, batch: kept[table].append(batch))
    env = Kernel()
    blocks = {name: item.engine.block_tokens for name, item in llms.items()}
    world = World(env, recorder, PrefixKeys([(item.trace, item.arrivals.kind != "trace") for item in workload.streams], blocks))
    pool = make(env)
    for item in workload.streams:
        for name in item.trace.llms:
            if name not in llms:
                raise SimulationError(
                    f"workflow {item.workflow} calls {name}, which {system} does not serve ({', '.join(llms)})"
                )
            world.routers[name] = cast(Router, _Gate(name, pool))
    world.load(workload, issue(workload), users(workload))
    run_to_the_end(world)
    recorder.close()
    meta = {
        "source": "simulated",
        "seed": str(workload.seed),
        "system": system,
        "version": __version__,
        "simulated_s": repr(env.now / TICKS_PER_S),
    }
    return Records(
        runs=pa.Table.from_batches(kept["runs"], RUN_SCHEMA), calls=pa.Table.from_batches(kept["calls"], CALL_SCHEMA), meta=meta
    )
