"""The highest rate that a system keeps up with, seed by seed, on a grid of loads as fine as the tolerance asks for.

Loads are ``(1 + 2 · tolerance)^k`` for whole k, so two neighbours are ± ``tolerance`` about their middle, and every seed,
option and system tries the same loads. What is reported is the highest load *shown* stable below the lowest that is not:
where the latter is undecided within the budget, the border is marked as not settled.
"""

import math
import time
from collections.abc import Callable
from math import fsum

from experiments.points.measured import deployed
from experiments.points.questions import Question
from experiments.points.settled import Budget, Row, decided, described, rates_of, rounds
from experiments.systems.deployment import Option
from scepsy.steady.verdict import STABLE, UNDECIDED, UNSTABLE

START_LOAD = 0.9
LOWEST_LOAD, HIGHEST_LOAD = 0.01, 8.0
STRIDE = 8
"""Grid steps between the loads of the first look: 1.37 times the load at ±2 %."""


def highest_step(verdict: Callable[[int], str], start: int, lowest: int, highest: int) -> tuple[int | None, int | None]:
    """The highest step shown stable below a step that is not, and that step, by bisection; verdicts are asked once each.

    Stability is taken to be monotonic: what is above a step that is not stable is not asked. The first is None when no step is
    stable down to ``lowest``, the second when all are up to ``highest``.
    """
    good: int | None = None
    bad: int | None = None
    at = min(max(start, lowest), highest)
    while good is None or bad is None:
        if verdict(at) == STABLE:
            good = at
            if at == highest:
                return good, None
            following = min(at + STRIDE, highest)
        else:
            bad = at
            if at == lowest:
                return None, bad
            following = max(at - STRIDE, lowest)
        if good is None or bad is None:
            at = following
    while bad - good > 1:
        middle = (good + bad) // 2
        if verdict(middle) == STABLE:
            good = middle
        else:
            bad = middle
    return good, bad


def highest_rate(question: Question, system: str, option: Option, budget: Budget, start_load: float = START_LOAD) -> list[Row]:
    """A row per seed: the highest load shown stable, the lowest above it that is not, and what that one's verdict is."""
    ratio = 1 + 2 * budget.tolerance

    def step_of(load: float) -> int:
        return round(math.log(load) / math.log(ratio))

    def load_of(step: int) -> float:
        return float(f"{ratio**step:.4g}")

    rows: list[Row] = []
    start = step_of(start_load)
    for seed in budget.seeds:
        began, spent, engine = time.process_time(), 0, ""
        verdicts: dict[int, str] = {}

        def verdict(step: int, seed: int = seed, verdicts: dict[int, str] = verdicts) -> str:
            nonlocal spent, engine
            if step not in verdicts:
                deployment = deployed(question, system, option, load_of(step))
                if isinstance(deployment, str):
                    verdicts[step] = UNSTABLE
                else:
                    found, calls = rounds(deployment, question, load_of(step), (seed,), budget, stability=True)
                    verdicts[step], spent = found.verdict, spent + calls
                    engine = str(found.seeds[seed].records.meta.get("engine", "simpy"))
            return verdicts[step]

        good, bad = highest_step(verdict, start, step_of(LOWEST_LOAD), step_of(HIGHEST_LOAD))
        unstable = [step for step, said in verdicts.items() if said == UNSTABLE]
        settled = good is not None and bad is not None and verdicts[bad] == UNSTABLE
        load = load_of(good) if good is not None else 0.0
        chosen = deployed(question, system, option, load) if good is not None else "no load shown stable"
        rows.append(
            described(question, system, option, load)
            | {
                "kind": "maximum",
                "seed": seed,
                "workflow": "",
                "rate_per_s": fsum(rates_of(question, load)) if load else 0.0,
                "load_above": load_of(bad) if bad is not None else math.inf,
                "load_unstable": load_of(min(unstable)) if unstable else math.inf,
                "verdict": STABLE if good is not None else verdicts.get(bad, UNDECIDED) if bad is not None else UNDECIDED,
                "stable": good is not None,
                "settled": settled,
                "why": "" if settled else _why(good, bad, verdicts, load_of),
                "probes": len(verdicts),
                "calls_spent": spent,
                "engine": engine,
                "cpu_s": time.process_time() - began,
            }
            | ({} if isinstance(chosen, str) else decided(chosen))
        )
        start = good if good is not None else start
    return rows


def _why(good: int | None, bad: int | None, verdicts: dict[int, str], load_of: Callable[[int], float]) -> str:
    if good is None:
        return f"no load down to {LOWEST_LOAD:g} is shown stable"
    if bad is None:
        return f"still stable at the highest load tried, {load_of(good):g}"
    above = [step for step, said in verdicts.items() if said == UNSTABLE and step > good]
    end = f"unstable from {load_of(min(above)):g}" if above else "no load shown unstable"
    return f"not settled: at load {load_of(bad):g} the budget ends undecided ({end})"
