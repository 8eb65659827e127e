"""The highest rate that a system keeps up with: a bracket of loads, on a grid as fine as the tolerance asks for.

Loads are ``(1 + 2 · tolerance)^k`` for whole k, so two neighbours are ± ``tolerance`` about their middle, and every option and
system tries the same loads. Every load is tested with all seeds together. The bracket goes from the highest load *shown* stable
to the lowest *shown* unstable; between them the budget may leave loads undecided. It is settled when the two are neighbours.
"""

import math
import time
from collections.abc import Callable
from math import fsum

from experiments.points.measured import deployed
from experiments.points.questions import Question
from experiments.points.settled import INFEASIBLE, Budget, Row, decided, described, engine_of, rates_of, rounds
from experiments.systems.deployment import Option
from scepsy.steady.verdict import STABLE, UNSTABLE

START_LOAD = 0.9
LOWEST_LOAD, HIGHEST_LOAD = 0.01, 8.0
STRIDE = 8
"""Grid steps between the loads of the first look: 1.37 times the load at ±2 %."""
REACH = 2.0
"""Instability is looked for up to so many times the highest load shown stable."""

Verdict = Callable[[int], str]


def last(holds: Callable[[int], bool], start: int, lowest: int, highest: int, stride: int = STRIDE) -> int | None:
    """The last step from ``lowest`` to ``highest`` for which a condition holds that holds up to some step and not beyond.

    None when it holds for none. Strides from ``start``, then bisection.
    """
    at = min(max(start, lowest), highest)
    good: int | None = None
    bad: int | None = None
    while good is None or bad is None:
        if holds(at):
            good = at
            if at == highest:
                return highest
            following = min(at + stride, highest)
        else:
            bad = at
            if at == lowest:
                return None
            following = max(at - stride, lowest)
        at = following
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return good


def bracket(verdict: Verdict, start: int, lowest: int, highest: int, reach: int) -> tuple[int | None, int | None]:
    """The highest step shown stable and the lowest above it shown unstable; None where there is none.

    Stability is taken to be monotonic in the load. Of the steps above the stable one ``reach`` are looked at: far beyond a
    system's capacity, runs last too long for a short replay to tell anything.
    """
    asked: dict[int, str] = {}

    def said(step: int) -> str:
        if step not in asked:
            asked[step] = verdict(step)
        return asked[step]

    stable = last(lambda step: said(step) == STABLE, start, lowest, highest)
    if stable is not None and stable < highest:
        last(lambda step: said(step) != UNSTABLE, stable + 1, stable + 1, min(highest, stable + reach), stride=2)
    above = lowest - 1 if stable is None else stable
    return stable, min((step for step, word in asked.items() if word == UNSTABLE and step > above), default=None)


def highest_rate(question: Question, system: str, option: Option, budget: Budget, start_load: float = START_LOAD) -> list[Row]:
    """One row: the bracket, its middle, and whether it is settled."""
    ratio = 1 + 2 * budget.tolerance
    began, spent, engine = time.process_time(), 0, ""
    probes = 0
    ran, nothing = False, ""

    def step_of(load: float) -> int:
        return round(math.log(load) / math.log(ratio))

    def load_of(step: int) -> float:
        return float(f"{ratio**step:.4g}")

    def verdict(step: int) -> str:
        nonlocal spent, engine, probes, ran, nothing
        probes += 1
        deployment = deployed(question, system, option, load_of(step))
        if isinstance(deployment, str):
            nothing = f"{INFEASIBLE}{deployment}"
            return UNSTABLE
        ran = True
        found, calls = rounds(deployment, question, load_of(step), budget.seeds, budget, stability=True)
        spent, engine = spent + calls, engine_of(next(iter(found.seeds.values())))
        return found.verdict

    stable, unstable = bracket(verdict, step_of(start_load), step_of(LOWEST_LOAD), step_of(HIGHEST_LOAD), step_of(REACH))
    low = load_of(stable) if stable is not None else 0.0
    high = load_of(unstable) if unstable is not None else math.inf
    settled = stable is not None and unstable == stable + 1
    load = math.sqrt(low * high) if low and math.isfinite(high) else low
    chosen = deployed(question, system, option, low) if low else "no load shown stable"
    return [
        described(question, system, option, load)
        | {
            "kind": "maximum",
            "seed": -1,
            "seeds": len(budget.seeds),
            "workflow": "",
            "rate_per_s": fsum(rates_of(question, load)) if load else 0.0,
            "rate_low_per_s": fsum(rates_of(question, low)) if low else 0.0,
            "rate_high_per_s": fsum(rates_of(question, high)) if math.isfinite(high) else math.inf,
            "load_stable": low,
            "load_unstable": high,
            "confirmed": True,
            "verdict": STABLE if low else UNSTABLE,
            "stable": bool(low),
            "settled": settled,
            "why": nothing if not ran else "" if settled else why_open(low, high, probes),
            "probes": probes,
            "calls_spent": spent,
            "engine": engine,
            "cpu_s": time.process_time() - began,
        }
        | ({} if isinstance(chosen, str) else decided(chosen))
    ]


def why_open(low: float, high: float, probes: int) -> str:
    """Why a bracket is not settled."""
    if not low:
        return f"no load down to {LOWEST_LOAD:g} is shown stable ({probes} loads tried)"
    if math.isinf(high):
        return f"stable at {low:.4g}, no load up to {REACH:g} times that is shown unstable ({probes} loads tried)"
    return f"not settled: the budget leaves loads between {low:.4g} and {high:.4g} undecided"
