"""Results of load generators: requests with their times, as load (runs of one call, conversations) and as measurements."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scepsy.importers.assemble import Seen
from scepsy.importers.base import Imported
from scepsy.importers.fields import Absurd
from scepsy.importers.observing import imported, mapping, names, single_call
from scepsy.importers.record_reader import json_records
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.workload import Run, TraceSource

OPTIONS = {
    "workflow": "name of the workflow",
    "llm": "name of the LLM where the file has none (default: llm)",
}


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One request as a load generator saw it."""

    id: str
    start_s: float | None
    """When it was sent, on any clock; None where the file does not say."""
    first_s: float | None = None
    """When the first token came."""
    last_s: float | None = None
    """When the last one came, or the reply ended."""
    input_tokens: int | None
    output_tokens: int | None
    llm: str = ""
    group: str = ""
    """The benchmark it is part of, of several in a file."""
    conversation: str = ""
    turn: int = 0
    cached_tokens: int = 0
    failed: bool = False


Requests = Callable[[Mapping[str, Any], Tally], Iterable[Timed]]
"""The requests in one record. Raises ``Absurd``."""


def timed_requests(sources: Sequence[Source], tally: Tally, requests: Requests, *places: str) -> Iterator[Timed]:
    """All requests of these files; a record that cannot be read is dropped and counted."""
    for source in sources:
        for record in json_records(source, tally, *places):
            try:
                yield from requests(mapping(record.value), tally)
            except Absurd as error:
                tally.drop(str(error), source, record.line)


def import_load(
    what: str, sources: Sequence[Source], options: Mapping[str, str], tally: Tally, requests: Requests, *places: str
) -> Imported:
    """The load of a benchmark: one run per request, or per conversation, whose turns wait for each other."""
    llm = options.get("llm", "")
    default = what.lower().replace(" ", "-")
    name = options.get("workflow", "")
    found = timed_requests(sources, tally, requests, *places)
    first = next(iter(found), None)
    if first is not None and not (first.llm or llm):
        tally.warn("the model is not recorded: it is called llm (else: --set llm=NAME)")
    everything = (one for part in ([first] if first is not None else [], found) for one in part)
    if first is not None and first.start_s is None:
        tally.warn("the requests' times are not recorded: the trace has no arrivals")
        return Imported(
            source=TraceSource(origin=f"{what}: {names(sources)}"), runs=_timeless(everything, name or default, llm, tally)
        )
    seen = _seen(everything, llm, default, tally)
    return imported(
        what, sources, seen, options, tally, default=default, notes=("requests of a load generator, as it sent them",)
    )


def _seen(requests: Iterable[Timed], llm: str, default: str, tally: Tally) -> Iterator[Seen]:
    for request in requests:
        if request.start_s is None:
            tally.drop("requests without a begin")
            continue
        talk = ":".join(part for part in (request.group, request.conversation) if part) if request.conversation else request.id
        yield Seen(
            run=talk, id=f"{talk}:{request.turn}" if request.conversation else request.id, start_s=request.start_s,
            end_s=request.last_s, llm=request.llm or llm or "llm", input_tokens=request.input_tokens,
            output_tokens=request.output_tokens, cached_tokens=request.cached_tokens, failed=request.failed,
            waits=(f"{talk}:{request.turn - 1}",) if request.conversation and request.turn else (),
            workflow=f"{default}-{request.group}" if request.group else "", session=talk if request.conversation else "",
        )  # fmt: skip


def _timeless(requests: Iterable[Timed], workflow: str, llm: str, tally: Tally) -> Iterator[Run]:
    for number, request in enumerate(requests):
        if request.failed:
            tally.drop("failed calls")
            continue
        try:
            yield single_call(
                tally, run=f"r{number}", workflow=workflow, llm=request.llm or llm or "llm", arrival_s=None,
                input_tokens=request.input_tokens, output_tokens=request.output_tokens,
            )  # fmt: skip
        except ValueError as error:
            tally.drop(str(error))
