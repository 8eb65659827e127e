"""Ayo's topology batching: runs by first arrival, and of each run the deepest pending calls first."""

from typing import Any

from scepsy.workload import Run
from sim.engine.request import Request


def depths(run: Run) -> list[int]:
    """Depth of each call as Ayo counts it: calls on the longest way from it to the answer, which has depth 0.

    >>> from scepsy.workload import Call
    >>> calls = [Call(id="a", llm="m", input_tokens=1, output_tokens=1)]
    >>> calls.append(Call(id="b", llm="m", input_tokens=1, output_tokens=1, parents=("a",)))
    >>> depths(Run(id="r", workflow="w", calls=tuple(calls)))
    [1, 0]
    """
    depth = {call.id: 0 for call in run.calls}
    for call in reversed(run.calls):
        for parent in call.parents:
            depth[parent] = max(depth[parent], depth[call.id] + 1)
    return [depth[call.id] for call in run.calls]


def topology(request: Request) -> tuple[float, ...]:
    """Runs by first arrival; of each run the deepest pending calls; ties: the oldest."""
    caller: Any = request.caller
    return (float(caller.arrival), -float(_depth_table(caller.walk)[request.node]))


_DEPTHS: dict[int, tuple[Any, list[int]]] = {}


def _depth_table(walk: Any) -> list[int]:
    kept = _DEPTHS.get(id(walk))
    if kept is None or kept[0] is not walk:
        if len(_DEPTHS) > 10_000:
            _DEPTHS.clear()
        kept = _DEPTHS[id(walk)] = (walk, depths(walk.run))
    return kept[1]
