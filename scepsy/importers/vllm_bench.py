"""Results of ``vllm bench serve --save-result --save-detailed`` (JSON): lists with one entry per request.

``start_times`` (seconds of a clock of the client's), ``ttfts`` and ``itls`` (seconds) give a request's times; failed
requests have an ``errors`` entry. Results of vLLM that has no ``start_times`` yet give lengths only.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import fsum
from typing import Any

from scepsy.importers.base import Imported, Importer
from scepsy.importers.bench import OPTIONS, Timed, import_load
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, label, seconds
from scepsy.importers.observing import items
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally


def requests(result: Mapping[str, Any], tally: Tally) -> Iterator[Timed]:
    """The requests of one result. Raises ``Absurd`` when it was saved without details."""
    columns = {
        name: items(result.get(name), name) for name in ("input_lens", "output_lens", "start_times", "ttfts", "itls", "errors")
    }
    given = columns["input_lens"]
    if not given or not columns["output_lens"]:
        raise Absurd(
            "input_lens or output_lens is missing: must be given (run vllm bench serve with --save-result --save-detailed)"
        )
    for name, column in columns.items():
        if column and len(column) != len(given):
            raise Absurd(f"{name} has {len(column)} entries, input_lens {len(given)}: must have as many")
    llm = label(result.get("model_id"))
    name = label(result.get("date")) or "run"
    for place in range(len(given)):
        try:
            yield _request(columns, place, llm, f"{name}-{place}")
        except Absurd as error:
            tally.drop(str(error))


def _request(columns: Mapping[str, list[Any]], place: int, llm: str, id_: str) -> Timed:
    cells = {name: column[place] for name, column in columns.items() if column}
    start_s = _clock_s(cells.get("start_times"))
    first_s = last_s = None
    if start_s is not None and (ttft_s := seconds(cells.get("ttfts"), "ttfts")) is not None:
        first_s = start_s + ttft_s
        if "itls" in cells:
            last_s = first_s + fsum(seconds(gap, "itls") or 0.0 for gap in items(cells["itls"], "itls"))
    return Timed(
        id=id_, start_s=start_s, first_s=first_s, last_s=last_s, llm=llm, failed=bool(cells.get("errors")),
        input_tokens=count(cells.get("input_lens"), "input_lens"), output_tokens=count(cells.get("output_lens"), "output_lens"),
    )  # fmt: skip


def _clock_s(value: Any) -> float | None:
    """A client's clock may count from anywhere."""
    return seconds(value, "start_times", most_s=1e12)


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    return import_load("vllm bench", sources, options, tally, requests)


VLLM_BENCH = Importer(
    summary="vllm bench serve --save-result --save-detailed (JSON): requests with their times",
    open=_open,
    detect=Fields(("input_lens", "output_lens", "ttfts", "itls|start_times")),
    options=OPTIONS,
)
