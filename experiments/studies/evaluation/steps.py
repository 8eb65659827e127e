"""How a cell is measured, in three steps, each resting on the rows of the one before.

1. *screen*: every option of every system that has several, briefly, with a seed that nothing else uses, at rising loads until
   it is unstable.
2. *maximum*: the highest stable rate of each system, by bisection, for its best options near saturation.
3. *sweep*: latencies of all systems at the same rates, parts of the highest rate that any of them keeps up with.

Tasks are pure in their parameters, so they are cached, resumed and spread over processes one by one.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from math import fsum
from typing import Any

import msgspec

from experiments.points.border import START_LOAD, highest_rate
from experiments.points.measured import COMPILED_SPEEDUP, interpreted
from experiments.points.questions import Question
from experiments.points.settled import INFEASIBLE, Budget, Row, budget_of, first_calls_guess, settled_point
from experiments.runner import Experiment, Scale, Task
from experiments.studies.evaluation.design import GROUPS, JUDGED, PLANS, Cell, Plan, cells, options_of
from experiments.studies.loads import question_of
from experiments.systems.deployment import Option, label_of
from experiments.systems.registry import STEPS
from scepsy.steady.verdict import UNSTABLE

Found = Sequence[Row]
SCREEN_SPANS = 3.0
"""Predicted latencies that a trial of an option lasts, at least."""


def plan_of(scale: Scale) -> Plan:
    """The evaluation's plan at a scale."""
    return PLANS[scale.name]


def key_of(row: Mapping[str, Any]) -> tuple[object, ...]:
    """What makes a row one of a question's: its columns in the order of ``columns_of``."""
    return tuple(row[name] for name in KEYS)


KEYS = ("workload", "gpus", "gpus_per_node", "gpu_type", "arrivals", "planned_on", "measured_on", "models")


def columns_of(question: Question) -> tuple[object, ...]:
    """The same of a question."""
    played = " ".join(f"{name}={model}" for name, model in question.models)
    return (
        question.name,
        question.gpus,
        question.gpus_per_node,
        question.gpu_type,
        question.arrivals,
        question.planned_on,
        question.measured_on,
        played,
    )


def screen(scale: Scale, found: Found = ()) -> list[Task]:
    """Step 1."""
    plan = plan_of(scale)
    calls_each = plan.screen_calls
    budget = replace(
        plan.budget, seeds=(plan.screen_seed,), first_calls=calls_each, most_calls=calls_each, least_spans=SCREEN_SPANS
    )
    return distinct(
        task("screen", cell.question, system, option, budget, loads=plan.screen_loads)
        for cell in cells(plan)
        for system in cell.systems
        if len(options := options_of(system, cell.question, plan)) > 1
        for option in options
    )


def maximum(scale: Scale, found: Found = ()) -> list[Task]:
    """Step 2, from the rows of step 1."""
    plan = plan_of(scale)
    tasks = []
    for cell in cells(plan):
        for system in cell.systems:
            seen = screened(found, cell.question, system)
            edge = max((load for load, ranked in seen.items() if ranked and not ranked[0].grows), default=START_LOAD)
            for option in best_options(cell.question, system, edge, seen, plan, plan.finalists_at_border):
                budget = plan.border_budget_of(system)
                start = edge if seen else START_LOAD
                tasks.append(task("maximum", cell.question, system, option, budget, loads=(start,)))
    return distinct(tasks)


def sweep(scale: Scale, found: Found = ()) -> list[Task]:
    """Step 3, from the rows of steps 1 and 2."""
    plan = plan_of(scale)
    tasks = []
    for cell in cells(plan):
        best = best_load(cell, found)
        for system in cell.systems:
            seen, limits = screened(found, cell.question, system), known_unstable(cell.question, system, found)
            for part in plan.rates_of(cell.part):
                load = float(f"{part * best:.4g}")
                for option in best_options(cell.question, system, load, seen, plan, plan.finalists):
                    known = load >= limits.get(label_of(option), math.inf)
                    budget = brief(plan.budget_of(system)) if known else plan.budget_of(system)
                    tasks.append(task("sweep", cell.question, system, option, budget, loads=(load,), unstable=known))
    return distinct(tasks)


def brief(budget: Budget) -> Budget:
    """One short round of one seed: of a load that is known to be unstable there is nothing to settle."""
    return replace(budget, seeds=budget.seeds[:1], most_calls=budget.first_calls)


def task(
    step: str,
    question: Question,
    system: str,
    option: Option,
    budget: Budget,
    loads: tuple[float, ...],
    *,
    unstable: bool = False,
) -> Task:
    """One task. ``unstable``: a lower load has been shown to be."""
    params = {
        "step": step,
        "question": asdict(question),
        "system": system,
        "option": dict(option),
        "loads": list(loads),
        "budget": asdict(budget),
        "unstable": unstable,
    }
    return Task(params, question)


def distinct(tasks: Iterable[Task]) -> list[Task]:
    """The tasks, each once: a question may be in two parts."""
    return list({json.dumps(one.params, sort_keys=True): one for one in tasks}.values())


class Ranked(msgspec.Struct, frozen=True):
    """An option as it was screened. ``grows``: work was seen to stay behind, which a trial is too short to call overload."""

    grows: bool
    mean_s: float
    option: str


def screened(found: Found, question: Question, system: str) -> dict[float, list[Ranked]]:
    """By load: a system's options, best first (where no work stays behind, then the lowest mean over requests)."""
    columns = columns_of(question)
    options: dict[tuple[float, str], list[Row]] = {}
    for row in found:
        if row["kind"] == "screen" and row["system"] == system and key_of(row) == columns:
            options.setdefault((row["load"], row["option"]), []).append(row)
    ranked: dict[float, list[Ranked]] = {}
    for (load, option), rows in options.items():
        total = fsum(row["rate_per_s"] for row in rows)
        mean = fsum(row["latency_mean_s"] * row["rate_per_s"] for row in rows) / total
        grows = any(row["grows"] for row in rows)
        ranked.setdefault(load, []).append(Ranked(grows, mean if math.isfinite(mean) else math.inf, option))
    return {load: sorted(some, key=lambda one: (one.grows, one.mean_s, one.option)) for load, some in ranked.items()}


def best_options(
    question: Question, system: str, load: float, seen: Mapping[float, Sequence[Ranked]], plan: Plan, count: int
) -> list[Option]:
    """The options to measure at a load: the ``count`` best at the screened load that is nearest, as a ratio."""
    every = options_of(system, question, plan)
    if len(every) == 1 or not seen:
        return every[:count]
    nearest = min(seen, key=lambda known: abs(math.log(known / load)))
    names = [one.option for one in seen[nearest][:count]]
    return [option for option in every if label_of(option) in names]


def best_load(cell: Cell, found: Found) -> float:
    """The highest load that any system keeps up with; 1 where none is known to."""
    columns = columns_of(cell.question)
    loads = [r["load"] for r in found if r["kind"] == "maximum" and r["group"] in GROUPS and key_of(r) == columns]
    return max(loads, default=0.0) or 1.0


def known_unstable(question: Question, system: str, found: Found) -> dict[str, float]:
    """By option: the lowest load that step 2 has shown unstable."""
    columns = columns_of(question)
    rows = [r for r in found if r["kind"] == "maximum" and r["system"] == system and key_of(r) == columns]
    return {row["option"]: row["load_unstable"] for row in rows}


KNOWN = {
    "point_verdict": UNSTABLE,
    "point_settled": False,
    "point_why": "a lower load has been shown to be unstable: one brief replay, for the record",
}


def run(params: Mapping[str, Any]) -> list[Row]:
    """One task's rows, each with the task that made it."""
    question, budget = question_of(params), budget_of(params)
    system, option, loads = params["system"], params["option"], params["loads"]
    if params["step"] == "maximum":
        rows = highest_rate(question, system, option, budget, loads[0])
    else:
        rows = until_unstable(settled_point(question, system, option, load, budget, params["step"]) for load in loads)
        if params["unstable"]:
            rows = [row if row["point_why"].startswith(INFEASIBLE) else row | KNOWN for row in rows]
    text = json.dumps(params, sort_keys=True)
    return [row | {"task": text} for row in rows]


def until_unstable(points: Iterable[list[Row]]) -> list[Row]:
    """Rows of points at rising loads, up to the first at which work is seen to stay behind. That may be filling: a trial is too
    short to tell, and it only chooses what is tried.
    """
    rows: list[Row] = []
    for found in points:
        rows += found
        if any(row["grows"] for row in found):
            break
    return rows


PROBES = 6
"""Loads that a bisection asks for, about."""
PART_OF_BUDGET = {"maximum": 1.0, "sweep": 0.5}
"""Of the most calls, what one seed spends on a load, about: most points settle before, and a border's rounds add up."""
PLANNED_CALLS, JUDGED_CALLS = 5_000.0, 30_000.0
"""Interpreted calls that take about as long as one plan, by a planner and judged by simulation: 0.3 and 1 to 2 s for RAG and
beam search on 8 GPUs, where the speed that estimates rest on (``runner.calls_per_s``) is some 17,000 calls in a second."""
POLICY_CALL = 0.6
"""Of a call of that speed, what one of an interpreted system takes: 12 to 50 us on RAG and beam search, against 58."""


def calls(params: Mapping[str, Any]) -> float:
    """Interpreted calls that take about as long as the task. For estimates only."""
    question, budget, step = question_of(params), budget_of(params), params["step"]
    static = not interpreted(params["system"])
    first = first_calls_guess(question, params["loads"][0], budget)
    most = max(first, budget.most_calls)
    loads = PROBES if step == "maximum" else len(params["loads"])
    each = first if step == "screen" else max(first, PART_OF_BUDGET[step] * most)
    work = each * len(budget.seeds) * loads / (COMPILED_SPEEDUP if static else 1 / POLICY_CALL)
    plans = loads + (STEPS if step == "maximum" else 0)
    return work + PLANNED_CALLS * plans + (JUDGED_CALLS * loads if params["system"] in JUDGED else 0.0)


STUDY = Experiment(
    "evaluation",
    "highest stable rates and latencies at common rates, every system on every workload",
    "fig_05_main",
    screen,
    run,
    calls,
    stages=(maximum, sweep),
)
