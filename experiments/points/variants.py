"""Traces changed in one respect, for robustness: longer answers, runs that skip an LLM, tool time, fan-out over LLMs. Pure.

A variant is written ``name:value`` (``drift:2.0``, ``bimodal:0.5``, ``tool:0.9``); the empty text is the trace as it is.
"""

from collections.abc import Callable, Mapping

import msgspec

from scepsy.dag import latency_s, levels, timed
from scepsy.errors import InputError
from scepsy.rng import stream
from scepsy.workload import Call, Run, Trace, TraceSource

FAN_OUT_LLMS = ("llama-3.1-8b", "llama-3.2-3b")


def varied(trace: Trace, variant: str, seed: int = 0) -> Trace:
    """The trace under a variant. Raises ``InputError`` for an unknown one, or a value out of range."""
    if not variant:
        return trace
    name, _, text = variant.partition(":")
    if name not in VARIANTS:
        raise InputError(f"variant is {variant!r}: must be one of {', '.join(VARIANTS)} with a value, as in 'drift:2.0'")
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"variant is {variant!r}: the value must be a number, as in '{name}:0.5'") from None
    return VARIANTS[name](trace, value, seed)


def drift(trace: Trace, factor: float, seed: int = 0) -> Trace:
    """Every generated answer is ``factor`` times as long: the load moved on after the plan was made."""
    if not factor > 0:
        raise InputError(f"variant drift:{factor:g}: must be > 0")
    return _over_calls(trace, lambda call: msgspec.structs.replace(call, output_tokens=_scaled(call.output_tokens, factor)))


def _scaled(tokens: int, factor: float) -> int:
    return max(1, round(tokens * factor)) if tokens else 0


def bimodal(trace: Trace, part: float, seed: int) -> Trace:
    """A ``part`` of the runs never call the LLM that is called most often; its callers' children follow its parents.

    A run that calls nothing else stays as it is.
    """
    if not 0 <= part <= 1:
        raise InputError(f"variant bimodal:{part:g}: must be 0 to 1")
    counts: dict[str, int] = {}
    for run in trace.runs:
        for call in run.calls:
            counts[call.llm] = counts.get(call.llm, 0) + 1
    skipped = max(counts, key=lambda llm: (counts[llm], llm))
    rng = stream(seed, "variant", "bimodal")
    return _over_runs(trace, lambda run: without_llm(run, skipped) if rng.random() < part else run)


def without_llm(run: Run, llm: str) -> Run:
    """The run without its calls to one LLM."""
    kept: list[Call] = []
    stands_for: dict[str, tuple[str, ...]] = {}
    for call in run.calls:
        parents = tuple(dict.fromkeys(name for parent in call.parents for name in stands_for[parent]))
        if call.llm == llm:
            stands_for[call.id] = parents
        else:
            stands_for[call.id] = (call.id,)
            kept.append(msgspec.structs.replace(call, parents=parents))
    return msgspec.structs.replace(run, calls=tuple(kept)) if kept else run


def tool_share(trace: Trace, part: float, seed: int) -> Trace:
    """Tool time before every call but the roots, so that it is ``part`` of the run's nominal latency; recorded times
    dropped.
    """
    if not 0 <= part < 1:
        raise InputError(f"variant tool:{part:g}: must be >= 0 and < 1")

    def slowed(run: Run) -> Run:
        bare = tuple(msgspec.structs.replace(call, gap_s=0.0, start_s=None, end_s=None) for call in run.calls)
        run = msgspec.structs.replace(run, calls=bare, tail_s=0.0)
        depth = max(levels(run).values())
        tool_s = latency_s(timed(run)) * part / (1 - part)
        if depth == 0:
            return msgspec.structs.replace(run, tail_s=tool_s)
        calls = tuple(msgspec.structs.replace(call, gap_s=tool_s / depth if call.parents else 0.0) for call in run.calls)
        return msgspec.structs.replace(run, calls=calls)

    return _over_runs(trace, slowed)


VARIANTS: Mapping[str, Callable[[Trace, float, int], Trace]] = {"drift": drift, "bimodal": bimodal, "tool": tool_share}


def fan_out_trace(width: int, runs: int = 150, seed: int = 0) -> Trace:
    """Runs that ask ``width`` calls of each of two LLMs at once and summarise the answers with the larger.

    Prompts of 300–700 tokens and answers of 50–250, uniform: assumed, a shape and not a workload.
    """
    found = []
    for number in range(runs):
        rng = stream(seed, "fan-out", width, number)
        calls = [
            Call(
                id=f"{llm}-{n}",
                llm=llm,
                input_tokens=int(rng.integers(300, 701)),
                output_tokens=int(rng.integers(50, 251)),
            )
            for n in range(width)
            for llm in FAN_OUT_LLMS
        ]
        read = sum(call.output_tokens for call in calls)
        last = Call(
            id="summary",
            llm=FAN_OUT_LLMS[0],
            input_tokens=200 + read,
            output_tokens=int(rng.integers(100, 301)),
            parents=tuple(call.id for call in calls),
        )
        found.append(Run(id=f"fan-out-{width}-{number}", workflow=f"fan-out-{width}", calls=(*calls, last)))
    source = TraceSource(
        origin=f"generated:fan-out-{width}",
        seed=seed,
        assumptions=("fan-out over two LLMs: prompts of 300-700 tokens, answers of 50-250, uniform: assumed",),
    )
    return Trace(source=source, runs=tuple(found))


def _over_runs(trace: Trace, change: Callable[[Run], Run]) -> Trace:
    return msgspec.structs.replace(trace, runs=tuple(change(run) for run in trace.runs))


def _over_calls(trace: Trace, change: Callable[[Call], Call]) -> Trace:
    return _over_runs(trace, lambda run: msgspec.structs.replace(run, calls=tuple(change(call) for call in run.calls)))
