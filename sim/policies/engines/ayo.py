"""Ayo: primitive-level dataflow over instances that the user fixed.

Of Ayo's graph passes, those that a traced run can show: dependencies that others imply are dropped, and the known part of a
prompt is prefilled early. Stages split into micro-batches are already single calls here, and no traced call hands its output on
in parts, so splitting and pipelined decoding change nothing. Every workflow is unrolled as traced.

Run time: a call is released when its parents are done; one queue per engine, round robin over instances. Topology batching
(off by default) takes runs by first arrival, and of each run the deepest pending calls.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from scepsy.workload import Call, Run, Trace
from sim.policies.routers.ayo import EARLY

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
    runs = tuple(prefilled_early(without_implied(run), block) for run in trace.runs)
    return Trace(source=trace.source, runs=runs, prefix_block_tokens=block)
