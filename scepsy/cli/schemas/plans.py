"""Documents of the commands that plan: ``plan``, ``predict``, ``frontier``, ``admit``, ``changes``."""

from scepsy.cli.schemas.shapes import FLAG, NUMBER, TEXT, WHOLE, Shape, by_name, either, maybe, record, rows

_PER_WORKFLOW = either(maybe(NUMBER), by_name(maybe(NUMBER)))
"""A number where there is one workflow, else by workflow."""
COST = record(
    {
        "gpus": WHOLE,
        "usd_per_hour": maybe(NUMBER),
        "cluster_gpus": WHOLE,
        "cluster_usd_per_hour": maybe(NUMBER),
        "usd_per_1000_runs": maybe(NUMBER),
        "gpu_hours_per_1000_runs": maybe(NUMBER),
        "power_kw": maybe(NUMBER),
        "energy_kwh_per_1000_runs": maybe(NUMBER),
        "energy_is_estimated_from": TEXT,
        "prices": rows(
            record({"gpu_type": TEXT, "gpus": WHOLE, "usd_per_hour": maybe(NUMBER), "source": TEXT, "tdp_w": maybe(NUMBER)})
        ),
    },
    description="GPUs that the plan touches, at their prices; all workflows together, at the target rates.",
)
JUDGED = record(
    {
        "candidates": WHOLE,
        "lead_pct": maybe(NUMBER),
        "seconds": NUMBER,
    },
    {
        "lead_half_width_pct": maybe(NUMBER),
        "over": TEXT,
        "calls": WHOLE,
        "budget_s": NUMBER,
        "stable": FLAG,
        "latency_s": _PER_WORKFLOW,
        "misses": rows(TEXT),
    },
    description="What simulations said of the plan beside others; null where none had a say.",
)
_PLANNED = record(
    {
        "planner": TEXT,
        "rate_per_s": _PER_WORKFLOW,
        "latency_s": _PER_WORKFLOW,
        "throughput_per_s": _PER_WORKFLOW,
        "gpus": WHOLE,
        "search_s": NUMBER,
        "optimal": FLAG,
        "bound_latency_s": maybe(NUMBER),
        "allocations": by_name(
            record({"share_pct": WHOLE, "tensor_parallel": WHOLE, "replicas": WHOLE}, {"gpu_type": TEXT}),
        ),
        "placement": rows(
            record(
                {"llm": TEXT, "instance": TEXT, "node": TEXT, "gpus": rows(WHOLE), "share_pct": WHOLE},
                {"memory_bytes": WHOLE},
            )
        ),
        "fragmentation_pct": NUMBER,
    },
    {
        "assumptions": rows(TEXT),
        "judged": maybe(JUDGED),
        "explanation": rows(TEXT),
        "objective_s": maybe(NUMBER),
        "slo": maybe({"type": "object"}),
        "predictor": TEXT,
        "cost": COST,
        "next_cheaper": record(
            {"gpus": by_name(WHOLE), "usd_per_hour": NUMBER, "misses": TEXT},
            description="With --goal cost: the next cheaper combination of GPUs, and the limit or rate that it misses.",
        ),
        "models": by_name(
            record(
                {"model": TEXT, "hub_id": maybe(TEXT), "quantisation": TEXT},
                {"also": rows(TEXT)},
                description="also: other names of the traffic that the same instances serve (--share).",
            )
        ),
    },
)
_SUGGESTED = record(
    {"suggestions": rows(record({"name": TEXT, "model": TEXT, "why": TEXT})), "options": TEXT, "guess": {"const": True}},
    description="With --suggest-models.",
)
_PREDICTED = record(
    {
        "latency_s": record({name: maybe(NUMBER) for name in ("mean", "p50", "p95", "p99")}),
        "throughput_per_s": NUMBER,
        "by_llm": by_name(record({"busy_s": maybe(NUMBER), "utilisation": NUMBER, "calls_per_run": NUMBER})),
        "predictor": TEXT,
        "workflow": TEXT,
    },
    {"tool_s": NUMBER},
)

_SCHEDULED = record(
    {
        "stretches": rows(
            record(
                {
                    "begin_s": NUMBER,
                    "switch_s": NUMBER,
                    "duration_s": NUMBER,
                    "rates_per_s": by_name(NUMBER),
                    "gpus": WHOLE,
                    "started": WHOLE,
                    "stopped": WHOLE,
                    "gpu_hours": NUMBER,
                    "latency_s": by_name(maybe(NUMBER)),
                    "plan": maybe(TEXT),
                }
            )
        ),
        "gpu_hours": NUMBER,
        "static_gpu_hours": NUMBER,
        "static_gpus": WHOLE,
    },
    description="With --rates.",
)

DOCUMENTS: dict[str, Shape] = {
    "plan": either(_PLANNED, _SUGGESTED, _SCHEDULED),
    "predict": either(
        _PREDICTED,
        record({"predictor": TEXT, "workflows": rows(_PREDICTED)}, description="Of a plan for several workflows."),
    ),
    "frontier": record(
        {
            "targets": by_name(NUMBER),
            "points": rows(
                record(
                    {"gpus": WHOLE, "latency_s": maybe(NUMBER), "rate_factor": NUMBER},
                    {
                        "gpu_type": TEXT,
                        "planned_latency_s": maybe(NUMBER),
                        "planned_gpus": maybe(WHOLE),
                        "usd_per_hour": maybe(NUMBER),
                        "usd_per_1000_runs": maybe(NUMBER),
                        "gpu_hours_per_1000_runs": maybe(NUMBER),
                        "energy_kwh_per_1000_runs": maybe(NUMBER),
                        "pareto": FLAG,
                    },
                )
            ),
        },
        {"left_out": by_name(TEXT)},
        description="One point per GPU type and number of GPUs. latency_s and rate_factor are bounds (packing left aside); "
        "latency_s is null where the target rates cannot be met. planned_ and what follows are of the plan found there; null "
        "where none was searched. left_out: GPU types that cannot serve, and why.",
    ),
    "explore": record(
        {"page": TEXT, "plans": WHOLE, "distinct_plans": WHOLE, "left_out": by_name(TEXT)},
        description="left_out: GPU types that cannot serve, and why.",
    ),
    "admit": record(
        {
            "workflows": rows(
                record(
                    {
                        "workflow": TEXT,
                        "rate_per_s": NUMBER,
                        "served": FLAG,
                        "possible_rate_per_s": NUMBER,
                        "more_gpus": maybe(WHOLE),
                        "message": TEXT,
                    }
                )
            )
        },
        description="In the order given; more_gpus is null where no number that was tried is enough.",
    ),
    "changes": record(
        {
            "kept": rows(TEXT),
            "started": rows(TEXT),
            "stopped": rows(TEXT),
            "cold_start_s": NUMBER,
            "cold_start_gpu_s": NUMBER,
            "latency_before_s": by_name(maybe(NUMBER)),
            "latency_after_s": by_name(maybe(NUMBER)),
        },
        {"models": rows(record({"llm": TEXT, "before": TEXT, "after": TEXT})), "models_known": FLAG},
    ),
}
