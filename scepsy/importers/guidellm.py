"""GuideLLM reports (``benchmarks.json``): benchmarks, each with its finished, failed and unfinished requests.

Read are reports of 0.2 (``start_time``, ``first_token_time``) to 0.7 (``info.timings``). Several benchmarks of one report
(a sweep) become workflows of their own, since they were never in flight together. Requests of a conversation wait for each
other.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scepsy.importers.base import Imported, Importer
from scepsy.importers.bench import OPTIONS, Timed, import_load
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, embedded, get, label, moment_s
from scepsy.importers.observing import items, mapping
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally

FINISHED = ("successful", "completed")
UNFINISHED = ("incomplete", "errored")


class _Reader:
    """Numbers the benchmarks of all reports."""

    def __init__(self) -> None:
        self._benchmarks = 0

    def requests(self, benchmark: Mapping[str, Any], tally: Tally) -> Iterator[Timed]:
        """The requests of one benchmark, the failed ones marked."""
        self._benchmarks += 1
        group = str(self._benchmarks)
        by_status = mapping(benchmark.get("requests"))
        llm = label(get(benchmark, "config.backend.model", "worker.backend_model", "backend.model"))
        number = 0
        for status in (*FINISHED, *UNFINISHED):
            for row in items(by_status.get(status), f"requests.{status}"):
                number += 1
                try:
                    yield _request(mapping(row), status in UNFINISHED, llm, group, number)
                except Absurd as error:
                    tally.drop(str(error))
        if not number:
            raise Absurd(
                "requests holds none: must hold some (GuideLLM keeps them in benchmarks.json unless sample_requests is 0)"
            )


def requests() -> Any:
    """A reader for ``bench.timed_requests``; benchmarks are at ``PLACES``."""
    return _Reader().requests


PLACES = ("benchmarks",)


def _request(row: Mapping[str, Any], failed: bool, llm: str, group: str, number: int) -> Timed:
    times = get(row, "info.timings", "scheduler_info.request_timings") or {}
    start_s = moment_s(get(times, "request_start") or get(row, "request_start_time", "start_time"), "request_start")
    ended = get(times, "last_token_iteration", "request_end") or get(row, "last_token_time", "request_end_time", "end_time")
    last_s = moment_s(ended, "request_end")
    first_s = moment_s(get(times, "first_token_iteration") or get(row, "first_token_time"), "first_token_time")
    given = get(row, "prompt_tokens", "input_metrics.total_tokens", "input_metrics.text_tokens")
    made = get(row, "output_tokens", "output_metrics.total_tokens", "output_metrics.text_tokens")
    return Timed(
        id=label(row.get("request_id")) or f"{group}-{number}", start_s=start_s, first_s=first_s, last_s=last_s,
        input_tokens=count(given, "prompt_tokens"),
        output_tokens=count(made, "output_tokens"),
        cached_tokens=count(get(row, "input_metrics.cached_tokens"), "input_metrics.cached_tokens") or 0,
        llm=llm or _asked(row), group=group, failed=failed, conversation=_conversation(row),
        turn=count(get(row, "info.turn_index"), "info.turn_index") or 0,
    )  # fmt: skip


def _conversation(row: Mapping[str, Any]) -> str:
    """A conversation's id where it has more than the request: GuideLLM gives every request one."""
    told = label(get(row, "info.conversation_id"))
    return told if told and told != label(row.get("request_id")) else ""


def _asked(row: Mapping[str, Any]) -> str:
    """The model that the request's own arguments name."""
    return label(get(embedded(row.get("request_args")), "body.model", "model"))


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    return import_load("GuideLLM", sources, options, tally, requests(), *PLACES)


GUIDELLM = Importer(
    summary="GuideLLM reports (benchmarks.json): requests with their times",
    open=_open,
    detect=Fields(("requests.successful|requests.completed|requests.incomplete|requests.errored",), within=PLACES),
    options=OPTIONS,
)
