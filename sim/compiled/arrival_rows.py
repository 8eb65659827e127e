"""Arrivals and users' plans as rows of numbers, with the random numbers of ``scepsy.arrivals``."""

from collections.abc import Iterator, Sequence
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from scepsy.arrivals import Issues, issue_arrays, stream_names, user_arrays, user_names
from scepsy.backend import Workload
from sim.compiled import layout as at
from sim.compiled.templates import Templates, Words
from sim.engine.clock import TICKS_PER_S

MOST_BATCHES = 16
"""Batches of arrivals that are handed to the core at once."""


def ticks_of(seconds: npt.NDArray[np.float64]) -> tuple[Words, Words]:
    """Seconds to the nearest tick, as (epochs, the rest): ``sim.engine.clock.ticks`` of each."""
    total = np.rint(seconds * TICKS_PER_S)  # whole numbers; a float holds their upper 53 bits
    epochs = np.floor(total / at.EPOCH)
    return epochs.astype(np.int64), (total - epochs * at.EPOCH).astype(np.int64)


class Door:
    """What comes in."""

    def __init__(self, workload: Workload, templates: Templates, homes: "Homes | None" = None) -> None:
        self._workload = workload
        self._templates = templates
        self._homes = homes
        self._places = [np.full(len(item.trace.runs), -1, dtype=np.int64) for item in workload.streams]
        self._user_names = user_names(workload)
        self.names = [*stream_names(workload), *(name for _, name in self._user_names)]
        """What a run's id has in front of its number, by name number."""

    def arrivals(self) -> Iterator[Words]:
        """Open-loop arrivals, some at once: ever more, since short simulations want few, and each batch costs."""
        waiting: list[Issues] = []
        wanted = 1
        for part in issue_arrays(self._workload):
            waiting.append(part)
            if len(waiting) == wanted:
                yield self._rows_of(waiting)
                waiting, wanted = [], min(2 * wanted, MOST_BATCHES)
        if waiting:
            yield self._rows_of(waiting)

    def _rows_of(self, parts: list[Issues]) -> Words:
        time_s, stream, number, run = (np.concatenate(column) for column in zip(*parts, strict=True))
        return self._rows(time_s, stream, stream, number, run)

    def users(self) -> list[Iterator[Words]]:
        """Each user's plans, without end: the time is that until it asks."""
        return [self._plans(number, plans) for number, plans in enumerate(user_arrays(self._workload))]

    def _plans(self, user: int, plans: Iterator[tuple[npt.NDArray[np.float64], Words]]) -> Iterator[Words]:
        place, _ = self._user_names[user]
        name, count = len(self._workload.streams) + user, 0
        for think_s, runs in plans:
            size = runs.size
            numbers = np.arange(count, count + size)
            yield self._rows(think_s, np.full(size, place), np.full(size, name), numbers, runs)
            count += size

    def _rows(self, time_s: npt.NDArray[np.float64], streams: Words, names: Words, numbers: Words, runs: Words) -> Words:
        rows = np.empty((runs.size, at.A_WORDS), dtype=np.int64)
        rows[:, at.A_EPOCH], rows[:, at.A_TIME] = ticks_of(time_s)
        rows[:, at.A_NAME], rows[:, at.A_NUMBER] = names, numbers
        for place, item in enumerate(self._workload.streams):
            mine = slice(None) if len(self._workload.streams) == 1 else streams == place
            known, drawn = self._places[place], runs[mine]
            for new in np.unique(drawn[known[drawn] < 0]).tolist():
                known[new] = self._templates.place(item.trace.runs[new])
            rows[mine, at.A_TEMPLATE] = known[drawn]
        if self._homes is None:
            return rows
        return np.concatenate((rows, self._homes.of(rows, self.names)), axis=1)


class Homes:
    """For the router that hashes: the instance of each LLM with the highest hash (``sim.policies.routers.HashAffinity``)."""

    def __init__(self, templates: Templates, instances: Sequence[Sequence[str]]) -> None:
        """``instances``: names by LLM."""
        self._templates = templates
        self._instances = instances
        self._known: dict[str, list[int]] = {}

    def of(self, rows: Words, names: Sequence[str]) -> Words:
        """One row of instances by LLM for each arrival."""
        found = []
        for row in rows.tolist():
            template = self._templates.words[row[at.A_TEMPLATE] + at.T_INDEX]
            session = self._templates.session(self._templates.runs[int(template)])
            if session and session not in self._known:
                self._known[session] = self._hashed(session)
            found.append(self._known[session] if session else self._hashed(f"{names[row[at.A_NAME]]}-{row[at.A_NUMBER]}"))
        return np.array(found, dtype=np.int64).reshape(len(found), len(self._instances))

    def _hashed(self, key: str) -> list[int]:
        return [
            max(range(len(mine)), key=lambda n: (sha256(f"{key}\x1f{mine[n]}".encode()).digest(), -n))
            for mine in self._instances
        ]
