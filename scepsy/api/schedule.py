"""Capacity in time: a curve of rates becomes a schedule of plans, with the moments of the switches, and what it costs.

For every stretch of the curve that one plan could serve, that plan is the cheapest that carries the stretch's highest rates.
Which stretches to take is a shortest path: GPU seconds while they are held, and those spent starting instances. Placement
follows the plan before, so that the path is exact for its plans, not for every way to place them.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import fsum, inf, isfinite
from pathlib import Path

import msgspec

from scepsy.errors import Infeasible, InputError
from scepsy.plans import Plan
from scepsy.search.change import PlanDiff, diff, keep_instances
from scepsy.search.goals import plan_exact
from scepsy.search.problem import Problem
from scepsy.workload import Arrivals

DAY_S = 24 * 3600.0
MOST_PIECES = 96
"""A quarter of an hour of a day."""


@dataclass(frozen=True)
class RatePiece:
    """Rates for a while."""

    begin_s: float
    """Seconds from the curve's begin."""
    duration_s: float
    rates_per_s: Mapping[str, float]
    """By workflow."""


@dataclass(frozen=True)
class Stretch:
    """One plan and when it serves."""

    begin_s: float
    duration_s: float
    rates_per_s: Mapping[str, float]
    """The highest in it, which the plan is made for."""
    plan: Plan
    change: PlanDiff
    """From the plan before it; for the first from the last, since the curve repeats."""

    @property
    def switch_s(self) -> float:
        """When the switch to it has to begin, seconds from the curve's begin; negative: before the end of the day before.

        Where nothing starts there is nothing to wait for.
        """
        return self.begin_s - self.change.cold_start_s

    @property
    def gpu_s(self) -> float:
        """GPU seconds held, the start of what it starts included."""
        return len(self.plan.gpu_shares) * self.duration_s + self.change.cold_start_gpu_s


@dataclass(frozen=True)
class Schedule:
    """A whole curve."""

    stretches: tuple[Stretch, ...]
    static: Plan
    """One plan for the highest rates of all."""
    duration_s: float

    @property
    def gpu_hours(self) -> float:
        """Of the schedule, per repetition of the curve."""
        return fsum(stretch.gpu_s for stretch in self.stretches) / 3600

    @property
    def static_gpu_hours(self) -> float:
        """Of one plan for the highest rates all the time."""
        return len(self.static.gpu_shares) * self.duration_s / 3600


def read_rates(path: Path, workflows: Sequence[str]) -> list[RatePiece]:
    """Read a curve: CSV with a header ``time`` and one column per workflow (``rate_per_s`` where there is one workflow).

    ``time`` is HH:MM or seconds at which the rates begin; the last ones hold until 24:00 (with seconds: as long as the piece
    before them). Raises ``InputError`` naming line and field.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no CSV file: {error}") from error
    names = {"rate_per_s": workflows[0]} if len(workflows) == 1 else {}
    names |= {name: name for name in workflows}
    if not rows:
        raise InputError(f"{path}: has no rows: must be CSV with the columns time,{','.join(workflows)}")
    found = list(dict.fromkeys(names[column] for column in rows[0] if column in names))
    if "time" not in rows[0] or set(found) != set(workflows):
        have = ", ".join(str(column) for column in rows[0])
        wanted = " or ".join(dict.fromkeys(names)) if len(workflows) == 1 else ", ".join(workflows)
        raise InputError(f"{path}: columns are {have}: must be time and {wanted}")
    if len(rows) > MOST_PIECES:
        raise InputError(f"{path}: has {len(rows)} rows: must be at most {MOST_PIECES} (average over longer pieces)")
    clock = ":" in (rows[0]["time"] or "")
    begins = [_time(path, number, row["time"] or "") for number, row in enumerate(rows, start=2)]
    for number, (one, other) in enumerate(pairwise(begins), start=3):
        if other <= one:
            raise InputError(f"{path} line {number}: time is not after the line before it: must be in order")
    end = DAY_S if clock else begins[-1] + (begins[-1] - begins[-2] if len(begins) > 1 else 3600.0)
    if begins[-1] >= end or begins[0] != 0:
        raise InputError(f"{path}: times are {rows[0]['time']} to {rows[-1]['time']}: must begin at 0 and end before 24:00")
    pieces = []
    for number, (row, begin, stop) in enumerate(zip(rows, begins, [*begins[1:], end], strict=True), start=2):
        rates = {names[c]: _rate(path, number, c, v or "") for c, v in row.items() if c in names}
        pieces.append(RatePiece(begin, stop - begin, rates))
    return pieces


def _time(path: Path, line: int, text: str) -> float:
    hours, colon, minutes = text.strip().partition(":")
    try:
        value = int(hours) * 3600.0 + int(minutes) * 60.0 if colon else float(text)
    except ValueError:
        value = inf
    if not (isfinite(value) and value >= 0) or (colon and not 0 <= int(minutes) < 60):
        raise InputError(f"{path} line {line}: time is {text!r}: must be HH:MM or seconds >= 0")
    return value


def _rate(path: Path, line: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = inf
    if not (isfinite(value) and value > 0):
        raise InputError(f"{path} line {line}: {column} is {text!r}: must be a finite number > 0 (runs per second)")
    return value


def schedule(problem: Problem, pieces: Sequence[RatePiece], on_plan: Callable[[], None] = lambda: None) -> Schedule:
    """The cheapest schedule. ``problem``'s goal says what a plan must keep; its rates do not matter.

    Raises ``Infeasible`` when no plan carries some piece: the message says when.
    """
    plans: dict[tuple[float, ...], Plan | Infeasible] = {}
    names = [target.workflow for target in problem.targets]

    def cheapest(first: int, last: int) -> tuple[Mapping[str, float], Plan | Infeasible]:
        rates = {name: max(piece.rates_per_s[name] for piece in pieces[first:last]) for name in names}
        key = tuple(rates.values())
        if key not in plans:
            try:
                plans[key] = plan_exact(at_rates(problem, rates))
            except Infeasible as error:
                plans[key] = error
            on_plan()
        return rates, plans[key]

    for number, piece in enumerate(pieces):
        _, found = cheapest(number, number + 1)
        if isinstance(found, Infeasible):
            raise Infeasible(f"from {_clock(piece.begin_s)} on: {found}") from found
    _, peak = cheapest(0, len(pieces))
    if isinstance(peak, Infeasible):
        raise Infeasible(f"one plan for the highest rates of all: {peak}") from peak
    # Shortest path: best[j] is the least cost of serving pieces 0 … j − 1, and where its last stretch begins.
    best: list[tuple[float, int]] = [(0.0, 0), *((inf, 0) for _ in pieces)]
    chosen: list[list[Plan]] = [[] for _ in range(len(pieces) + 1)]
    for last in range(1, len(pieces) + 1):
        for first in range(last):
            _, plan = cheapest(first, last)
            if isinstance(plan, Infeasible) or best[first][0] == inf:
                continue
            before = chosen[first][-1] if chosen[first] else None
            placed = plan if before is None else keep_instances(problem, plan, before)
            starts = 0.0 if before is None else diff(before, placed, problem.profiles).cold_start_gpu_s
            held = fsum(piece.duration_s for piece in pieces[first:last]) * len(placed.gpu_shares)
            cost = best[first][0] + held + starts
            if cost < best[last][0] - 1e-6:
                best[last], chosen[last] = (cost, first), [*chosen[first], placed]
    return _assembled(problem, pieces, best, chosen[-1], peak, names)


def _assembled(
    problem: Problem,
    pieces: Sequence[RatePiece],
    best: Sequence[tuple[float, int]],
    plans: Sequence[Plan],
    peak: Plan,
    names: Sequence[str],
) -> Schedule:
    borders = [len(pieces)]
    while borders[0] > 0:
        borders.insert(0, best[borders[0]][1])
    stretches = []
    for number, plan in enumerate(plans):
        mine = pieces[borders[number] : borders[number + 1]]
        stretches.append(
            Stretch(
                begin_s=mine[0].begin_s,
                duration_s=fsum(piece.duration_s for piece in mine),
                rates_per_s={name: max(piece.rates_per_s[name] for piece in mine) for name in names},
                plan=plan,
                change=diff(plans[number - 1], plan, problem.profiles),
            )
        )
    return Schedule(tuple(stretches), peak, fsum(piece.duration_s for piece in pieces))


def at_rates(problem: Problem, rates_per_s: Mapping[str, float]) -> Problem:
    """The problem at other rates. Curves do not depend on them, but for the mix in which workflows share an LLM."""
    targets = tuple(
        msgspec.structs.replace(target, arrivals=Arrivals(rate_per_s=rates_per_s[target.workflow]))
        for target in problem.targets
    )
    return replace(problem, targets=targets)


def _clock(seconds: float) -> str:
    return f"{int(seconds // 3600):02d}:{int(seconds % 3600 // 60):02d}"
