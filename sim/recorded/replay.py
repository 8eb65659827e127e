"""One instance, one list of calls at given times: a recorded engine run replayed."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scepsy.profile.model import EngineLimits
from scepsy.profile.share import ContentionLaw, ShareLaw
from scepsy.profile.step import StepModel
from sim.engine.ahead import make_replica
from sim.engine.clock import ARRIVAL, TICKS_PER_S, Kernel, ticks
from sim.engine.gpu import GpuState
from sim.engine.queue import Queue
from sim.engine.replica import Replica, ReplicaSpec, Work
from sim.engine.request import NO_KEYS, Request
from sim.recorded.enginerun import EngineRun

Array = npt.NDArray[np.float64]

WHOLE_GPU = ShareLaw(prefill_k=0.0, prefill_small_k=0.0, decode_k=0.0, decode_large_k=0.0)
"""No share law: the instance has its GPUs to itself."""


@dataclass(frozen=True)
class Replay:
    """What the simulated engine did; times in seconds, requests in order of arrival."""

    first_token_s: Array
    last_token_s: Array
    preemptions: int
    peak_kv_blocks: int
    work_end_s: Array
    """End of every event of the engine (an iteration with prompt tokens, or a span of decode iterations)."""
    work: Array
    """Per event: iterations, prompt tokens, Σ decoding sequences, Σ context tokens, Σ prompt tokens' context: the columns a
    step model is linear in."""

    def work_until(self, at_s: Array) -> Array:
        """Work done in all events that ended by each time; shape (times, 5)."""
        total = np.vstack([np.zeros(5), np.cumsum(self.work, axis=0)])
        done: Array = total[np.searchsorted(self.work_end_s, at_s + 1e-9, side="right")]
        return done


class _Client:
    """Sends every request at its time and keeps the answers."""

    id = "replay"
    served_tokens = 0
    remaining_tokens = 0
    waited_ticks = 0
    served_ticks = 0

    def __init__(self, env: Kernel) -> None:
        self.env = env
        self.ended: dict[int, Request] = {}
        self.work: list[Work] = []

    def call_ended(self, request: Request) -> None:
        """Keep the answer."""
        self.ended[request.node] = request

    def iteration_ended(self, replica: Replica, work: Work) -> None:
        """Keep what the engine did."""
        self.work.append(work)

    def idle(self, replica: Replica, now: int) -> None:
        """Nothing to keep."""


def one_replica(env: Kernel, step: StepModel, engine: EngineLimits, kv_blocks: int) -> Replica:
    """An instance with its GPU to itself and no limit on the context but its KV cache."""
    spec = ReplicaSpec(
        name="replayed-0",
        llm="replayed",
        step=step,
        engine=engine,
        share_law=WHOLE_GPU,
        share_pct=100,
        kv_blocks=kv_blocks,
        context_limit=1 << 62,
    )
    return make_replica(env, 0, spec, [GpuState("replayed/0", ContentionLaw(interference=0.0))], Queue())


def replay(run: EngineRun, step: StepModel) -> Replay:
    """Replay a recorded run's arrivals and lengths on a simulated engine with its settings."""
    env = Kernel()
    replica = one_replica(env, step, run.engine, run.kv_blocks)
    client = _Client(env)
    replica.observer = client
    sizes = zip(run.arrival_s.tolist(), run.input_tokens.tolist(), run.output_tokens.tolist(), strict=True)
    for number, (arrival_s, input_tokens, output_tokens) in enumerate(sizes):

        def send(_: object, number: int = number, input_tokens: int = input_tokens, output_tokens: int = output_tokens) -> None:
            replica.submit(Request(client, number, input_tokens, output_tokens, NO_KEYS, env.now))

        env.alarm(ticks(arrival_s), ARRIVAL, send)
    env.run()
    ended = [client.ended[number] for number in range(len(run))]
    return Replay(
        first_token_s=np.array([request.first_token for request in ended], dtype=float) / TICKS_PER_S,
        last_token_s=np.array([request.end for request in ended], dtype=float) / TICKS_PER_S,
        preemptions=replica.preemptions,
        peak_kv_blocks=replica.peak_blocks,
        work_end_s=np.array([item.end for item in client.work], dtype=float) / TICKS_PER_S,
        work=np.array(
            [(w.steps, w.prompt_tokens, w.steps * w.decoding, w.context_sum, w.area) for w in client.work], dtype=float
        ).reshape(-1, 5),
    )
