"""What the predictors say of a plan: the JSON document of ``scepsy predict``, one per workflow."""

from collections.abc import Mapping
from typing import Any

from scepsy.plans import Plan
from scepsy.predictors import critical_path
from scepsy.predictors.aggregate import Formula, busy_seconds, call_rates_per_s, capacity_of, predict
from scepsy.predictors.contention import expected_slowdowns
from scepsy.search.problem import Problem

PREDICTORS = ("aggregate", "critical-path", "paper")
"""aggregate: Σ busy seconds as replayed. paper: the literal Σ L·n/p with the trace's p. critical-path: runs as DAGs."""


def forecast(plan: Plan, problem: Problem, predictor: str = "aggregate") -> list[dict[str, Any]]:
    """Predict ``plan`` at ``problem``'s target rates; latencies in seconds, ``None`` where a predictor gives no quantile."""
    rates = problem.rates_per_s
    slowdown = expected_slowdowns(problem.uses, rates, problem.index, problem.profiles, plan.allocations, plan.placement)
    formula: Formula = "paper" if predictor == "paper" else "measured"
    expected = predict(problem.uses, rates, problem.index, plan.allocations, formula=formula, slowdown=slowdown)
    loads = call_rates_per_s(problem.uses, rates)
    paths = {path.workflow: path for path in _critical_paths(plan, problem, slowdown)} if predictor == "critical-path" else {}
    documents = []
    for use, one in zip(problem.uses, expected, strict=True):
        parts = {}
        for llm in use.llms:
            allocation = plan.allocation(llm.llm)
            slower = slowdown.get(llm.llm, 1.0)
            parts[llm.llm] = {
                "busy_s": busy_seconds(problem.index, use, allocation, loads[llm.llm], formula=formula, slowdown=slower),
                "utilisation": loads[llm.llm] * slower / capacity_of(problem.index, allocation, problem.uses),
                "calls_per_run": llm.calls_per_run,
            }
        latency: dict[str, float | None] = {"mean": one.latency_s, "p50": None, "p95": None, "p99": None}
        if predictor == "critical-path":
            path = paths[use.workflow]
            latency = {"mean": path.mean_s, "p50": path.p50_s, "p95": path.p95_s, "p99": path.p99_s}
        documents.append(
            {
                "workflow": use.workflow,
                "predictor": predictor,
                "latency_s": latency,
                "throughput_per_s": one.throughput_per_s,
                "tool_s": use.tool_s,
                "by_llm": parts,
            }
        )
    return documents


def _critical_paths(plan: Plan, problem: Problem, slowdown: Mapping[str, float]) -> tuple[critical_path.Latencies, ...]:
    models = {name: critical_path.RunModel(runs) for name, runs in problem.runs.items()}
    return critical_path.predict(models, problem.uses, problem.rates_per_s, problem.index, plan.allocations, slowdown=slowdown)
