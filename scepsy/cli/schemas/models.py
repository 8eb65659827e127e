"""Documents of ``scepsy profile`` and ``scepsy model``."""

from scepsy.cli.schemas.shapes import FLAG, NUMBER, TEXT, WHOLE, Shape, by_name, either, maybe, record, rows

_MODEL_FIELDS = {
    "name": TEXT,
    "family": maybe(TEXT),
    "parameters": WHOLE,
    "active_parameters": WHOLE,
    "weight_bytes": WHOLE,
    "kv_bytes_per_token": WHOLE,
    "context_tokens": WHOLE,
    "source": TEXT,
}
_CACHE = record({"kind": TEXT, "layers": WHOLE, "bytes_per_token": NUMBER, "window_tokens": maybe(WHOLE)})
_MODEL_MORE = {
    "hf_name": maybe(TEXT),
    "kind": TEXT,
    "precision": TEXT,
    "kv_cache_dtype": TEXT,
    "kv_layers": rows(_CACHE),
    "state_bytes_per_sequence": WHOLE,
    "experts": maybe(record({"routed": WHOLE, "per_token": WHOLE})),
    "layers": WHOLE,
    "attention_heads": WHOLE,
    "kv_heads": WHOLE,
    "notes": rows(TEXT),
}
_MODEL = record(_MODEL_FIELDS, _MODEL_MORE)

_STEP_MODEL = record(
    {
        "llm": TEXT,
        "gpu": TEXT,
        "tensor_parallel": WHOLE,
        "base_ms": NUMBER,
        "experts_ms": NUMBER,
        "prefill_ms_per_1k_tokens": NUMBER,
        "decode_ms_per_sequence": NUMBER,
        "context_ms_per_1k_tokens": NUMBER,
        "kv_capacity_tokens": maybe(WHOLE),
        "fits": FLAG,
        "residual_pct": maybe(NUMBER),
        "source": TEXT,
    }
)
_MEASURED = record(
    {"llm": TEXT, "tensor_parallel": WHOLE, "base_ms": NUMBER, "prefill_us_per_token": NUMBER},
    {
        "share_pct": WHOLE,
        "decode_us_per_sequence": NUMBER,
        "context_us_per_token": NUMBER,
        "capacity_per_s": maybe(NUMBER),
        "residual_pct": maybe(NUMBER),
        "requests": WHOLE,
        "left_out": WHOLE,
        "fit_median_err_pct": NUMBER,
        "fit_p95_err_pct": NUMBER,
    },
)
_ERRORS = {"points": WHOLE, "median_err_pct": NUMBER, "p95_err_pct": NUMBER}
_REPLAYED = record(
    {
        "name": TEXT,
        "source": {"enum": ["fit", "vendor"]},
        "requests": WHOLE,
        "latency_mean_err_pct": maybe(NUMBER),
        "latency_p95_err_pct": maybe(NUMBER),
        "tpot_mean_err_pct": maybe(NUMBER),
        "ttft_mean_err_pct": maybe(NUMBER),
        "notes": rows(TEXT),
    },
    {
        "trained_on": WHOLE,
        "prior": maybe(TEXT),
        "parameters": by_name(record({"value": NUMBER, "std_err_pct": maybe(NUMBER)})),
        "condition": maybe(NUMBER),
        "fit_residual_pct": maybe(NUMBER),
        "preemptions": WHOLE,
    },
)
_SILICON = record(
    {
        "model": TEXT,
        "system": TEXT,
        "rows_used": WHOLE,
        "vllm_rows": WHOLE,
        "calibrated_on_tp": rows(WHOLE),
        "prefill_factor": NUMBER,
        "host_s_per_iteration": NUMBER,
        "length_spread": NUMBER,
        "scores": rows(record({"step_times": TEXT, "rows": WHOLE})),
    },
    description="With --silicon.",
)

DOCUMENTS: dict[str, Shape] = {
    "profile run": record({"profiles": TEXT, "measured": rows(_MEASURED)}),
    "profile import": record({"profiles": TEXT, "measured": rows(_MEASURED)}),
    "profile show": record({"profiles": rows(_STEP_MODEL)}),
    "profile fit": record(
        {},
        {
            "share_law": rows(record({"regime": TEXT, "k": NUMBER, **_ERRORS})),
            "steps": rows(record({"model": TEXT, "base_ms": NUMBER, "prefill_us_per_token": NUMBER, **_ERRORS})),
            "tensor_parallel": rows(record({"overhead_us_per_layer": NUMBER, **_ERRORS})),
        },
        description="A field for each law that was asked for.",
    ),
    "profile check": record(
        {"families": rows(record({"family": TEXT, "pairs": WHOLE, "decode_pct": NUMBER, "decode_worst_pct": NUMBER}))}
    ),
    "profile validate": either(
        record({"runs": rows(_REPLAYED)}, description="Signed errors in percent, on the scored part only."), _SILICON
    ),
    "model list": record({"models": rows(_MODEL), "fits": maybe(TEXT)}),
    "model show": record(_MODEL_FIELDS, {**_MODEL_MORE, "smallest_gpus": by_name(maybe(WHOLE))}),
    "model add": record({**_MODEL_FIELDS, "file": TEXT}, _MODEL_MORE),
}
