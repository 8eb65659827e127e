"""The exact planner within a budget of GPUs: search, re-rank by the critical path, or say why nothing is accepted."""

import numpy as np

from scepsy.errors import Infeasible
from scepsy.predictors.aggregate import Floats
from scepsy.search.assemble import Outlook, latencies_of
from scepsy.search.infeasible import limits_too_tight, not_enough_gpus, objectives_too_tight
from scepsy.search.problem import Problem
from scepsy.search.rerank import rerank
from scepsy.search.seeds import other_plans
from scepsy.search.space import Space
from scepsy.search.within import Accept, Found, Search, Seeds, accept_all, no_seeds


def best_within(
    problem: Problem,
    space: Space,
    tables: list[Floats],
    caps: tuple[int, ...] | None = None,
    accept: Accept = accept_all,
    *,
    first_only: bool = False,
    others: Seeds = other_plans,
) -> Found:
    """The best accepted allocation that packs onto ``caps`` GPUs by type; any one with ``first_only``. ``others``: allocations
    from outside the space that count too. Raises ``Infeasible``."""
    caps = caps or space.gpus_of
    whole = caps == space.gpus_of
    search = Search(problem, space, tables, caps, accept, seeds=others if whole else no_seeds, first_only=first_only)
    search.run()
    found = search.best if first_only else rerank(search)
    if found is not None:
        return found
    if search.nearest is not None and problem.goal.slo is not None:
        refusal = objectives_too_tight(problem, latencies_of(problem, search.nearest_allocations, search.nearest))
        if refusal is not None:
            raise refusal
    if search.nearest is not None and problem.goal.limits_s:
        raise limits_too_tight(problem, {e.workflow: e.latency_s for e in search.nearest.expected})
    if not np.isfinite(tables[0][search.budgets]) or search.nearest is None:
        raise not_enough_gpus(problem, space, sum(caps))
    raise Infeasible(_crowded(search.nearest, problem))


def _crowded(outlook: Outlook, problem: Problem) -> str:
    worst = max(outlook.utilisation, key=lambda llm: (outlook.utilisation[llm], llm))
    return (
        f"LLM {worst}: utilisation {outlook.utilisation[worst]:.2f} exceeds {problem.max_utilisation:.2f} once its "
        f"neighbours on the same GPUs slow it: lower the rate or add GPUs"
    )
