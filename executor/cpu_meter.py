"""What an engine did and the CPU time it took: on cores, the engine's own work tells how fast the machine is.

Cores of a rented machine are often hyperthreads whose siblings belong to somebody else: the same work takes up to 1.7 times
as long while a neighbour is busy, for seconds or minutes, and no counter of the guest shows it. A profile made in a fast
minute and a measurement made in a slow one then describe different machines. An engine counts its iterations and tokens, and
the kernel the CPU time of its processes: CPU seconds over the seconds that the step model gives to the same work are the
machine's speed, as this engine feels it. CPU time, not wall time: waiting for a core or a quota does not count.
"""

import contextlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import psutil

from executor.local.engine_metrics import read_metrics
from executor.local.state import Child
from scepsy.profile.step import StepModel


@dataclass(frozen=True)
class EngineWork:
    """What an engine did between two looks at it."""

    cpu_s: float = 0.0
    """Of the engine's processes: server, core and workers."""
    iterations: float = 0.0
    prompt_tokens: float = 0.0
    """Computed ones; what the prefix cache had is left out."""
    decoded_tokens: float = 0.0
    """Output tokens but the first of each call, which its prompt's iteration brings."""

    def __add__(self, other: "EngineWork") -> "EngineWork":
        return EngineWork(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __sub__(self, other: "EngineWork") -> "EngineWork":
        return EngineWork(**{f.name: getattr(self, f.name) - getattr(other, f.name) for f in fields(self)})

    def step_s(self, step: StepModel, shape: "Shape") -> float:
        """Seconds that ``step`` gives to this work, done for calls of ``shape``.

        >>> EngineWork(iterations=10, prompt_tokens=100, decoded_tokens=20).step_s(
        ...     StepModel(base_s=0.01, prefill_s_per_token=1e-4, decode_s_per_sequence=1e-3), Shape())
        0.13
        """
        prompt_s = step.prefill_s_per_token + step.attention_s_per_token2 * shape.before_prompt_token
        decode_s = step.decode_s_per_sequence + step.context_s_per_token * shape.context_tokens
        tokens = (self.prompt_tokens + self.decoded_tokens) / self.iterations if self.iterations else 0.0
        return step.weights_s(tokens) * self.iterations + prompt_s * self.prompt_tokens + decode_s * self.decoded_tokens


NOTHING = EngineWork()


@dataclass(frozen=True)
class Shape:
    """What an engine does not count: means over the tokens of the calls it served."""

    before_prompt_token: float = 0.0
    """Tokens before a prompt token in its prompt."""
    context_tokens: float = 0.0
    """Tokens that a decoded token's iteration reads for it."""


NO_CALLS = Shape()


def shape_of(input_tokens: npt.ArrayLike, output_tokens: npt.ArrayLike) -> Shape:
    """Of calls without cached prefixes.

    >>> shape_of([100], [3])  # the second token's iteration reads 101 tokens, the third's 102
    Shape(before_prompt_token=50.0, context_tokens=101.5)
    """
    prompt = np.asarray(input_tokens, dtype=float)
    decoded = np.maximum(np.asarray(output_tokens, dtype=float) - 1, 0)
    read = (decoded * (prompt + (decoded + 1) / 2)).sum()
    return Shape(
        before_prompt_token=float((prompt**2 / 2).sum() / prompt.sum()) if prompt.sum() else 0.0,
        context_tokens=float(read / decoded.sum()) if decoded.sum() else 0.0,
    )


def cpu_s_of(processes: Iterable[psutil.Process]) -> float:
    """CPU seconds so far of processes and all their children."""
    found = {process.pid: process for process in processes}
    for process in list(found.values()):
        with contextlib.suppress(psutil.Error):
            # An engine's core process writes its title over its environment, and with it over the deployment's mark.
            found |= {child.pid: child for child in process.children(recursive=True)}
    total_s = 0.0
    for process in found.values():
        with contextlib.suppress(psutil.Error):
            used = process.cpu_times()
            total_s += used.user + used.system
    return total_s


def work_so_far(engine: Child) -> EngineWork | None:
    """All that an engine did since it started; None when it does not answer."""
    metrics = read_metrics(engine.url)
    if metrics is None:
        return None
    try:
        cpu_s = cpu_s_of([psutil.Process(engine.pid)])
    except psutil.Error:
        return None
    generated = metrics.get("generated_tokens", 0.0)
    return EngineWork(
        cpu_s=cpu_s,
        iterations=metrics.get("iteration_tokens_count", 0.0),
        prompt_tokens=metrics.get("prompt_tokens", 0.0) - metrics.get("prefix_hit_tokens", 0.0),
        decoded_tokens=max(0.0, generated - metrics.get("requests", 0.0)) if generated else 0.0,
    )


IDLE_S = 3.0
"""How long idle engines are looked at: 1.5 % of a core is then told from its CPU ticks of 10 ms to a fifth."""


class Meter:
    """Looks at engines that serve nothing when made; after ``start``, ``read`` tells what each did.

    What an engine takes while idle it takes at all times, and it is not work: it is taken off (with vLLM 0.32, whose core has
    thirteen threads that wake a hundred times a second, 1 to 2 % of a core). A restarted or silent engine is left out.
    """

    def __init__(self, engines: Sequence[Child], idle_s: float = IDLE_S) -> None:
        self._engines = {engine.name: engine for engine in engines}
        self._idle: dict[str, float] = {}
        if engines:
            self.start()
            time.sleep(idle_s)
            self._idle = {name: work.cpu_s / idle_s for name, work in self.read().items()}
        self.start()

    def start(self) -> None:
        """Count from now on."""
        self._start_s, self._before = time.monotonic(), self._look()

    def _look(self) -> dict[str, EngineWork]:
        return {name: work for name, engine in self._engines.items() if (work := work_so_far(engine)) is not None}

    def read(self) -> dict[str, EngineWork]:
        """Work by instance since ``start``."""
        after, gone_s = self._look(), time.monotonic() - self._start_s
        found = {}
        for name, before in self._before.items():
            if name in after:
                work = after[name] - before
                found[name] = replace(work, cpu_s=max(0.0, work.cpu_s - gone_s * self._idle.get(name, 0.0)))
        return found


def encode(work: Mapping[str, EngineWork]) -> str:
    """As one value of a table's meta."""
    return json.dumps({name: asdict(done) for name, done in work.items()})


def decode(text: str) -> dict[str, EngineWork]:
    """The inverse of ``encode``."""
    return {name: EngineWork(**done) for name, done in json.loads(text).items()}
