"""The steps of a program: plan, predict, simulate and compare, with the same defaults as the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from scepsy.api.compare import Comparison, compare_plan
from scepsy.api.forecast import forecast
from scepsy.api.inputs import load_cluster, profiles_of
from scepsy.api.prepare import Load, prepare, workload_of
from scepsy.api.settle import MOST_CALLS, checks_of, settle
from scepsy.cluster import Cluster
from scepsy.errors import InputError
from scepsy.files.cache import cache_dir
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.profile.sharing import require_groups, sharing
from scepsy.records import Records
from scepsy.search import PLANNERS
from scepsy.search.problem import Goal, Problem
from scepsy.steady.verdict import PRECISION
from scepsy.workload import Arrivals, Trace
from sim.world.run import simulate as replay

Traces = Trace | Sequence[Trace]
Rates = float | Mapping[str, float]
"""Runs per second: one number for a single workflow, else by workflow name."""


def plan(
    traces: Traces,
    *,
    rate_per_s: Rates,
    cluster: Cluster | str | int = "2x8-a100-80g",
    profiles: ProfileSet | Mapping[str, str] | None = None,
    planner: str = "exact",
    goal: Goal | None = None,
    share: Sequence[Sequence[str]] = (),
    seed: int = 0,
    jobs: int = 1,
) -> Plan:
    """The allocation and placement with the lowest predicted latency at the target rate.

    ``cluster`` is a value, a preset's name, a file or a number of A100-80G GPUs. ``profiles`` is a value, or says which
    built-in model serves which LLM of the trace (None: the LLMs are named as models are). Curves that were profiled before
    come from the cache. ``share``: groups of names of the traces that one model's instances serve together. Raises
    ``InputError`` for an unknown name, ``Infeasible`` when no plan carries the rate.
    """
    if planner not in PLANNERS:
        raise InputError(f"planner is {planner!r}: must be one of {', '.join(PLANNERS)}")
    machines = cluster if isinstance(cluster, Cluster) else load_cluster(cluster)
    loads = _loads(_workflows(traces), rate_per_s)
    require_groups(share, [load.trace for load in loads])
    known = sharing(_profiles(loads, machines, profiles), share)
    loads = tuple(replace(load, trace=load.trace.renamed(known.other_names)) for load in loads)
    return PLANNERS[planner](_problem(loads, machines, known, goal=goal, seed=seed, jobs=jobs))


def predict(
    plan: Plan,
    traces: Traces,
    *,
    rate_per_s: Rates | None = None,
    profiles: ProfileSet | Mapping[str, str] | None = None,
    predictor: str = "critical-path",
    seed: int = 0,
    jobs: int = 1,
) -> list[dict[str, Any]]:
    """What a predictor expects of the plan: one document per workflow, as ``scepsy predict --json`` prints it.

    Rates are the plan's unless given.
    """
    loads = _loads(_workflows(traces, plan), _rates(plan) if rate_per_s is None else rate_per_s)
    return forecast(plan, _problem(loads, plan.cluster, profiles, seed=seed, jobs=jobs), predictor)


def simulate(
    plan: Plan,
    traces: Traces,
    *,
    runs: int = 500,
    rate_per_s: Rates | None = None,
    profiles: ProfileSet | Mapping[str, str] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Records:
    """Replay the traces against the plan, token by token; one row per run and per call.

    Rates are the plan's unless given; ``settings`` go to ``sim.world.run.simulate`` (router, queue order, policies …).
    ``scepsy.summarise`` reduces the records to latencies and counts.
    """
    loads = _loads(_workflows(traces, plan), _rates(plan) if rate_per_s is None else rate_per_s)
    known = _profiles(loads, plan.cluster, profiles)
    return replay(plan, workload_of(loads, runs=runs, seed=seed), profiles=known, **settings)


def validate(
    plan: Plan,
    traces: Traces,
    *,
    max_latency_s: float | None = None,
    max_p95_s: float | None = None,
    min_throughput_per_s: float | None = None,
    rate_per_s: Rates | None = None,
    profiles: ProfileSet | Mapping[str, str] | None = None,
    precision: float = PRECISION,
    most_calls: int = MOST_CALLS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Simulate until the mean latency is known to ``precision``, and check every workflow by itself.

    One document per check, as ``scepsy validate --json`` prints it: ``workflow, name, limit, value, half_width, ok, why``.
    Every workflow must keep up with its arrivals and complete all runs. A limit holds when the whole interval is within it.
    Where ``most_calls`` end before that is known, the check fails and says so.
    """
    loads = _loads(_workflows(traces, plan), _rates(plan) if rate_per_s is None else rate_per_s)
    known = _profiles(loads, plan.cluster, profiles)
    found = settle(
        lambda workload: replay(plan, workload, profiles=known),
        [load.stream for load in loads],
        seed=seed,
        precision=precision,
        most_calls=most_calls,
    )
    return [
        check
        for name, one in found.by_workflow.items()
        for check in checks_of(name, one, max_latency_s, max_p95_s, min_throughput_per_s)
    ]


def compare(
    plan: Plan,
    traces: Traces,
    *,
    runs: int = 100,
    seeds: Sequence[int] = (0,),
    loads: Sequence[float] = (1.0,),
    profiles: ProfileSet | Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Predicted and simulated rows of a plan, side by side, at parts (``loads``) of its target rate.

    ``scepsy compare --measure`` adds what real engines on this host did.
    """
    workflows = _workflows(traces, plan)
    known = _profiles(_loads(workflows, _rates(plan)), plan.cluster, profiles)
    question = Comparison(plan=plan, traces=workflows, profiles=known, runs=runs, seeds=tuple(seeds), loads=tuple(loads))
    return compare_plan(question)


def _workflows(traces: Traces, plan: Plan | None = None) -> dict[str, Trace]:
    """Each workflow's trace. With a plan, calls to names that share instances are calls to the LLM that serves them."""
    given = [traces] if isinstance(traces, Trace) else list(traces)
    parts = [(name, trace.of(name)) for trace in given for name in trace.workflows]
    if len(dict(parts)) != len(parts):
        raise InputError(f"workflows are {', '.join(name for name, _ in parts)}: give each workflow in one trace only")
    return {name: trace if plan is None else trace.renamed(plan.other_names) for name, trace in parts}


def _loads(workflows: Mapping[str, Trace], rate_per_s: Rates) -> tuple[Load, ...]:
    names = ", ".join(workflows)
    if not isinstance(rate_per_s, Mapping):
        if len(workflows) != 1:
            raise InputError(f"rate_per_s is {rate_per_s:g}: must name a rate for each workflow ({names})")
        rate_per_s = dict.fromkeys(workflows, rate_per_s)
    if set(rate_per_s) != set(workflows):
        raise InputError(f"rate_per_s is for {', '.join(rate_per_s)}: must be for {names}")
    for name, rate in rate_per_s.items():
        if not 0 < rate < float("inf"):
            raise InputError(f"rate_per_s of {name} is {rate:g}: must be a finite number > 0 (runs per second)")
    return tuple(Load(trace=trace, arrivals=Arrivals(rate_per_s=float(rate_per_s[name]))) for name, trace in workflows.items())


def _rates(plan: Plan) -> dict[str, float]:
    return {target.workflow: target.arrivals.rate_per_s or 0.0 for target in plan.targets}


def _profiles(loads: Sequence[Load], cluster: Cluster, given: ProfileSet | Mapping[str, str] | None) -> ProfileSet:
    if isinstance(given, ProfileSet):
        return given
    llms = dict.fromkeys(llm for load in loads for llm in load.trace.llms)
    return profiles_of({name: (given or {}).get(name, name) for name in llms}, cluster)


def _problem(
    loads: Sequence[Load],
    cluster: Cluster,
    given: ProfileSet | Mapping[str, str] | None,
    *,
    goal: Goal | None = None,
    seed: int,
    jobs: int,
) -> Problem:
    known = _profiles(loads, cluster, given)
    return prepare(loads, cluster, known, goal=goal, seed=seed, jobs=jobs, cache_dir=cache_dir())
