"""Documents of the commands that simulate, compare and evaluate."""

from scepsy.cli.schemas.plans import COST
from scepsy.cli.schemas.shapes import FLAG, NUMBER, TEXT, WHOLE, Shape, by_name, either, maybe, record, rows

_COUNTS = record(dict.fromkeys(("issued", "completed", "rejected", "unfinished"), WHOLE))
_QUANTILES = {name: maybe(NUMBER) for name in ("mean", "p50", "p95", "p99")}
_LATENCY = record({**_QUANTILES, "mean_half_width": maybe(NUMBER)}, {"p95_half_width": maybe(NUMBER)})
_STANDING = {
    "stable": FLAG,
    "settled": FLAG,
    "offered_per_s": maybe(NUMBER),
    "throughput_per_s": maybe(NUMBER),
    "latency_s": _LATENCY,
}
_VERDICT = {"verdict": TEXT, "why": TEXT}
_WHY = {**_VERDICT, "engine_why": TEXT}
_MEASURED = {**_STANDING, "engine": TEXT, "workflows": by_name(record(_STANDING, _VERDICT))}
_LLM = record({"calls": _COUNTS, **{name: record(_QUANTILES) for name in ("latency_s", "queue_s", "ttft_s", "tpot_s")}})

_COMPARED = {
    "planner": TEXT,
    "workflow": TEXT,
    "rate_per_s": NUMBER,
    "source": TEXT,
    "latency_mean_s": maybe(NUMBER),
    "latency_p95_s": maybe(NUMBER),
    "throughput_per_s": maybe(NUMBER),
}
_ROW = record({**_COMPARED, "seed": WHOLE})

_PAIRED = record(
    {
        "plans": rows(
            record(
                {
                    "plan": TEXT,
                    "planner": TEXT,
                    "cluster": TEXT,
                    "predicted_latency_s": by_name(maybe(NUMBER)),
                    "highest_rate_per_s": by_name(maybe(NUMBER)),
                    "allocations": by_name(
                        record(
                            {"share_pct": WHOLE, "tensor_parallel": WHOLE, "replicas": WHOLE, "gpu_type": TEXT},
                            {"parameters": NUMBER, "weight_bytes": WHOLE},
                        )
                    ),
                    "cost": COST,
                }
            )
        ),
        "runs": WHOLE,
        "seed": WHOLE,
        "rows": rows(
            record(
                {
                    "workflow": TEXT,
                    "plan": TEXT,
                    "verdict": TEXT,
                    "latency_mean_s": maybe(NUMBER),
                    "latency_half_width_s": maybe(NUMBER),
                    "latency_p95_s": maybe(NUMBER),
                    "throughput_per_s": maybe(NUMBER),
                    "difference_s": maybe(NUMBER),
                    "difference_half_width_s": maybe(NUMBER),
                    "difference_part": maybe(NUMBER),
                    "p_value": maybe(NUMBER),
                    "significant": maybe(FLAG),
                    "p95_difference_s": maybe(NUMBER),
                    "told": TEXT,
                }
            )
        ),
    },
    description="Of several plans, simulated under the same runs. difference: from the first plan, null for itself and where "
    "one of the two does not keep up; difference_part: over the first plan's mean. p_value and significant are null too "
    "where not both are shown to keep up.",
)

_SLO = record(
    {
        "ok": FLAG,
        "verdict": TEXT,
        "checks": rows(
            record(
                {"name": TEXT, "limit": maybe(NUMBER), "value": maybe(NUMBER), "ok": FLAG},
                {"workflow": TEXT, "half_width": maybe(NUMBER), "why": TEXT, "llm": TEXT, "known": FLAG},
            )
        ),
        "goodput": rows(
            record(
                {
                    "workflow": TEXT,
                    "within": maybe(TEXT),
                    "within_s": maybe(NUMBER),
                    "good_pct": maybe(NUMBER),
                    "goodput_per_s": maybe(NUMBER),
                }
            )
        ),
    },
    description="Of the plan's SLO, or of --slo.",
)

DOCUMENTS: dict[str, Shape] = {
    "simulate": record(
        {
            **_MEASURED,
            "runs": _COUNTS,
            "calls": _COUNTS,
            "simulated_s": NUMBER,
            "wall_s": NUMBER,
            "calls_per_wall_s": maybe(NUMBER),
        },
        {
            **_WHY,
            "by_workflow": by_name(record({"runs": _COUNTS, "latency_s": record(_QUANTILES)})),
            "by_llm": by_name(_LLM),
            "instances": rows(record({"instance": TEXT, "llm": TEXT})),
            "slo": _SLO,
        },
    ),
    "validate": record(
        {
            "ok": FLAG,
            "checks": rows(
                record(
                    {"name": TEXT, "limit": maybe(NUMBER), "value": maybe(NUMBER), "ok": FLAG},
                    {"workflow": TEXT, "half_width": maybe(NUMBER), "why": TEXT, "llm": TEXT, "known": FLAG},
                )
            ),
            "runs": _COUNTS,
            **_MEASURED,
        },
        {**_WHY, "slo": _SLO},
    ),
    "report": record({"report": TEXT, "pictures": rows(TEXT), "rows": rows(_ROW)}),
    "compare": either(
        record(
            {
                "rows": rows(_ROW),
                "medians": rows(record({**_COMPARED, "seed": {"const": "median"}, "seeds": WHOLE})),
            },
            description="Of one plan. source is predicted, simulated, simulated-at-speed or measured.",
        ),
        _PAIRED,
    ),
    "doctor": record(
        {
            "ok": FLAG,
            "findings": rows(
                record(
                    {
                        "name": TEXT,
                        "standing": {"enum": ["works", "missing", "broken"]},
                        "found": TEXT,
                        "needed_for": TEXT,
                        "needed": FLAG,
                        "mend": TEXT,
                    }
                )
            ),
        },
        description="mend: the command that mends it, empty where nothing is to mend.",
    ),
    "demo": record(
        {
            "rows": rows(_ROW),
            "predictions_within_15_pct": WHOLE,
            "predictions_checked": WHOLE,
            "worst_deviation_pct": maybe(NUMBER),
            "planners": rows(TEXT),
            "report": TEXT,
        }
    ),
    "experiment list": record(
        {
            "experiments": rows(
                record({"name": TEXT, "title": TEXT, "figure": TEXT, "quick_tasks": WHOLE, "full_tasks": WHOLE})
            ),
            "systems": rows(record(dict.fromkeys(("name", "title", "group", "assumes", "favours"), TEXT))),
        }
    ),
    "experiment run": record(
        {
            "scale": TEXT,
            "estimate_s": NUMBER,
            "calls_per_s": NUMBER,
            "estimates_s": by_name(NUMBER),
            "written": by_name(TEXT),
        }
    ),
    "experiment report": record(
        {
            "page": TEXT,
            "files": rows(TEXT),
            "ratios": rows(
                record(
                    {"workload": TEXT, "load": NUMBER, "system": TEXT}
                    | {name: maybe(NUMBER) for name in ("ratio", "low", "high", "ours_s", "other_s")}
                )
            ),
        }
    ),
    "figures": record(
        {"figures": rows(TEXT), "files": rows(TEXT), "skipped": rows(record({"figure": TEXT, "why": TEXT}))},
    ),
}
