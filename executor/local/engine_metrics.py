"""What a running engine says of itself on /metrics, in a few numbers."""

import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

GAUGES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_cache_used",
}
COUNTERS = {
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generated_tokens",
    "vllm:request_success_total": "requests",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:prefix_cache_hits_total": "prefix_hit_tokens",
    "vllm:prefix_cache_queries_total": "prefix_tokens",
}
SUMS = {
    "vllm:time_to_first_token_seconds": "first_token_s",
    "vllm:request_queue_time_seconds": "queue_s",
    "vllm:request_prefill_time_seconds": "prefill_s",
    "vllm:request_decode_time_seconds": "decode_s",
    "vllm:iteration_tokens_total": "iteration_tokens",
}
"""Histograms, given as their sum and count (``<name>`` and ``<name>_count``)."""


def parse_metrics(text: str) -> dict[str, float]:
    """Totals over all labels. Engines that lack a metric leave it out.

    >>> parse_metrics('vllm:num_requests_running{model_name="a"} 2.0\\n')
    {'running': 2.0}
    """
    found: dict[str, float] = {}
    names = {**GAUGES, **COUNTERS}
    for histogram, name in SUMS.items():
        names[f"{histogram}_sum"], names[f"{histogram}_count"] = name, f"{name}_count"
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in names:
                found[names[sample.name]] = found.get(names[sample.name], 0.0) + sample.value
    return found


def read_metrics(url: str, timeout_s: float = 3.0) -> dict[str, float] | None:
    """The metrics of the engine at ``url``; None when it does not answer."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=timeout_s) as answer:
            return parse_metrics(answer.read().decode())
    except (urllib.error.URLError, OSError, ValueError):
        return None
