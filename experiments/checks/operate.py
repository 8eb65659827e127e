"""Is the controller of ``scepsy operate`` worth it? The same loads, which change, under it and under others, in simulation.

    python -m experiments.checks.operate --cache DIR            # → experiments/results/operate.csv

Every system begins with the same plan: the fewest GPUs that keep the 95th percentile of latency within the limit under the
load that comes first. static stays with it. oracle knows every change and the new load when it happens, plans with the same
planner and switches with the same drains and cold starts. hpa-load and keda are Kubernetes' and KEDA's autoscalers, of
instances as the first plan has them, by the calls that each has and by those that wait. adaptive is the controller. All may
use the whole cluster.
"""

import argparse
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from math import fsum, pi, sin
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import simpy

from experiments.code_version import stamped
from scepsy.api.inputs import generate_trace, load_cluster, profiles_of
from scepsy.api.live import LivePlanner
from scepsy.api.program import plan as plan_for
from scepsy.backend import Stream, Workload
from scepsy.cluster import Gpu
from scepsy.operate.controller import Finding, Load
from scepsy.operate.decision import decide
from scepsy.operate.reference import Floats
from scepsy.operate.settings import Settings
from scepsy.operate.window import Estimate
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.records import COMPLETED, Records
from scepsy.search.problem import Goal
from scepsy.stats.use import busy_s
from scepsy.workload import Arrivals, Call, Piece, Run, Trace
from sim.policies.adaptive import Log, adaptive, switch_to
from sim.policies.systems import SYSTEMS
from sim.world.control import PENDING, STOPPED, Control, Policy
from sim.world.run import simulate

WORKFLOW = "reflection"
GPUS = 8
RATE_PER_S = 4.0
LIMIT_S = 12.0
"""Of the 95th percentile of latency."""
BRANCH_LLM = "llama-2-7b"
DEFAULT_OUT = Path(__file__).parents[1] / "results" / "operate.csv"
RULES = ("static", "oracle", "hpa-load", "keda", "adaptive")


@dataclass(frozen=True)
class Part:
    """A load for a while."""

    duration_s: float
    rate_per_s: float
    trace: Trace


@dataclass(frozen=True)
class Scenario:
    """Loads that follow each other; perhaps a GPU that is lost when the second begins."""

    name: str
    parts: tuple[Part, ...]
    loses_a_gpu: bool = False
    oracle: bool = True
    """Whether its changes are few enough for an oracle to plan at each of them."""

    @property
    def changes_s(self) -> list[float]:
        """When a new part begins."""
        return [float(each) for each in np.cumsum([part.duration_s for part in self.parts])[:-1]]


# ---- scenarios -------------------------------------------------------------------------------------------------------


def longer(trace: Trace, factor: float) -> Trace:
    """Every answer ``factor`` times as long."""
    return _mapped(trace, lambda call: msgspec.structs.replace(call, output_tokens=max(1, round(factor * call.output_tokens))))


def _mapped(trace: Trace, change: Callable[[Call], Call]) -> Trace:
    runs = tuple(msgspec.structs.replace(run, calls=tuple(map(change, run.calls))) for run in trace.runs)
    return msgspec.structs.replace(trace, runs=runs)


def branching(trace: Trace, part: float) -> Trace:
    """The given part of the runs ends with one more call, to another LLM: 800 tokens in, 300 out."""

    def run_of(number: int, run: Run) -> Run:
        if (number * 37) % 100 >= 100 * part:
            return run
        last = Call(id="branch", llm=BRANCH_LLM, input_tokens=800, output_tokens=300, parents=(run.calls[-1].id,))
        return msgspec.structs.replace(run, calls=(*run.calls, last))

    runs = tuple(run_of(number, run) for number, run in enumerate(trace.runs))
    return msgspec.structs.replace(trace, runs=runs)


def scenarios(before_s: float, after_s: float, azure: Path | None) -> Iterator[Scenario]:
    """All of them."""
    usual = generate_trace(WORKFLOW, runs=200, seed=1)

    def step(rate: float, trace: Trace = usual, first: Trace = usual) -> tuple[Part, ...]:
        return Part(before_s, RATE_PER_S, first), Part(after_s, rate, trace)

    yield Scenario("stationary", (Part(before_s + after_s, RATE_PER_S, usual),))
    yield Scenario("rate x2", step(2 * RATE_PER_S))
    yield Scenario("rate x0.4", step(0.4 * RATE_PER_S))
    for factor in (0.5, 2.0, 3.0):
        yield Scenario(f"answers x{factor:g}", step(RATE_PER_S, longer(usual, factor)))
    yield Scenario("branch 5 to 60 %", step(RATE_PER_S, branching(usual, 0.6), branching(usual, 0.05)))
    yield Scenario("GPU lost", step(RATE_PER_S), loses_a_gpu=True)
    day = [RATE_PER_S * (1.1 - 0.9 * sin(2 * pi * (hour + 6) / 24)) for hour in range(0, 24, 3)]
    yield Scenario("day curve", tuple(Part(300.0, rate, usual) for rate in day))
    if azure is not None:
        yield Scenario("Azure arrivals", tuple(_azure(azure, usual)), oracle=False)


def _azure(path: Path, trace: Trace, bin_s: float = 30.0, faster: float = 2.0) -> Iterator[Part]:
    """The hour's arrivals, ``faster`` times as fast, in bins; thinned to the mean rate of the other scenarios."""
    stamps = pd.to_datetime(pd.read_csv(path)["TIMESTAMP"])
    times = (stamps - stamps.iloc[0]).dt.total_seconds().to_numpy() / faster
    counts, _ = np.histogram(times, bins=np.arange(0.0, times[-1], bin_s))
    for count in counts.tolist():
        yield Part(bin_s, max(count / counts.mean(), 1e-3) * RATE_PER_S, trace)


# ---- systems ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """What all systems have in common in one scenario."""

    scenario: Scenario
    start: Plan
    profiles: ProfileSet
    planner: LivePlanner
    lost: Gpu

    def workload(self, seed: int) -> Workload:
        """One stream for each trace: its arrivals pause while another's part is on."""
        parts = self.scenario.parts
        traces = list({id(part.trace): part.trace for part in parts}.values())
        streams = tuple(
            Stream(
                trace=trace,
                arrivals=Arrivals(
                    kind="piecewise",
                    pieces=tuple(
                        Piece(duration_s=part.duration_s, rate_per_s=part.rate_per_s if part.trace is trace else 0.0)
                        for part in parts
                    ),
                ),
                order="shuffled",
            )
            for trace in traces
        )
        return Workload(streams=streams, horizon_s=fsum(part.duration_s for part in parts), seed=seed, drain_s=900.0)

    def oracle(self, log: Log) -> Policy:
        """Plans for the new load at the moment it begins."""
        eager = msgspec.structs.replace(self.planner.settings, min_between_s=0.0, least_gain_pct=0.0, margin=1.0)

        def policy(control: Control) -> Generator[simpy.Event, Any, None]:
            running = self.start
            for at_s, part in zip(self.scenario.changes_s, self.scenario.parts[1:], strict=True):
                yield control.sleep(max(0.0, at_s + 0.001 - control.now_s))
                finding = Finding(
                    kind="drift",
                    drifts=(),
                    loads=(
                        Load(
                            workflow=WORKFLOW,
                            rate_per_s=Estimate(value=part.rate_per_s),
                            planned_rate_per_s=part.rate_per_s,
                            runs=part.trace.runs,
                            begun_s=at_s,
                        ),
                    ),
                    lost=tuple(control.lost),
                    crippled=bool(control.lost),
                )
                answer = self.planner.replan(running, finding)
                found = decide(eager, answer, now_s=at_s, last_switch_s=None, frozen=False, lost=finding.crippled)
                if found.act == "switch" and found.candidate is not None:
                    begun, running = control.now_s, answer.candidates[found.candidate].plan
                    yield from switch_to(control, running)
                    log.switches.append((begun, control.now_s))
            while True:
                yield control.sleep(600.0)

        return policy

    def policies(self, system: str, log: Log) -> tuple[Policy, ...]:
        """The system's policy, and the loss of a GPU where there is one."""
        if system == "oracle":
            rule: tuple[Policy, ...] = (self.oracle(log),)
        elif system == "adaptive":
            planner = self.planner
            references = planner.references(self.start)
            rule = (adaptive(self.start, references, planner.settings, planner.replan, planner.validate, log),)
        else:
            rule = SYSTEMS[system]
        return (self.loss, *rule) if self.scenario.loses_a_gpu else rule

    def loss(self, control: Control) -> Generator[simpy.Event, Any, None]:
        """The GPU goes when the second part begins."""
        yield control.sleep(self.scenario.changes_s[0])
        control.lose(self.lost)
        while True:
            yield control.sleep(600.0)


def bench_of(scenario: Scenario, settings: Settings, cache_dir: Path | None) -> Bench:
    """Plan for the first part."""
    first = scenario.parts[0]
    cluster = load_cluster(GPUS)
    llms = dict.fromkeys(llm for part in scenario.parts for llm in part.trace.llms)
    profiles = profiles_of({llm: llm for llm in llms}, cluster)
    goal = Goal(kind="gpus", limits_s=settings.limits_s, percentile=settings.percentile)
    start = plan_for(first.trace, rate_per_s=first.rate_per_s, cluster=cluster, profiles=profiles, goal=goal)
    planner = LivePlanner({WORKFLOW: first.trace}, profiles, settings, cache_dir=cache_dir)
    busiest = max(start.gpu_shares, key=lambda gpu: (sum(gpu in i.gpus for i in start.instances), gpu))
    return Bench(scenario, start, profiles, planner, busiest)


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure(bench: Bench, system: str, seed: int) -> dict[str, Any]:
    """One row."""
    log, seen = Log(), []

    def meter(control: Control) -> Generator[simpy.Event, Any, None]:
        seen.append(control)
        while True:
            yield control.sleep(600.0)

    began = time.process_time()
    records = simulate(
        bench.start, bench.workload(seed), profiles=bench.profiles, policies=(*bench.policies(system, log), meter)
    )
    cpu_s = time.process_time() - began
    control = seen[0]
    cold_s = max(control.cold_start_s(llm) for llm in control.llms)
    settle_s = 5 * bench.start.expected[0].latency_s + cold_s
    changes = bench.scenario.changes_s
    return {
        "scenario": bench.scenario.name,
        "system": system,
        "seed": seed,
        **latencies(records, LIMIT_S),
        "settled_mean_s": settled_mean_s(records, changes[0] + settle_s) if len(changes) == 1 else None,
        "gpu_hours": gpu_seconds(control) / 3600,
        "switches": len(log.switches),
        "first_switch_s": log.switches[0][0] - changes[0] if log.switches and len(changes) == 1 else None,
        "plannings": len(log.reports),
        "cpu_s": cpu_s,
    }


def latencies(records: Records, limit_s: float) -> dict[str, float]:
    """Mean and p95 of completed runs, and the part of all issued runs that were within the limit."""
    arrival, end = (_column(records, name) for name in ("arrival_s", "end_s"))
    done = np.array([status == COMPLETED for status in records.runs["status"].to_pylist()])
    latency = (end - arrival)[done]
    return {
        "runs": len(arrival),
        "unfinished": int((~done).sum()),
        "mean_s": float(latency.mean()),
        "p95_s": float(np.percentile(latency, 95)),
        "within_limit_pct": 100 * float((latency <= limit_s).sum()) / len(arrival),
    }


def _column(records: Records, name: str) -> Floats:
    return np.asarray(records.runs[name].to_numpy(zero_copy_only=False), dtype=float)


def settled_mean_s(records: Records, from_s: float) -> float:
    """Mean latency of the runs that arrived from then on."""
    arrival, end = (_column(records, name) for name in ("arrival_s", "end_s"))
    return float(np.nanmean((end - arrival)[arrival >= from_s]))


def gpu_seconds(control: Control) -> float:
    """Seconds in which a GPU was held by at least one instance, added over GPUs: what is paid for."""
    held: dict[Gpu, list[tuple[float, float]]] = {}
    for member in control.members:
        times = [(at, state) for at, state in member.history]
        on = next((at for at, state in times if state not in (PENDING, STOPPED)), None)
        off = next((at for at, state in times if state == STOPPED), control.now_s)
        if on is not None and off > on:
            for gpu in member.gpus:
                held.setdefault(gpu, []).append((on, off))
    return fsum(busy_s(spans) for spans in held.values())


def table(
    names: Sequence[str] | None,
    systems: Sequence[str],
    seeds: int,
    cache_dir: Path | None,
    azure: Path | None,
    before_s: float,
    after_s: float,
) -> Iterator[dict[str, Any]]:
    """Row by row."""
    settings = Settings(goal="gpus", limits_s={WORKFLOW: LIMIT_S}, percentile=95)
    for scenario in scenarios(before_s, after_s, azure):
        if names and scenario.name not in names:
            continue
        bench = bench_of(scenario, settings, cache_dir)
        for system in systems:
            if system == "oracle" and not scenario.oracle:
                continue
            for seed in range(seeds):
                yield measure(bench, system, seed)


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", action="append", help="only this one; repeat for several")
    parser.add_argument("--system", action="append", choices=RULES)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--before", type=float, default=300.0, help="seconds before the change")
    parser.add_argument("--after", type=float, default=600.0, help="seconds after it")
    parser.add_argument("--azure", type=Path, help="AzureLLMInferenceTrace_conv.csv; its scenario is left out without")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=DEFAULT_OUT)
    given = parser.parse_args()
    rows = []
    for row in table(given.scenario, given.system or RULES, given.seeds, given.cache, given.azure, given.before, given.after):
        rows.append(row)
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
        stamped(pd.DataFrame(rows)).to_csv(given.output, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
