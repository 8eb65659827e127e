"""A run as a graph: walk it in time, see one LLM's part of it, find its levels and its longest path.

A run lists parents before children, so one pass in order is a topological walk.
"""

from collections.abc import Mapping, Sequence

import msgspec

from scepsy.workload import Call, Run

# Assumed. A nominal engine that gives a call without recorded times some, so that overlaps and gaps can be read off a
# generated trace: about an 8B model on one A100, unloaded. They weigh calls against each other; no result in
# seconds is taken from them.
NOMINAL_BASE_S = 0.010
NOMINAL_S_PER_INPUT_TOKEN = 60e-6
NOMINAL_S_PER_OUTPUT_TOKEN = 0.012


def nominal_s(call: Call) -> float:
    """Seconds that the nominal engine takes for one call.

    >>> nominal_s(Call(id="a", llm="m", input_tokens=1000, output_tokens=100))
    1.27
    """
    return NOMINAL_BASE_S + NOMINAL_S_PER_INPUT_TOKEN * call.input_tokens + NOMINAL_S_PER_OUTPUT_TOKEN * call.output_tokens


def walk(run: Run, durations_s: Sequence[float]) -> tuple[list[float], list[float]]:
    """Start and end of every call, in the order of ``run.calls``, if each took the given seconds and nothing waited.

    A call starts ``gap_s`` after the last of its parents ended (a root: after the arrival, time 0). Unit: seconds.
    """
    end_of: dict[str, float] = {}
    starts: list[float] = []
    ends: list[float] = []
    for call, duration in zip(run.calls, durations_s, strict=True):
        start = max((end_of[parent] for parent in call.parents), default=0.0) + call.gap_s
        starts.append(start)
        ends.append(start + duration)
        end_of[call.id] = start + duration
    return starts, ends


def longest_path_s(run: Run, durations_s: Sequence[float]) -> float:
    """Seconds from arrival to answer if each call took the given seconds and nothing waited; gaps and tail included."""
    return max(walk(run, durations_s)[1]) + run.tail_s


def timed(run: Run) -> Run:
    """The run with times on every call: the recorded ones, else nominal ones by walking the graph.

    Where only some calls were recorded, the others follow their parents' recorded ends.
    """
    if all(call.start_s is not None for call in run.calls):
        return run
    end_of: dict[str, float] = {}
    calls: list[Call] = []
    for call in run.calls:
        if call.end_s is None:
            start = max((end_of[parent] for parent in call.parents), default=0.0) + call.gap_s
            call = msgspec.structs.replace(call, start_s=start, end_s=start + nominal_s(call))
        end_of[call.id] = call.end_s or 0.0
        calls.append(call)
    return msgspec.structs.replace(run, calls=tuple(calls))


def latency_s(run: Run) -> float:
    """Seconds from arrival to answer of a timed run: the last end, and the tail."""
    return max(call.end_s or 0.0 for call in run.calls) + run.tail_s


def project(run: Run, llm: str) -> Run | None:
    """One LLM's part of a run: only its calls, everything in between as gaps. None when the run never calls it.

    A call's parents become its nearest ancestors that call ``llm``. Its ``gap_s`` is the time between the last of their ends
    (or the arrival) and its start in the timed run, never negative. The tail runs to the end of the whole run.
    Replaying the projection with the timed durations gives every kept call its timed start.
    """
    whole = timed(run)
    kept: list[Call] = []
    end_of: dict[str, float] = {}
    nearest: dict[str, tuple[str, ...]] = {}
    merged: dict[tuple[str, ...], tuple[str, ...]] = {}
    for call in whole.calls:
        parents = merged.get(call.parents)
        if parents is None:
            parents = tuple(dict.fromkeys(ancestor for parent in call.parents for ancestor in nearest[parent]))
            merged[call.parents] = parents
        if call.llm != llm:
            nearest[call.id] = parents
            continue
        nearest[call.id] = (call.id,)
        start, end = call.start_s or 0.0, call.end_s or 0.0
        gap = max(0.0, start - max((end_of[parent] for parent in parents), default=0.0))
        end_of[call.id] = end
        kept.append(msgspec.structs.replace(call, parents=parents, gap_s=gap))
    if not kept:
        return None
    return msgspec.structs.replace(run, calls=tuple(kept), tail_s=max(0.0, latency_s(whole) - max(end_of.values())))


def sibling_groups(run: Run) -> tuple[tuple[Call, ...], ...]:
    """Calls that are issued at the same moment: same parents, same gap. In order of first appearance."""
    groups: dict[tuple[frozenset[str], float], list[Call]] = {}
    for call in run.calls:
        groups.setdefault((frozenset(call.parents), call.gap_s), []).append(call)
    return tuple(tuple(group) for group in groups.values())


def levels(run: Run) -> Mapping[str, int]:
    """Level of every call: 0 for roots, else one more than its deepest parent."""
    level: dict[str, int] = {}
    for call in run.calls:
        level[call.id] = 1 + max((level[parent] for parent in call.parents), default=-1)
    return level
