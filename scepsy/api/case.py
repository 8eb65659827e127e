"""A planning problem together with the streams that decisions are tried on."""

from dataclasses import dataclass, replace

import msgspec

from scepsy.backend import Stream
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
        targets, streams = [], []
        for target, stream in zip(self.problem.targets, self.streams, strict=True):
            arrivals = msgspec.structs.replace(target.arrivals, rate_per_s=(target.arrivals.rate_per_s or 0.0) * factor)
            targets.append(msgspec.structs.replace(target, arrivals=arrivals))
            streams.append(Stream(trace=stream.trace, arrivals=arrivals))
        return Case(problem=replace(self.problem, targets=tuple(targets)), streams=tuple(streams))
