"""A planning problem together with the streams that decisions are tried on."""

from dataclasses import dataclass

from scepsy.backend import Stream
from scepsy.search.goals import at_factor
from scepsy.search.problem import Problem


@dataclass(frozen=True)
class Case:
    """What a system is asked: the planning problem, and the streams it may try its decisions on."""

    problem: Problem
    streams: tuple[Stream, ...]

    def at_factor(self, factor: float) -> "Case":
        """The same question at ``factor`` times its rates."""
        if factor == 1.0:
            return self
        there = at_factor(self.problem, factor)
        streams = (
            Stream(trace=stream.trace, arrivals=target.arrivals)
            for target, stream in zip(there.targets, self.streams, strict=True)
        )
        return Case(problem=there, streams=tuple(streams))
