"""One-LLM agents: chat, tool use, tree search."""

import numpy as np

from scepsy.generate.builder import Prompt, RunBuilder, instructions, lognormal, lognormal_s
from scepsy.generate.spec import Role, WorkflowSpec

TOOL_MEDIAN_S = 0.67
TREE_BATCH = 8


def _calls(b: RunBuilder, mean: float, most: int) -> int:
    """At least one; geometric."""
    while True:
        number = int(b.rng.geometric(1.0 / mean))
        if number <= most:
            return number


def _around(b: RunBuilder, mean: float, most: int) -> int:
    """Log-normal with CV 0.6 around a mean."""
    sigma = float(np.sqrt(np.log(1 + 0.6**2)))
    return lognormal(b.rng, mean / float(np.exp(sigma**2 / 2)), sigma, 2, most)


def _chain(b: RunBuilder, mean_calls: float, mean_in: float, mean_out: float, gap_median_s: float) -> None:
    """Calls one after the other; each prompt is the instructions and as much of the talk's beginning as was measured."""
    talk: Prompt = (instructions("agent/system", 64),)
    before: list[str] = []
    for number in range(_calls(b, mean_calls, 80)):
        prompt = (*talk, b.text(f"turn-{number}", max(1, _around(b, mean_in, 4096) - 64)))
        gap_s = lognormal_s(b.rng, gap_median_s, 1.0) if before and gap_median_s else 0.0
        b.call(name := f"call-{number}", "agent", prompt, _around(b, mean_out, 2048), after=before, gap_s=gap_s)
        before = [name]


def _tree_search(b: RunBuilder) -> None:
    before: list[str] = []
    left, level = lognormal(b.rng, 153, 0.3, 20, 400), 0
    root = (instructions("tree/system", 64), b.text("problem", 128))
    while left > 0:
        names = [f"node-{level}-{i}" for i in range(min(TREE_BATCH, left))]
        for name in names:
            prompt = (*root, b.text(f"path-{name}", max(1, _around(b, 467, 4096) - 192)))
            b.call(name, "agent", prompt, _around(b, 73, 1024), after=before)
        before, left, level = names, left - len(names), level + 1


_SOURCE = "calls per run and mean input and output tokens: Autellix"
_SHAPES = "calls geometric, tokens log-normal with CV 0.6 around the published means: assumed shapes"

WORKFLOWS = (
    WorkflowSpec(
        name="chat",
        summary="a conversation of 6.7 calls, 256 tokens in and 277 out",
        roles={"agent": Role("llama-3.1-8b")},
        build=lambda b: _chain(b, 6.7, 256, 277, 0.0),
        sources=(_SOURCE,),
        assumptions=(_SHAPES, "no think time between turns: assumed"),
    ),
    WorkflowSpec(
        name="tool-agent",
        summary="a tool-using agent of 10.8 calls, 735 tokens in and 34 out",
        roles={"agent": Role("llama-3.1-8b")},
        build=lambda b: _chain(b, 10.8, 735, 34, TOOL_MEDIAN_S),
        sources=(_SOURCE, "tool time: median of recorded coding agents (kv-cache-tester)"),
        assumptions=(_SHAPES, f"tools take {TOOL_MEDIAN_S} s (median; log-normal, sigma 1): assumed shape"),
    ),
    WorkflowSpec(
        name="tree-search",
        summary="tree search of 159.7 calls, 467 tokens in and 73 out",
        roles={"agent": Role("llama-3.1-8b")},
        build=_tree_search,
        sources=(_SOURCE,),
        assumptions=(f"batches of {TREE_BATCH} nodes, one batch after the other; calls log-normal, sigma 0.3: assumed",),
    ),
)
