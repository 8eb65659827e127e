"""τ²-bench simulations (result files, or bare lists of simulations): an agent LLM and a user-simulator LLM, strictly in turn.

A message's timestamp is its end, and calls follow one another, so a call starts when the message before it ended
(tools answer within a millisecond). The greeting has no usage and is no call. Agent and user are kept apart even where
they are the same model, as ``agent:<model>`` and ``user:<model>``: the planner may serve them differently. A result file names
the models in ``info``; in a bare list each message names its own in ``raw_data.model``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from scepsy.importers.base import Imported, Importer
from scepsy.importers.detect import Fields
from scepsy.importers.fields import Absurd, count, get, label, moment_s
from scepsy.importers.observing import items, mapping, names
from scepsy.importers.record_reader import json_records
from scepsy.importers.source import Source
from scepsy.importers.spool import Spool
from scepsy.importers.tally import Tally
from scepsy.workload import Call, Run, TraceSource

PLACES = ("simulations",)

PARTIES = {"assistant": ("agent", "info.agent_info.llm"), "user": ("user", "info.user_info.llm")}
"""Role of a message → what its LLM is called, and where a result file names the model."""


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    return Imported(
        source=TraceSource(
            origin=f"tau2-bench: {names(sources)}",
            notes=("start of a call = timestamp of the message before it; agent and user simulator are separate LLMs",),
        ),
        runs=_runs(sources, options.get("workflow", ""), tally),
    )


def _runs(sources: Sequence[Source], workflow: str, tally: Tally) -> Iterator[Run]:
    """The simulations in order of the files; arrivals are relative to the first of all."""
    begin_s = float("inf")
    with Spool(Run) as spool:
        for source in sources:
            for number, record in enumerate(json_records(source, tally, *PLACES)):
                try:
                    run = _run(mapping(record.value), record.outer, workflow, tally)
                except ValueError as error:
                    tally.drop(f"{PLACES[0]}[{number}].{error}", source, record.line)
                    continue
                begin_s = min(begin_s, run.arrival_s or 0.0)
                spool.add(str(len(spool)), run)
        for group in spool.groups():
            for run in group:
                yield msgspec.structs.replace(run, arrival_s=(run.arrival_s or 0.0) - begin_s)


def _run(simulation: Mapping[str, Any], outer: Any, workflow: str, tally: Tally) -> Run:
    """One simulation; its arrival is a time of the clock."""
    arrival_s, finished_s = _moment(simulation, "start_time"), _moment(simulation, "end_time")
    calls: list[Call] = []
    before_s = last_end_s = arrival_s
    for number, message in enumerate(items(simulation.get("messages"), "messages")):
        try:
            end_s = max(_moment(message, "timestamp"), before_s)
            call = _call(mapping(message), number, calls, outer, tally)
            if call is not None:
                timed = {"gap_s": before_s - last_end_s, "start_s": before_s - arrival_s, "end_s": end_s - arrival_s}
                calls.append(msgspec.structs.replace(call, **timed))
                last_end_s = end_s
        except ValueError as error:
            raise Absurd(f"messages[{number}].{error}") from None
        before_s = end_s
    if not calls:
        raise Absurd("messages holds no call of an LLM: must hold some")
    domain = label(get(outer, "info.environment_info.domain_name"))
    return Run(
        id=label(simulation.get("id")) or f"task-{label(simulation.get('task_id'))}",
        workflow=workflow or (f"tau2-{domain}" if domain else "tau2"),
        calls=tuple(calls),
        arrival_s=arrival_s,
        tail_s=max(0.0, finished_s - last_end_s),
    )


def _call(message: Mapping[str, Any], number: int, calls: Sequence[Call], outer: Any, tally: Tally) -> Call | None:
    """The call that made a message; None where none did."""
    role = message.get("role")
    party = PARTIES.get(role) if isinstance(role, str) else None
    usage = message.get("usage")
    if party is None or usage is None:
        if party is not None and number:
            tally.drop("messages of an LLM without usage")
        return None
    name, place = party
    given, made = (count(mapping(usage).get(field), f"usage.{field}") for field in ("prompt_tokens", "completion_tokens"))
    if given is None or made is None:
        raise Absurd(f"usage.{'prompt' if given is None else 'completion'}_tokens is missing: must be given")
    model = label(get(outer, place)) or label(get(message, "raw_data.model"))
    if not model:
        tally.warn(f"some messages do not name their model: it is called {name}")
    call = Call(
        id=f"c{len(calls)}",
        llm=f"{name}:{model}" if model else name,
        input_tokens=given,
        output_tokens=made or 1,
        parents=(calls[-1].id,) if calls else (),
    )
    if made == 0:
        tally.counts["calls without output tokens, counted as one token"] += 1
    return call


def _moment(record: Any, name: str) -> float:
    found = moment_s(get(record, name), name)
    if found is None:
        raise Absurd(f"{name} is missing: must be given")
    return found


TAU2 = Importer(
    summary="tau2-bench results (JSON), or a bare list of simulations: agent LLM and user-simulator LLM in turn",
    open=_open,
    detect=Fields(("messages.role", "messages.timestamp", "start_time", "end_time"), within=PLACES),
    options={"workflow": "name of the workflow (default: tau2-<domain>)"},
)
