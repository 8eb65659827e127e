"""Arrivals that bring exactly the work that was asked for.

A few hundred drawn runs, as unequal as a beam search's, bring up to a tenth more or less work than their mean, and their
arrival times are off by as much. At 80 % load that moves the latency more than any predictor is wrong. So the clock of each
stream's arrivals is scaled until its runs offer what the rate asks for. Order and shape of the arrivals stay.
"""

from collections.abc import Sequence
from math import fsum

import msgspec
import numpy as np

from scepsy.arrivals import issue_arrays
from scepsy.backend import Stream, Workload
from scepsy.dag import nominal_s
from scepsy.predictors.aggregate import Floats
from scepsy.workload import Run, Trace

SCALED_ARRIVALS = ("poisson", "gamma")
"""Kinds of arrivals whose clock may be scaled. Others are times that somebody gave, or have none."""


def work_s(run: Run) -> float:
    """What a run asks of the system: nominal seconds of all its calls."""
    return fsum(nominal_s(call) for call in run.calls)


_known: list[tuple[Trace, Floats]] = []
"""The work of the last few traces' runs: measurements replay the same traces again and again."""
_KEPT = 8


def works_s(trace: Trace) -> Floats:
    """``work_s`` of every run of a trace, in order."""
    for known, works in _known:
        if known is trace:
            return works
    works = np.array([work_s(run) for run in trace.runs])
    _known[:] = [(trace, works), *_known[: _KEPT - 1]]
    return works


def exactly(streams: Sequence[Stream], *, runs: int, seed: int) -> Workload:
    """A workload of ``runs`` runs in which each stream offers its rate times the mean work of its trace.

    With several streams each brings its part of the runs, rounded; it is exact for those.
    """
    plain = Workload(streams=tuple(streams), runs=runs, seed=seed)
    if not all(item.arrivals.kind in SCALED_ARRIVALS for item in streams):
        return plain
    of_run = [works_s(item.trace) for item in streams]
    work, last = [0.0 for _ in streams], [0.0 for _ in streams]
    for part in issue_arrays(plain):
        for number in np.unique(part.stream).tolist():
            mine = part.stream == number
            work[number] = float(np.add.accumulate(np.append(work[number], of_run[number][part.run[mine]]))[-1])
            last[number] = float(part.time_s[mine][-1])
    scaled = []
    for number, item in enumerate(streams):
        mean = fsum(of_run[number]) / len(item.trace.runs)
        rate = item.arrivals.rate_per_s or 0.0
        if work[number] > 0:
            # the runs drawn take `last` seconds at the nominal rate; they should take work / (rate · mean)
            rate = rate * last[number] * rate * mean / work[number]
        scaled.append(msgspec.structs.replace(item, arrivals=msgspec.structs.replace(item.arrivals, rate_per_s=rate)))
    return msgspec.structs.replace(plain, streams=tuple(scaled))
