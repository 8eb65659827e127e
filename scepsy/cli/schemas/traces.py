"""Documents of ``scepsy trace``, and where the gateway says that it listens."""

from scepsy.cli.schemas.shapes import FLAG, NUMBER, TEXT, WHOLE, Shape, by_name, maybe, record, rows

_TOKENS = record({"mean": NUMBER, "p50": NUMBER, "p95": NUMBER})
_INTERVAL = {"cv_low": maybe(NUMBER), "cv_high": maybe(NUMBER)}
_SHARE = record(
    {"mean": NUMBER, "cv": maybe(NUMBER), "low": maybe(NUMBER), "high": maybe(NUMBER)},
    {**_INTERVAL, "batch_cv": maybe(NUMBER), "runs_needed": maybe(WHOLE)},
)
_USE = record(
    {
        "calls_per_run": NUMBER,
        "parallelism": NUMBER,
        "share": _SHARE,
        "input_tokens": _TOKENS,
        "output_tokens": _TOKENS,
    }
)
_LATENCY = record({"mean": maybe(NUMBER), "cv": maybe(NUMBER), "p50": maybe(NUMBER), "p95": maybe(NUMBER)}, _INTERVAL)
_WORKFLOW = record(
    {
        "runs": WHOLE,
        "calls": WHOLE,
        "latency_s": _LATENCY,
        "stable": FLAG,
        "warnings": rows(TEXT),
        "llms": by_name(_USE),
    },
    {
        "tool_s": maybe(NUMBER),
        "most_in_flight": WHOLE,
        "times": TEXT,
        "share_to_latency_cv": maybe(NUMBER),
        "classes": rows(record({"llms": rows(TEXT), "runs": WHOLE})),
    },
)

STATS = record({"workflows": by_name(_WORKFLOW)}, {"unmapped_llms": rows(TEXT)})

IMPORT = record(
    {
        "format": TEXT,
        "runs": WHOLE,
        "calls": WHOLE,
        "input_tokens": WHOLE,
        "output_tokens": WHOLE,
        "llms": by_name(record({"calls": WHOLE, "input_tokens": WHOLE, "output_tokens": WHOLE})),
        "estimated_calls": WHOLE,
        "dropped_calls": WHOLE,
        "warnings": rows(TEXT),
        "trace": TEXT,
        "reason": TEXT,
    },
    {
        "span_s": maybe(NUMBER),
        "estimated_pct": NUMBER,
        "dropped_pct": NUMBER,
        "dropped_lines": WHOLE,
        "duplicate_calls": WHOLE,
        "unfinished_calls": WHOLE,
        "retries": WHOLE,
        "cached_input_tokens": WHOLE,
        "overlapping_calls": WHOLE,
        "tool_s": maybe(NUMBER),
        "between_calls_s": NUMBER,
        "clock_resolution_s": maybe(NUMBER),
        "dependencies_given": WHOLE,
        "dependencies_inferred": WHOLE,
        "inferred_confidence": maybe(NUMBER),
        "reconstructed": WHOLE,
        "counts": by_name(WHOLE),
        "statistics": STATS,
    },
)

_GENERATED = record({"summary": TEXT, "roles": by_name(TEXT), "sources": rows(TEXT), "assumptions": rows(TEXT)})
_FORMAT = record({"summary": TEXT, "options": by_name(TEXT)})

DOCUMENTS: dict[str, Shape] = {
    "trace stats": STATS,
    "trace import": IMPORT,
    "trace generate": record({"trace": TEXT, "workflow": TEXT, "runs": WHOLE, "calls": WHOLE, "seed": WHOLE}),
    "trace list": record({"workflows": by_name(_GENERATED), "formats": by_name(_FORMAT)}),
    "trace export": record(
        {"file": TEXT, "format": TEXT, "runs": WHOLE, "calls": WHOLE, "lost": rows(TEXT)},
        {"spans": TEXT},
    ),
    "gateway": record({"url": TEXT, "llms": rows(TEXT)}),
}
