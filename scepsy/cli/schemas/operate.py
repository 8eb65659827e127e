"""The document of ``scepsy operate``: one line of its log of decisions (``executor.operate.journal.Entry``)."""

from scepsy.cli.schemas.shapes import FLAG, NUMBER, TEXT, WHOLE, Shape, by_name, maybe, record, rows

_ESTIMATE = record({"value": NUMBER}, {"low": maybe(NUMBER), "high": maybe(NUMBER)})
_DRIFT = record(
    {
        "workflow": TEXT,
        "number": TEXT,
        "expected": NUMBER,
        "observed": NUMBER,
        "z": NUMBER,
        "threshold": NUMBER,
        "runs": WHOLE,
    }
)
_OUTLOOK = record(
    {
        "latency_s": by_name(NUMBER),
        "limited_s": by_name(NUMBER),
        "throughput_per_s": by_name(NUMBER),
        "utilisation": NUMBER,
        "gpus": WHOLE,
        "in_system": NUMBER,
        "meets": FLAG,
    }
)
_MOVE = record(
    {"started": WHOLE, "stopped": WHOLE, "cold_start_s": NUMBER, "gpu_s": NUMBER, "lost_run_s": NUMBER},
    {"meets_meanwhile": FLAG},
)
_LLM = dict.fromkeys(("calls", "input_tokens", "output_tokens", "parallelism", "share"), _ESTIMATE)
_WINDOW = record(
    {
        "workflow": TEXT,
        "begin_s": NUMBER,
        "end_s": NUMBER,
        "arrivals": WHOLE,
        "ended": WHOLE,
        "rate_per_s": _ESTIMATE,
        "latency_s": maybe(_ESTIMATE),
        "tool_s": maybe(_ESTIMATE),
        "llms": rows(record({"llm": TEXT, **_LLM})),
    }
)
_LOAD = record({"workflow": TEXT, "rate_per_s": _ESTIMATE, "planned_rate_per_s": NUMBER, "since_s": NUMBER, "live_runs": WHOLE})
_ALLOCATION = record({"llm": TEXT, "share_pct": WHOLE, "tensor_parallel": WHOLE, "replicas": WHOLE, "gpu_type": TEXT})
_CANDIDATE = record({"plan": TEXT, "allocations": rows(_ALLOCATION), "outlook": _OUTLOOK, "move": _MOVE})
_SIMULATED = record(
    {"running_s": by_name(NUMBER), "candidate_s": by_name(NUMBER)},
    {
        "running_limited_s": by_name(NUMBER),
        "candidate_limited_s": by_name(NUMBER),
        "running_keeps_up": FLAG,
        "candidate_keeps_up": FLAG,
        "runs": WHOLE,
    },
)
_DECISION = record(
    {"act": {"enum": ["keep", "switch"]}, "reason": TEXT},
    {"candidate": maybe(WHOLE), "blocked": TEXT, "gain": NUMBER, "cost": NUMBER, "unit": TEXT},
)

DOCUMENTS: dict[str, Shape] = {
    "operate": record(
        {
            "number": WHOLE,
            "at_s": NUMBER,
            "kind": {"enum": ["started", "decided", "acting", "outcome", "stopped"]},
            "mode": {"enum": ["advise", "act"]},
            "plan": TEXT,
        },
        {
            "version": {"const": 1},
            "found": TEXT,
            "drifts": rows(_DRIFT),
            "windows": rows(_WINDOW),
            "loads": rows(_LOAD),
            "lost": rows(TEXT),
            "running": maybe(_OUTLOOK),
            "candidates": rows(_CANDIDATE),
            "simulated": maybe(_SIMULATED),
            "decision": maybe(_DECISION),
            "wanted": TEXT,
            "token": TEXT,
            "result": {"enum": ["", "serving", "rolled back", "refused", "left"]},
            "took_s": NUMBER,
            "note": TEXT,
        },
        description="One line of the log of decisions. Fields that are empty are left out.",
    ),
}
