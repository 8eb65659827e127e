"""When runs arrive and which ones: the same for the simulator and for a real cluster.

Times and sampled runs come from streams named after the workflow, so they do not depend on the plan, the system, the
other workflows or the process.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scepsy.backend import Stream, Workload
from scepsy.errors import InputError
from scepsy.rng import stream
from scepsy.workload import Arrivals, Run

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

Issue = tuple[float, str, Run]
"""(arrival in seconds, run id unique in the workload, the traced run to replay)."""

_BATCH = 1024
"""Random numbers drawn at once; part of the stream's definition, like the generator itself."""
_PLANS = 16
"""What a user draws at once; its numbers are the same one by one."""


def stream_names(workload: Workload) -> tuple[str, ...]:
    """One distinct name per stream: its workflow, with ``#n`` appended from the second stream of one workflow on."""
    names: list[str] = []
    for item in workload.streams:
        seen = sum(name.partition("#")[0] == item.workflow for name in names)
        names.append(f"{item.workflow}#{seen + 1}" if seen else item.workflow)
    return tuple(names)


class Issues(NamedTuple):
    """Arrivals in order, as arrays of one entry each."""

    time_s: Floats
    stream: Integers
    """Index in ``workload.streams``."""
    number: Integers
    """How many runs of the stream arrived before."""
    run: Integers
    """Index in the stream's ``trace.runs``."""

    def where(self, keep: "slice | Integers") -> "Issues":
        """Some of them."""
        return Issues(self.time_s[keep], self.stream[keep], self.number[keep], self.run[keep])

    def then(self, more: "Issues") -> "Issues":
        """These and more."""
        return Issues(
            np.concatenate((self.time_s, more.time_s)),
            np.concatenate((self.stream, more.stream)),
            np.concatenate((self.number, more.number)),
            np.concatenate((self.run, more.run)),
        )


_NONE = Issues(np.zeros(0), *(np.zeros(0, dtype=np.int64) for _ in range(3)))


def arrival_times(arrivals: Arrivals, rng: np.random.Generator) -> Iterator[float]:
    """Yield arrival times in seconds, without end. Kinds 'trace' and 'closed' have no times of their own: ``InputError``.

    >>> times = arrival_times(Arrivals(kind="deterministic", rate_per_s=4.0), stream(0, "example"))
    >>> [next(times) for _ in range(3)]
    [0.25, 0.5, 0.75]
    """
    for times in _times(arrivals, rng):
        yield from times.tolist()


def _times(arrivals: Arrivals, rng: np.random.Generator) -> Iterator[Floats]:
    """Arrival times without end, ``_BATCH`` of them at once.

    Gamma gaps have shape ``1/cv²`` and mean ``1/rate``; piecewise arrivals invert the cumulative rate, which is exact
    at the borders between pieces.
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
            yield np.arange(count + 1, count + _BATCH + 1) / rate
            count += _BATCH
    shape = 1.0 if arrivals.kind == "poisson" else arrivals.cv**-2
    now = 0.0
    while True:
        times = _running_sum(now, rng.gamma(shape, 1.0 / (shape * rate), _BATCH))
        now = float(times[-1])
        yield times


def _running_sum(start: float, gaps: Floats) -> Floats:
    """``start`` plus each gap in turn: added one by one, so the same as a loop."""
    total: Floats = np.add.accumulate(np.concatenate(([start], gaps)))
    return total[1:]


def _piecewise_times(arrivals: Arrivals, rng: np.random.Generator) -> Iterator[Floats]:
    ends = np.cumsum([piece.duration_s for piece in arrivals.pieces])
    mass = np.concatenate([[0.0], np.cumsum([piece.duration_s * piece.rate_per_s for piece in arrivals.pieces])])
    times = np.concatenate([[0.0], ends])
    rates = np.array([piece.rate_per_s for piece in arrivals.pieces])
    now = 0.0
    while True:
        cumulative = _running_sum(now, rng.exponential(1.0, _BATCH))
        now = float(cumulative[-1])
        cycle, rest = np.divmod(cumulative, mass[-1])
        piece = np.searchsorted(mass, rest, side="right") - 1
        yield cycle * ends[-1] + times[piece] + (rest - mass[piece]) / rates[piece]


def sampled_runs(item: Stream, seed: int, name: str) -> Iterator[Run]:
    """Yield the traced runs to replay in the stream's order, without end."""
    for drawn in _samples(item, seed, name):
        for index in drawn.tolist():
            yield item.trace.runs[index]


def _samples(item: Stream, seed: int, name: str) -> Iterator[Integers]:
    """Indices of the traced runs to replay, without end, some at once."""
    rng, count = stream(seed, "runs", name), len(item.trace.runs)
    while True:
        yield rng.permutation(count) if item.order == "shuffled" else rng.integers(count, size=_BATCH)


def recorded(item: Stream) -> tuple[Floats, Integers]:
    """Arrivals as recorded and the runs' indices, in order; the clock starts at the first and is scaled to ``rate_per_s``.

    Raises ``InputError`` when a run has no recorded arrival.
    """
    for run in item.trace.runs:
        if run.arrival_s is None:
            raise InputError(f"run {run.id!r} has no arrival_s: arrivals of kind 'trace' need one for every run")
    times = np.array([run.arrival_s for run in item.trace.runs], dtype=float)
    order = np.argsort(times, kind="stable")
    times = times[order]
    first, last = float(times[0]), float(times[-1])
    scale = 1.0
    if item.arrivals.rate_per_s is not None and last > first:
        scale = (len(times) - 1) / (last - first) / item.arrivals.rate_per_s
    return (times - first) * scale, order


def _of_stream(item: Stream, place: int, seed: int, name: str) -> Iterator[Issues]:
    """One stream's arrivals, ``_BATCH`` at once unless they were recorded."""
    if item.arrivals.kind == "trace":
        times, runs = recorded(item)
        yield Issues(times, np.full(times.size, place), np.arange(times.size), runs)
        return
    samples, drawn = _samples(item, seed, name), np.zeros(0, dtype=np.int64)
    count = 0
    for times in _times(item.arrivals, stream(seed, "arrivals", name)):
        parts = [drawn]
        while sum(part.size for part in parts) < times.size:
            parts.append(next(samples))
        drawn = np.concatenate(parts)
        yield Issues(times, np.full(times.size, place), np.arange(count, count + times.size), drawn[: times.size])
        drawn, count = drawn[times.size :], count + times.size


def _merged(sources: Sequence[Iterator[Issues]]) -> Iterator[Issues]:
    """All streams' arrivals in order of time; ties: order of the streams."""
    if len(sources) == 1:
        yield from sources[0]
        return
    parts = [_NONE for _ in sources]
    open_ = [True for _ in sources]

    def fetch(place: int) -> None:
        more = next(sources[place], None)
        open_[place] = more is not None
        if more is not None:
            parts[place] = parts[place].then(more)

    while True:
        for place, part in enumerate(parts):
            if open_[place] and not part.time_s.size:
                fetch(place)
        # What is due at the border may have to wait for an earlier stream's next batch.
        border = min((float(part.time_s[-1]) for part, more in zip(parts, open_, strict=True) if more), default=np.inf)
        sizes = [int(np.searchsorted(part.time_s, border, side="left")) for part in parts]
        ready = _NONE
        for place, size in enumerate(sizes):
            ready = ready.then(parts[place].where(slice(size)))
            parts[place] = parts[place].where(slice(size, None))
        if ready.time_s.size:
            yield ready.where(np.argsort(ready.time_s, kind="stable"))
            continue
        if not any(open_):
            return
        for place, part in enumerate(parts):
            if open_[place] and float(part.time_s[-1]) == border:
                fetch(place)


def issue_arrays(workload: Workload) -> Iterator[Issues]:
    """Yield every open-loop stream's arrivals in order of time (ties: order of the streams), some at once.

    Ends after ``workload.runs`` runs or beyond ``workload.horizon_s``. Streams of kind 'closed' have no times before
    the system answers: they are left to ``users``.
    """
    names = stream_names(workload)
    sources = [
        _of_stream(item, place, workload.seed, name)
        for place, (item, name) in enumerate(zip(workload.streams, names, strict=True))
        if item.arrivals.kind != "closed"
    ]
    left = workload.runs
    for found in _merged(sources):
        part = found if left is None else found.where(slice(left))
        if workload.horizon_s is not None:
            late = np.flatnonzero(part.time_s > workload.horizon_s)
            if late.size:
                yield part.where(slice(int(late[0])))
                return
        yield part
        if left is not None:
            left -= part.time_s.size
            if left <= 0:
                return


def issue(workload: Workload) -> Iterator[Issue]:
    """The same, ``(time_s, run_id, run)`` one by one."""
    names = stream_names(workload)
    traces = [item.trace.runs for item in workload.streams]
    for part in issue_arrays(workload):
        for at, place, number, run in zip(*(column.tolist() for column in part), strict=True):
            yield at, f"{names[place]}-{number}", traces[place][run]


User = Iterator[tuple[float, str, Run]]
"""Without end: (think seconds before the run, run id, run)."""


def users(workload: Workload) -> list[User]:
    """One iterator per user of every closed-loop stream: what the user asks next and how long it thinks before.

    A user's thoughts and runs come from its own stream, so they do not depend on how fast the others are served.
    """
    return [_user(*each) for each in zip(user_arrays(workload), _user_streams(workload), strict=True)]


def _user(plans: Iterator[tuple[Floats, Integers]], whose: tuple[int, Stream, str]) -> User:
    _, item, name = whose
    count = 0
    for thoughts, runs in plans:
        for think_s, run in zip(thoughts.tolist(), runs.tolist(), strict=True):
            yield think_s, f"{name}-{count}", item.trace.runs[run]
            count += 1


def user_names(workload: Workload) -> list[tuple[int, str]]:
    """(Index of the stream, name that a user's runs have in front of their number), of all users."""
    return [(place, name) for place, _, name in _user_streams(workload)]


def _user_streams(workload: Workload) -> list[tuple[int, Stream, str]]:
    return [
        (place, item, f"{name}-u{number}")
        for place, (item, name) in enumerate(zip(workload.streams, stream_names(workload), strict=True))
        if item.arrivals.kind == "closed"
        for number in range(item.arrivals.users)
    ]


def user_arrays(workload: Workload) -> list[Iterator[tuple[Floats, Integers]]]:
    """Like ``users``, without end: arrays of think seconds and of indices of the runs in the stream's trace."""
    return [
        _plans(item, workload.seed, name, number)
        for item, name in zip(workload.streams, stream_names(workload), strict=True)
        if item.arrivals.kind == "closed"
        for number in range(item.arrivals.users)
    ]


def _plans(item: Stream, seed: int, name: str, number: int) -> Iterator[tuple[Floats, Integers]]:
    rng, runs, think_s = stream(seed, "user", name, number), len(item.trace.runs), item.arrivals.think_s
    while True:
        if think_s > 0:  # a thought and a run in turn
            drawn = [(float(rng.exponential(think_s)), int(rng.integers(runs))) for _ in range(_PLANS)]
            thoughts, chosen = zip(*drawn, strict=True)
            yield np.array(thoughts), np.array(chosen, dtype=np.int64)
        else:
            yield np.zeros(_PLANS), rng.integers(runs, size=_PLANS)
