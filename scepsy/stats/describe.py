"""The JSON document of ``scepsy trace stats``."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from scepsy.stats.stability import Stability, stability
from scepsy.stats.table import RunTable


def describe(tables: Mapping[str, RunTable]) -> dict[str, Any]:
    """Statistics of every workflow (fields may be added, not renamed)."""
    return {"workflows": {name: describe_workflow(table, stability(table)) for name, table in tables.items()}}


def describe_workflow(table: RunTable, report: Stability) -> dict[str, Any]:
    """Statistics of one workflow, its stability report included."""
    use = table.use.use(table.workflow)
    latency = table.latency_s()
    llms: dict[str, Any] = {}
    for share in report.shares:
        of = next(item for item in use.llms if item.llm == share.llm)
        columns = table.llms[share.llm]
        llms[share.llm] = {
            "calls_per_run": of.calls_per_run,
            "parallelism": of.parallelism,
            "share": {
                "mean": share.mean,
                "cv": share.cv,
                "low": share.low,
                "high": share.high,
                "cv_low": share.cv_low,
                "cv_high": share.cv_high,
                "batch_cv": share.batch_cv,
                "runs_needed": share.runs_needed,
            },
            "input_tokens": _spread(np.asarray(columns.input_tokens)),
            "output_tokens": _spread(np.asarray(columns.output_tokens)),
        }
    return {
        "runs": table.runs,
        "calls": table.calls,
        "latency_s": {
            **_spread(latency),
            "cv": report.latency_cv,
            "cv_low": report.latency_cv_low,
            "cv_high": report.latency_cv_high,
        },
        "tool_s": use.tool_s,
        "most_in_flight": table.most_in_flight,
        "times": "nominal" if table.nominal_runs == table.runs else "mixed" if table.nominal_runs else "recorded",
        "share_to_latency_cv": report.ratio,
        "stable": report.stable,
        "warnings": list(report.warnings),
        "classes": [{"llms": list(item.llms), "runs": item.runs} for item in report.classes],
        "llms": llms,
    }


def _spread(values: Any) -> dict[str, float]:
    p50, p95 = np.percentile(values, [50, 95])
    return {"mean": float(np.mean(values)), "p50": float(p50), "p95": float(p95)}
