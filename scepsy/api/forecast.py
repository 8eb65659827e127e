"""What the predictors say of a plan: the JSON document of ``scepsy predict``, one per workflow."""

from typing import Any

from scepsy.errors import InputError
from scepsy.plans import Plan
from scepsy.predictors.aggregate import Formula, busy_seconds, call_rates_per_s, predict
from scepsy.search.assemble import evaluate, latencies_of
from scepsy.search.problem import Problem

PREDICTORS = ("aggregate", "critical-path", "paper")
"""aggregate: Σ busy seconds as replayed. paper: the literal Σ L·n/p with the trace's p. critical-path: runs as DAGs."""


def predictor_of(plan: Plan) -> str:
    """The predictor whose numbers the plan holds; the critical path for a plan whose latency was simulated."""
    return plan.predictor if plan.predictor in PREDICTORS else "critical-path"


def forecast(plan: Plan, problem: Problem, predictor: str | None = None) -> list[dict[str, Any]]:
    """Predict ``plan`` at ``problem``'s target rates; latencies in seconds, ``None`` where a predictor gives no quantile.

    ``predictor`` None: the plan's own (``predictor_of``). Rates, loads and latencies are those that the planners give their
    plans (``search.assemble.evaluate``), so that at the plan's rates every number is the plan's. Raises ``InputError`` for the
    critical path where the curves have no regressions.
    """
    name = predictor or predictor_of(plan)
    rates = problem.rates_per_s
    outlook = evaluate(problem, plan.allocations, plan.placement)
    formula: Formula = "paper" if name == "paper" else "measured"
    latency_s = [one.latency_s for one in outlook.expected]
    if name == "paper":
        literal = predict(
            problem.uses, rates, problem.index, plan.allocations, formula=formula, slowdown=outlook.slowdown
        )  # the rate that saturates is the same by either formula
        latency_s = [one.latency_s for one in literal]
    loads = call_rates_per_s(problem.uses, rates)
    walked = latencies_of(problem, plan.allocations, outlook) if name == "critical-path" else None
    if name == "critical-path" and walked is None:
        raise InputError("predictor critical-path needs curves with regressions: profile them again")
    documents = []
    for number, (use, one) in enumerate(zip(problem.uses, outlook.expected, strict=True)):
        parts = {}
        for llm in use.llms:
            allocation = plan.allocation(llm.llm)
            slower = outlook.slowdown.get(llm.llm, 1.0)
            parts[llm.llm] = {
                "busy_s": busy_seconds(problem.index, use, allocation, loads[llm.llm], formula=formula, slowdown=slower),
                "utilisation": outlook.utilisation[llm.llm],
                "calls_per_run": llm.calls_per_run,
            }
        latency: dict[str, float | None] = {"mean": latency_s[number], "p50": None, "p95": None, "p99": None}
        if walked is not None:
            path = walked[number]
            latency = {"mean": path.mean_s, "p50": path.p50_s, "p95": path.p95_s, "p99": path.p99_s}
        documents.append(
            {
                "workflow": use.workflow,
                "predictor": name,
                "latency_s": latency,
                "throughput_per_s": one.throughput_per_s,
                "tool_s": use.tool_s,
                "by_llm": parts,
            }
        )
    return documents
