"""τ²-bench simulations: an agent LLM and a user-simulator LLM, strictly in turn.

A message's timestamp is its end, and calls follow one another, so a call starts when the message before it ended
(tools answer within a millisecond). The greeting has no usage and is no call. Agent and user are kept apart even where
they are the same model, as ``agent:<model>`` and ``user:<model>``: the planner may serve them differently.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from scepsy.importers.base import Imported, Importer, checking, clock_s, read_foreign
from scepsy.importers.detect import Fields
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally
from scepsy.workload import Call, Run, TraceSource


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Message(msgspec.Struct):
    role: str
    timestamp: str
    usage: _Usage | None = None


class _Simulation(msgspec.Struct):
    id: str
    start_time: str
    end_time: str
    messages: list[_Message]


class _Party(msgspec.Struct):
    llm: str


class _Environment(msgspec.Struct):
    domain_name: str


class _Info(msgspec.Struct):
    agent_info: _Party
    user_info: _Party
    environment_info: _Environment


class _File(msgspec.Struct):
    info: _Info
    simulations: list[_Simulation]


def _open(sources: Sequence[Source], options: Mapping[str, str], tally: Tally) -> Imported:
    files = [(source, read_foreign(source, _File)) for source in sources]
    begin = min(
        (
            clock_s(source, f"simulations[{i}].start_time", s.start_time)
            for source, file in files
            for i, s in enumerate(file.simulations)
        ),
        default=0.0,
    )
    counts = tally.counts
    return Imported(
        source=TraceSource(
            origin=f"tau2-bench: {', '.join(source.label for source in sources)}",
            notes=("start of a call = timestamp of the message before it; agent and user simulator are separate LLMs",),
        ),
        runs=_runs(files, begin, options.get("workflow"), counts),
    )


def _runs(files: list[tuple[Source, _File]], begin: float, workflow: str | None, counts: Counter[str]) -> Iterator[Run]:
    for source, file in files:
        llms = {"assistant": f"agent:{file.info.agent_info.llm}", "user": f"user:{file.info.user_info.llm}"}
        name = workflow or f"tau2-{file.info.environment_info.domain_name}"
        for index, simulation in enumerate(file.simulations):
            run = _run(source, f"simulations[{index}]", simulation, llms, name, begin, counts)
            if run is not None:
                yield run


def _run(
    source: Source,
    where: str,
    simulation: _Simulation,
    llms: Mapping[str, str],
    workflow: str,
    begin: float,
    counts: Counter[str],
) -> Run | None:
    arrival = clock_s(source, f"{where}.start_time", simulation.start_time)
    calls: list[Call] = []
    before = last_end = arrival
    for number, message in enumerate(simulation.messages):
        record = f"{where}.messages[{number}]"
        end = max(clock_s(source, f"{record}.timestamp", message.timestamp), before)
        if message.usage is not None and message.role in llms:
            output = message.usage.completion_tokens
            if output == 0:
                counts["calls without output tokens, counted as one token"] += 1
            with checking(source, record):
                call = Call(
                    id=f"c{len(calls)}",
                    llm=llms[message.role],
                    input_tokens=message.usage.prompt_tokens,
                    output_tokens=output or 1,
                    parents=(calls[-1].id,) if calls else (),
                    gap_s=before - last_end,
                    start_s=before - arrival,
                    end_s=end - arrival,
                )
            calls.append(call)
            last_end = end
        before = end
    if not calls:
        counts["simulations without any LLM call, left out"] += 1
        return None
    tail_s = max(0.0, clock_s(source, f"{where}.end_time", simulation.end_time) - last_end)
    with checking(source, where):
        return Run(id=simulation.id, workflow=workflow, calls=tuple(calls), arrival_s=arrival - begin, tail_s=tail_s)


TAU2 = Importer(
    summary="tau2-bench results (JSON): agent LLM and user-simulator LLM in turn",
    open=_open,
    detect=Fields(("simulations", "info.agent_info.llm", "info.user_info.llm")),
    options={"workflow": "name of the workflow (default: tau2-<domain>)"},
)
