"""Ayo: primitive-level dataflow over instances that the user fixed.

Ayo's graph passes as far as a traced run shows them: dependencies that others imply are dropped, the known part of a prompt is
prefilled early, and decoding is pipelined into the stages that take its output piece by piece. Stages split into
micro-batches are already single calls here. Every workflow is unrolled as traced.

Run time: a call is released when its parents are done; one queue per engine, round robin over instances. Topology batching
(off by default) takes runs by first arrival, and of each run the deepest pending calls.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from scepsy.workload import Call, Run, Trace
from sim.policies.routers.ayo import EARLY, PART

EARLY_COST_PCT = 7.5
"""Prefilling a prompt in two parts costs this much more on the early part; Ayo reports 3 to 12 %."""


def without_implied(run: Run) -> Run:
    """Drop every dependency on an ancestor of another parent: it holds anyway. Calls with a gap keep theirs.

    The gap counts from the last parent's end, which is not moved by dropping one that ends before it.
    """
    ancestors: dict[str, frozenset[str]] = {}
    calls = []
    for call in run.calls:
        above = frozenset().union(*(ancestors[parent] for parent in call.parents)) if call.parents else frozenset()
        ancestors[call.id] = above | set(call.parents)
        calls.append(msgspec.structs.replace(call, parents=tuple(p for p in call.parents if p not in above)))
    return msgspec.structs.replace(run, calls=tuple(calls))


def pieces(run: Run) -> Mapping[str, tuple[str, ...]]:
    """By call whose answer is handed on in pieces: the calls that take one each, in order.

    Token counts show it: two or more pooling calls that wait for it alone, whose prompts add up to its answer.
    """
    takers: dict[str, list[Call]] = {}
    for call in run.calls:
        if len(call.parents) == 1 and call.output_tokens == 0:
            takers.setdefault(call.parents[0], []).append(call)
    found = {}
    for call in run.calls:
        mine = takers.get(call.id, [])
        if len(mine) > 1 and sum(each.input_tokens for each in mine) == call.output_tokens:
            found[call.id] = tuple(each.id for each in mine)
    return found


def pipelined(run: Run) -> Run:
    """Decode an answer that is handed on in pieces as a chain of calls, one per piece, each taker waiting for its own.

    A piece's call has the prompt and all pieces before it as its prompt, on the same instance. The prompt's whole blocks are in
    the prefix cache there, the rest is computed again: a cost that an engine which hands on while it decodes does not have. The
    last piece keeps the call's name, so whatever else waits for the answer waits for all of it.
    """
    taken = pieces(run)
    by_id = {call.id: call for call in run.calls}
    gives = {taker: part_name(name, n, len(takers)) for name, takers in taken.items() for n, taker in enumerate(takers)}
    calls: list[Call] = []
    for call in run.calls:
        if call.id in gives:
            call = msgspec.structs.replace(call, parents=(gives[call.id],))
        takers = taken.get(call.id, ())
        if not takers:
            calls.append(call)
        before = 0
        for number, taker in enumerate(takers):
            tokens = by_id[taker].input_tokens
            part = msgspec.structs.replace(
                call,
                id=part_name(call.id, number, len(takers)),
                input_tokens=call.input_tokens + before,
                output_tokens=tokens,
            )
            if number:
                part = msgspec.structs.replace(part, parents=(calls[-1].id,), gap_s=0.0)
            calls.append(part)
            before += tokens
    return msgspec.structs.replace(run, calls=tuple(calls))


def part_name(call: str, number: int, count: int) -> str:
    """Id of a piece's call."""
    return call if number == count - 1 else f"{call}{PART}{number}"


def known_blocks(run: Run) -> Mapping[str, int]:
    """By call: how many of its leading prefix blocks are in the prompt of a call that was issued before its parents ended.

    Those are in one of its ancestors' prompts (the question, the steps kept so far), so they are known once the parents are
    issued.
    """
    prompt = {call.id: call.prefix_hashes for call in run.calls}
    above: dict[str, frozenset[str]] = {}
    known = {}
    for call in run.calls:
        above[call.id] = frozenset(call.parents).union(*(above[parent] for parent in call.parents))
        known[call.id] = max((_common(call.prefix_hashes, prompt[name]) for name in above[call.id]), default=0)
    return known


def _common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))


def prefilled_early(run: Run, block_tokens: int) -> Run:
    """Add, for every call whose LLM has not seen its known prefix before, a call that only prefills it.

    The early call is issued with the parents (it waits for the grandparents) and costs ``EARLY_COST_PCT`` more; the real call
    waits for it too, and finds its blocks in the prefix cache. Where the same LLM served a parent with that prefix, the cache
    has it anyway.
    """
    if block_tokens == 0:
        return run
    known = known_blocks(run)
    by_id = {call.id: call for call in run.calls}
    seen: set[tuple[str, tuple[int, ...]]] = set()
    calls: list[Call] = []
    for call in run.calls:
        blocks = known[call.id]
        prefix = call.prefix_hashes[:blocks]
        same = any(by_id[p].llm == call.llm and _common(prefix, by_id[p].prefix_hashes) == blocks for p in call.parents)
        key = (call.llm, prefix)
        if blocks and not same and key not in seen and blocks * block_tokens < call.input_tokens:
            seen.add(key)
            early = Call(
                id=call.id + EARLY,
                llm=call.llm,
                kind="rerank",
                input_tokens=round(blocks * block_tokens * (1 + EARLY_COST_PCT / 100)),
                parents=tuple(dict.fromkeys(g for p in call.parents for g in by_id[p].parents)),
                prefix_hashes=prefix,
            )
            calls.append(early)
            call = msgspec.structs.replace(call, parents=(*call.parents, early.id))
        calls.append(call)
    return msgspec.structs.replace(run, calls=tuple(calls))


def optimised(trace: Trace) -> Trace:
    """The trace with every run through Ayo's graph passes; the same runs in the same order."""
    block = trace.prefix_block_tokens
    runs = tuple(prefilled_early(pipelined(without_implied(run)), block) for run in trace.runs)
    return Trace(source=trace.source, runs=runs, prefix_block_tokens=block)
