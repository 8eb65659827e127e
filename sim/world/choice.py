"""Which engine simulates a case, and why."""

from dataclasses import dataclass
from math import fsum

from scepsy.backend import Workload
from scepsy.errors import InputError
from sim.compiled.build import is_kept
from sim.compiled.engine import SimulationInputs, longest_span_s, refusal
from sim.compiled.layout import LONGEST
from sim.engine.clock import TICKS_PER_S
from sim.engine.spec import replica_spec

ENGINES = ("auto", "simpy", "compiled")

WORTH_COMPILING_CALLS = 50_000
"""Calls that the SimPy engine simulates in the 1.5 s that a compilation takes."""

_waived = 0.0
"""Calls that this process left to the SimPy engine, to save a compilation."""


@dataclass(frozen=True)
class Choice:
    """An engine and the reason in words."""

    engine: str
    why: str


def choose(engine: str, case: SimulationInputs, *, policies: bool, timeline: bool, streamed: bool) -> Choice:
    """The engine to use; ``streamed``: what it has said cannot be taken back.

    "auto" compiles only for cases that are worth it: those that this process left to the SimPy engine so far count too, so that
    it never spends more than twice the time of whoever knew what is to come (the ski rental problem: Karlin et al. 1988).
    Raises ``InputError`` for an unknown name, or when the compiled core is asked for and does not model the case.
    """
    global _waived
    if engine not in ENGINES:
        raise InputError(f"engine is {engine!r}: must be one of {', '.join(ENGINES)}")
    if engine == "simpy":
        return Choice("simpy", "asked for")
    case.specs = [replica_spec(case.plan, instance, case.profiles) for instance in case.plan.instances]
    why = refusal(case, policies=policies, timeline=timeline)
    if engine == "compiled":
        if why is not None:
            raise InputError(f"engine is 'compiled', which does not model this case: {why} (use 'simpy' or 'auto')")
        return Choice("compiled", "asked for")
    if why is not None:
        return Choice("simpy", why)
    if streamed and longest_span_s(case) > LONGEST / TICKS_PER_S:
        return Choice("simpy", f"an instance might decode for {LONGEST / TICKS_PER_S:.0f} s without anything to decide")
    calls = calls_expected(case.workload)
    if _waived + calls < WORTH_COMPILING_CALLS and not is_kept():
        _waived += calls
        return Choice("simpy", f"the core is not compiled yet, and for some {calls:.0f} calls that takes longer")
    return Choice("compiled", "it models this case")


def calls_expected(workload: Workload) -> float:
    """About how many calls a workload will issue; infinite where nobody can say.

    Runs times the mean calls of a run, the streams weighted by their rates.
    """
    rates = [item.arrivals.rate_per_s or 1.0 for item in workload.streams]
    sizes = [fsum(len(run.calls) for run in item.trace.runs) / len(item.trace.runs) for item in workload.streams]
    runs = float("inf") if workload.runs is None else float(workload.runs)
    if workload.horizon_s is not None and all(item.arrivals.rate_per_s for item in workload.streams):
        runs = min(runs, workload.horizon_s * fsum(rates))
    if all(item.arrivals.kind == "trace" for item in workload.streams):
        runs = min(runs, fsum(len(item.trace.runs) for item in workload.streams))
    return runs * fsum(rate * size for rate, size in zip(rates, sizes, strict=True)) / fsum(rates)
