"""AIPerf's per-request records (``profile_export.jsonl``).

``metadata`` (nanoseconds since 1970), ``metrics`` with units, ``error``.

Requests of one user session (``x_correlation_id``) wait for each other by ``turn_index``. ``output_sequence_length``
includes reasoning. The first releases have ``timestamp_ns``, ``ttft`` and ``credit_phase``. Warm-up requests are left out;
failed and cancelled ones are counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scepsy.importers.base import Imported, Importer
from scepsy.importers.bench import OPTIONS, Timed, import_load
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, get, label, moment_s, seconds
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally

UNITS_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "sec": 1.0, "s": 1.0, "seconds": 1.0}


def requests(record: Mapping[str, Any], tally: Tally) -> Iterator[Timed]:
    """The request of one record. Raises ``Absurd``."""
    if label(get(record, "metadata.benchmark_phase", "metadata.credit_phase")) == "warmup":
        tally.facts["warm-up requests, left out"] += 1
        return
    start_s = moment_s(get(record, "metadata.request_start_ns", "metadata.timestamp_ns"), "metadata.request_start_ns")
    id_ = label(get(record, "metadata.x_request_id")) or f"{label(get(record, 'metadata.session_num'))}-{start_s}"
    failed = get(record, "error") is not None or get(record, "metadata.was_cancelled") is True
    latency_s, ttft_s = _seconds(record, "request_latency"), _seconds(record, "time_to_first_token", "ttft")
    end_s = moment_s(get(record, "metadata.request_end_ns"), "metadata.request_end_ns")
    if start_s is not None and latency_s is not None:
        end_s = start_s + latency_s
    yield Timed(
        id=id_, start_s=start_s, first_s=start_s + ttft_s if start_s is not None and ttft_s is not None else None, last_s=end_s,
        input_tokens=_tokens(record, "input_sequence_length", "usage_prompt_tokens"),
        output_tokens=_tokens(record, "output_sequence_length", "output_token_count", "usage_completion_tokens"),
        cached_tokens=_tokens(record, "usage_prompt_cache_read_tokens") or 0,
        llm=label(get(record, "metadata.model_name", "metadata.model")), failed=failed,
        conversation=label(get(record, "metadata.x_correlation_id")),
        turn=count(get(record, "metadata.turn_index"), "metadata.turn_index") or 0,
    )  # fmt: skip


def _value(record: Mapping[str, Any], name: str) -> tuple[Any, str]:
    found = get(record, f"metrics.{name}")
    return (found.get("value"), label(found.get("unit"))) if isinstance(found, dict) else (found, "")


def _tokens(record: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value, _ = _value(record, name)
        if value is not None:
            return count(value, f"metrics.{name}")
    return None


def _seconds(record: Mapping[str, Any], *names: str) -> float | None:
    name = next((name for name in names if _value(record, name)[0] is not None), None)
    if name is None:
        return None
    value, unit = _value(record, name)
    if unit not in UNITS_S:
        raise Absurd(f"metrics.{name}.unit is unknown: must be one of {', '.join(UNITS_S)}")
    return seconds(value, f"metrics.{name}", unit_s=UNITS_S[unit])


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    return import_load("AIPerf", sources, options, tally, requests)


AIPERF = Importer(
    summary="AIPerf per-request records (profile_export.jsonl): requests with their times",
    open=_open,
    detect=Fields(
        ("metadata.request_start_ns|metadata.timestamp_ns", "metadata.worker_id|metadata.request_end_ns", "metrics|error")
    ),
    options=OPTIONS,
)
