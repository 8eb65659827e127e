"""From records to observations: what every importer of agent sessions does around the reading of one record."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from scepsy.importers.assemble import Seen, assemble
from scepsy.importers.base import Imported
from scepsy.importers.fields import Absurd
from scepsy.importers.record_reader import json_records
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.workload import Call, CallKind, Run, TraceSource

Read = Callable[[Any], Iterable[Seen]]
"""The observations in one record. Raises ``Absurd`` on a record that cannot be read."""

BLOCK_MASK = 2**63 - 1
"""Block hashes of 64 bits lose their highest one, so that they fit a signed integer."""

WORKFLOW = {"workflow": "name of the workflow"}


def names(sources: Sequence[Source]) -> str:
    """The inputs, for a trace's origin: not their folders, which may say whose they are."""
    return ", ".join(source.label for source in sources[:3]) + (f" and {len(sources) - 3} more" if len(sources) > 3 else "")


def observations(sources: Sequence[Source], tally: Tally, read: Read, *places: str) -> Iterator[Seen]:
    """What is in the records of all inputs, in their order; a record that cannot be read is dropped and counted."""
    for source in sources:
        for record in json_records(source, tally, *places):
            try:
                yield from read(mapping(record.value))
            except Absurd as error:
                tally.drop(str(error), source, record.line)


def mapping(value: Any) -> Any:
    """A record, which must be a mapping. Raises ``Absurd``."""
    if not isinstance(value, dict):
        raise Absurd("a record is no mapping: must be one")
    return value


def items(value: Any, name: str) -> list[Any]:
    """A list, or nothing where it is absent. Raises ``Absurd``."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise Absurd(f"{name} is no list: must be one")
    return value


def block_ids(value: Any, name: str) -> tuple[int, ...]:
    """Ids of prompt blocks, made to fit 63 bits. Raises ``Absurd``."""
    found = items(value, name)
    if not all(isinstance(block, int) and not isinstance(block, bool) and abs(block) < 2**64 for block in found):
        raise Absurd(f"{name} is no list of whole numbers: must be one")
    return tuple(block & BLOCK_MASK for block in found)


def imported(
    what: str,
    sources: Sequence[Source],
    seen: Iterable[Seen],
    options: Mapping[str, str],
    tally: Tally,
    *,
    default: str,
    notes: tuple[str, ...] = (),
    block_tokens: int = 0,
    licence: str = "",
) -> Imported:
    """The trace that these observations make."""
    return Imported(
        source=TraceSource(origin=f"{what}: {names(sources)}", licence=licence, notes=notes),
        runs=assemble(seen, tally, workflow=options.get("workflow", ""), default=default),
        prefix_block_tokens=block_tokens,
    )


def single_call(
    tally: Tally,
    *,
    run: str,
    workflow: str,
    llm: str,
    arrival_s: float | None,
    input_tokens: int | None,
    output_tokens: int | None,
    prefix: tuple[int, ...] = (),
    session: str = "",
    kind: CallKind = "generate",
) -> Run:
    """A request of a load file, of which only arrival and lengths are known, as a run of one call. Raises ``ValueError``."""
    if input_tokens is None or output_tokens is None:
        raise Absurd("the number of input or output tokens is missing: must be given")
    call = Call(
        id="c0", llm=llm, kind=kind, input_tokens=input_tokens, output_tokens=output_tokens or (1 if kind == "generate" else 0),
        prefix_hashes=prefix,
    )  # fmt: skip
    made = Run(id=run, workflow=workflow, calls=(call,), arrival_s=arrival_s, session=session)
    if kind == "generate" and output_tokens == 0:
        tally.counts["calls without output tokens, counted as one token"] += 1
    return made


def runs_of_records(
    sources: Sequence[Source], tally: Tally, make: Callable[[Mapping[str, Any], str, Source], Run]
) -> Iterator[Run]:
    """One run from each JSON record. ``make`` gets the record, the id of the run and the input. What it refuses is dropped."""
    number = 0
    for source in sources:
        for record in json_records(source, tally):
            try:
                run = make(mapping(record.value), f"r{number}", source)
            except ValueError as error:
                tally.drop(str(error), source, record.line)
                continue
            yield run
            number += 1
