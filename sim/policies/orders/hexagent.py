"""HexAGenT's queue order: the call whose run is most at risk of missing its horizon goes first."""

from dataclasses import dataclass
from typing import Any

from scepsy.dag import nominal_s, walk
from scepsy.workload import Run
from sim.engine.clock import seconds
from sim.engine.request import Request


def revealed_s(run: Run) -> list[float]:
    """By call: seconds from the run's arrival to the call's end if the run were alone, along its ancestors.

    All that a graph revealed online shows when the call becomes ready. On the nominal engine, gaps included.
    """
    return walk(run, [nominal_s(call) for call in run.calls])[1]


@dataclass(frozen=True)
class Hexagent:
    """Least slack first, after HexAGenT (arXiv 2605.16637): "prioritizes ready calls by projected risk of missing" the horizon.

    The horizon is ``scale`` times the run's standalone completion as far as its graph is revealed, this call included. Slack is
    the time from now to the horizon less what the call itself takes; "now" is the same for all that wait, so the key is fixed
    when the call arrives. Ours: lengths of answers are known (there they are predicted), the nominal engine gives the times,
    and placement is the router's (there it is chosen jointly, over separate prefill and decode engines). The scale is ours.
    """

    scale: float = 2.0

    def __call__(self, request: Request) -> tuple[float, ...]:
        """Sort key: the latest start (s) at which the call still meets its horizon."""
        caller: Any = request.caller
        kept = _known(caller.walk)
        return (seconds(caller.arrival) + self.scale * kept[0][request.node] - kept[1][request.node],)


_KNOWN: dict[int, tuple[Any, tuple[list[float], list[float]]]] = {}
_MOST = 10_000


def _known(template: Any) -> tuple[list[float], list[float]]:
    kept = _KNOWN.get(id(template))
    if kept is None or kept[0] is not template:
        if len(_KNOWN) > _MOST:
            _KNOWN.clear()
        own = [nominal_s(call) for call in template.run.calls]
        kept = _KNOWN[id(template)] = (template, (revealed_s(template.run), own))
    return kept[1]
