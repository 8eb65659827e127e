"""How fast this machine is right now: a fixed piece of work, timed on every core that engines use.

Cores of a rented machine are often hyperthreads whose siblings belong to somebody else: the same work takes up to 1.7 times
as long while a neighbour is busy, for seconds or minutes, and no counter of the guest shows it. A profile made in a fast
minute and a measurement made in a slow one then describe different machines. So a small process does the same work every
``PERIOD_S`` on each core and notes the CPU time it took. CPU time, not wall time: being preempted by an engine does not count.

The work is interpreter and memory, like a small engine's step: a loop, and a copy that does not fit the second-level cache.
``python -m executor.speed FILE CORES`` is that process; ``probing`` runs it, the functions below read what it wrote.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PERIOD_S = 0.4
"""Between two rounds: with about 1.5 ms of work, 0.4 % of a core."""

FASTEST_PCT = 5.0
"""The percentile of all samples that stands for the machine at full speed: the minimum itself is a matter of luck."""

LEAST_SAMPLES = 20
"""Fewer say nothing about what full speed is."""

_LOOPS, _COPY_FLOATS = 20_000, 2_000_000


@dataclass(frozen=True)
class Sample:
    """One piece of work."""

    at_s: float
    """When it was done, seconds since the epoch."""
    core: int
    cpu_s: float


def make_work() -> Callable[[], None]:
    """The fixed piece of work: about 0.8 ms of interpreter and 0.5 ms of memory traffic on a core of 2023."""
    source, target = np.ones(_COPY_FLOATS, np.float32), np.empty(_COPY_FLOATS, np.float32)

    def work() -> None:
        total = 0
        for number in range(_LOOPS):
            total += number * number
        np.copyto(target, source)

    return work


def round_of(
    cores: Iterable[int],
    work: Callable[[], None],
    *,
    bind: Callable[[int], None] = lambda core: os.sched_setaffinity(0, {core}),
    cpu_s: Callable[[], float] = time.thread_time,
    now_s: Callable[[], float] = time.time,
) -> list[Sample]:
    """One sample per core."""
    found = []
    for core in cores:
        bind(core)
        before_s = cpu_s()
        work()
        found.append(Sample(at_s=now_s(), core=core, cpu_s=cpu_s() - before_s))
    return found


def write_samples(path: Path, cores: Sequence[int], going: Callable[[], bool], pause: Callable[[], None]) -> None:
    """Append rounds to ``path``, a JSON line per sample, while ``going``."""
    work = make_work()
    work()  # the first one also pays for the memory it touches
    with path.open("a") as file:
        while going():
            for sample in round_of(cores, work):
                file.write(json.dumps({"at_s": sample.at_s, "core": sample.core, "cpu_s": sample.cpu_s}) + "\n")
            file.flush()
            pause()


@contextlib.contextmanager
def probing(path: Path, cores: Sequence[int]) -> Iterator[None]:
    """Probe ``cores`` into ``path`` while the block runs. The process ends with this one, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "executor.speed", str(path.absolute()), ",".join(map(str, cores))]
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def read_samples(path: Path) -> list[Sample]:
    """What was written so far; none where there is no file. A last line that was cut off is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError, TypeError):
            found.append(Sample(**json.loads(line)))
    return found


def full_speed_s(samples: Sequence[Sample]) -> float | None:
    """CPU seconds of the work with the machine at full speed; None for too few samples.

    >>> full_speed_s([Sample(at_s=i, core=0, cpu_s=0.002 if i < 10 else 0.003) for i in range(100)])
    0.002
    """
    if len(samples) < LEAST_SAMPLES:
        return None
    return float(np.percentile([sample.cpu_s for sample in samples], FASTEST_PCT))


def slowdown(
    samples: Sequence[Sample], reference_s: float, cores: Iterable[int], start_s: float = -np.inf, end_s: float = np.inf
) -> float | None:
    """Mean time of the work on ``cores`` between two times, over that at full speed; None when nothing was sampled there.

    >>> slowdown([Sample(at_s=1, core=0, cpu_s=0.002), Sample(at_s=2, core=0, cpu_s=0.004)], 0.002, [0])
    1.5
    """
    wanted = set(cores)
    inside = [sample.cpu_s for sample in samples if sample.core in wanted and start_s <= sample.at_s <= end_s]
    return float(np.mean(inside)) / reference_s if inside else None


def full_speed_clock(samples: Sequence[Sample], reference_s: float, cores: Iterable[int]) -> Callable[[Floats], Floats]:
    """A map from times to what a clock would show that runs as fast as ``cores`` do: 1 s for 1 s at full speed, 0.5 s where
    they are half as fast. Work and arrivals on that clock are those of a machine that never slows down.

    The slow-down of a round (the mean over ``cores``) holds from midway after the round before to midway before the next one;
    before the first and after the last, theirs. Identity when there are no samples of ``cores``.
    """
    wanted = set(cores)
    rounds: dict[int, list[Sample]] = {}
    counts: dict[int, int] = {}
    for sample in sorted((s for s in samples if s.core in wanted), key=lambda s: s.at_s):
        number = counts[sample.core] = counts.get(sample.core, -1) + 1
        rounds.setdefault(number, []).append(sample)
    if not rounds:
        return lambda at_s: at_s
    at_s = np.array([np.mean([s.at_s for s in members]) for members in rounds.values()])
    slow = np.array([np.mean([s.cpu_s for s in members]) for members in rounds.values()]) / reference_s
    borders = np.concatenate([[at_s[0]], (at_s[1:] + at_s[:-1]) / 2, [at_s[-1]]])
    shown = borders[0] + np.concatenate([[0.0], np.cumsum(np.diff(borders) / slow)])

    def clock(times_s: Floats) -> Floats:
        inside = np.interp(times_s, borders, shown)
        before = np.minimum(times_s - borders[0], 0.0) / slow[0]
        after = np.maximum(times_s - borders[-1], 0.0) / slow[-1]
        result: Floats = inside + before + after
        return result

    return clock


def main(path: Path, cores: Sequence[int]) -> None:
    """Probe until the process that started this one is gone."""
    parent = os.getppid()
    write_samples(path, cores, going=lambda: os.getppid() == parent, pause=lambda: time.sleep(PERIOD_S))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(core) for core in sys.argv[2].split(",")])
