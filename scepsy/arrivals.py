"""When runs arrive and which ones: the same for the simulator and for a real cluster.

Times and sampled runs come from streams named after the workflow, so they do not depend on the plan, the system, the
other workflows or the process.
"""

import heapq
from collections.abc import Iterator
from itertools import islice

import numpy as np

from scepsy.backend import Stream, Workload
from scepsy.errors import InputError
from scepsy.rng import stream
from scepsy.workload import Arrivals, Run

Issue = tuple[float, str, Run]
"""(arrival in seconds, run id unique in the workload, the traced run to replay)."""

_BATCH = 1024
"""Random numbers drawn at once; part of the stream's definition, like the generator itself."""


def stream_names(workload: Workload) -> tuple[str, ...]:
    """One distinct name per stream: its workflow, with ``#n`` appended from the second stream of one workflow on."""
    names: list[str] = []
    for item in workload.streams:
        seen = sum(name.partition("#")[0] == item.workflow for name in names)
        names.append(f"{item.workflow}#{seen + 1}" if seen else item.workflow)
    return tuple(names)


def arrival_times(arrivals: Arrivals, rng: np.random.Generator) -> Iterator[float]:
    """Yield arrival times in seconds, without end. Kinds 'trace' and 'closed' have no times of their own: ``InputError``.

    Gamma gaps have shape ``1/cv²`` and mean ``1/rate``; piecewise arrivals invert the cumulative rate, which is exact
    at the borders between pieces.

    >>> times = arrival_times(Arrivals(kind="deterministic", rate_per_s=4.0), stream(0, "example"))
    >>> [next(times) for _ in range(3)]
    [0.25, 0.5, 0.75]
    """
    if arrivals.kind == "piecewise":
        yield from _piecewise_times(arrivals, rng)
        return
    rate = arrivals.rate_per_s
    if rate is None or arrivals.kind in ("trace", "closed"):
        raise InputError(
            f"arrivals.kind is {arrivals.kind!r}: must be poisson, gamma, deterministic or piecewise to draw times"
        )
    if arrivals.kind == "deterministic":
        count = 0
        while True:
            count += 1
            yield count / rate
    shape = 1.0 if arrivals.kind == "poisson" else arrivals.cv**-2
    now = 0.0
    while True:
        for gap in rng.gamma(shape, 1.0 / (shape * rate), _BATCH).tolist():
            now += gap
            yield now


def _piecewise_times(arrivals: Arrivals, rng: np.random.Generator) -> Iterator[float]:
    ends = np.cumsum([piece.duration_s for piece in arrivals.pieces])
    mass = np.concatenate([[0.0], np.cumsum([piece.duration_s * piece.rate_per_s for piece in arrivals.pieces])])
    times = np.concatenate([[0.0], ends])
    cumulative = 0.0
    while True:
        for gap in rng.exponential(1.0, _BATCH).tolist():
            cumulative += gap
            cycle, rest = divmod(cumulative, mass[-1])
            piece = int(np.searchsorted(mass, rest, side="right")) - 1
            yield float(cycle * ends[-1] + times[piece] + (rest - mass[piece]) / arrivals.pieces[piece].rate_per_s)


def sampled_runs(item: Stream, seed: int, name: str) -> Iterator[Run]:
    """Yield the traced runs to replay in the stream's order, without end."""
    rng, runs = stream(seed, "runs", name), item.trace.runs
    while True:
        drawn = rng.permutation(len(runs)) if item.order == "shuffled" else rng.integers(len(runs), size=_BATCH)
        for index in drawn.tolist():
            yield runs[index]


def recorded(item: Stream) -> Iterator[tuple[float, Run]]:
    """Yield (arrival, run) as recorded, the clock set to start at the first and scaled to ``rate_per_s`` when given.

    Raises ``InputError`` when a run has no recorded arrival.
    """
    for run in item.trace.runs:
        if run.arrival_s is None:
            raise InputError(f"run {run.id!r} has no arrival_s: arrivals of kind 'trace' need one for every run")
    timed = sorted(((run.arrival_s or 0.0, number, run) for number, run in enumerate(item.trace.runs)), key=lambda t: t[:2])
    first, last = timed[0][0], timed[-1][0]
    scale = 1.0
    if item.arrivals.rate_per_s is not None and last > first:
        scale = (len(timed) - 1) / (last - first) / item.arrivals.rate_per_s
    for at, _, run in timed:
        yield (at - first) * scale, run


def _issues(item: Stream, seed: int, name: str) -> Iterator[Issue]:
    if item.arrivals.kind == "trace":
        for number, (at, run) in enumerate(recorded(item)):
            yield at, f"{name}-{number}", run
        return
    times = arrival_times(item.arrivals, stream(seed, "arrivals", name))
    for number, (at, run) in enumerate(zip(times, sampled_runs(item, seed, name), strict=False)):
        yield at, f"{name}-{number}", run


def issue(workload: Workload) -> Iterator[Issue]:
    """Yield ``(time_s, run_id, run)`` of every open-loop stream, in order of time (ties: order of the streams).

    Ends after ``workload.runs`` runs or beyond ``workload.horizon_s``. Streams of kind 'closed' have no times before
    the system answers: they are left to ``users``.
    """
    names = stream_names(workload)
    sources = [
        _issues(item, workload.seed, name)
        for item, name in zip(workload.streams, names, strict=True)
        if item.arrivals.kind != "closed"
    ]
    merged: Iterator[Issue] = sources[0] if len(sources) == 1 else heapq.merge(*sources, key=lambda entry: entry[0])
    for entry in islice(merged, workload.runs):
        if workload.horizon_s is not None and entry[0] > workload.horizon_s:
            return
        yield entry


User = Iterator[tuple[float, str, Run]]
"""Without end: (think seconds before the run, run id, run)."""


def users(workload: Workload) -> list[User]:
    """One iterator per user of every closed-loop stream: what the user asks next and how long it thinks before.

    A user's thoughts and runs come from its own stream, so they do not depend on how fast the others are served.
    """
    found: list[User] = []
    for item, name in zip(workload.streams, stream_names(workload), strict=True):
        if item.arrivals.kind == "closed":
            found.extend(_user(item, workload.seed, name, number) for number in range(item.arrivals.users))
    return found


def _user(item: Stream, seed: int, name: str, number: int) -> User:
    rng = stream(seed, "user", name, number)
    count = 0
    while True:
        think = float(rng.exponential(item.arrivals.think_s)) if item.arrivals.think_s > 0 else 0.0
        run = item.trace.runs[int(rng.integers(len(item.trace.runs)))]
        yield think, f"{name}-u{number}-{count}", run
        count += 1
