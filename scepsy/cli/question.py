"""From a command's options to the question they ask: loads, cluster, profiles and the planning problem."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scepsy.cli.output import progress_bar
from scepsy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scepsy.api.prepare import Load
    from scepsy.cluster import Cluster
    from scepsy.plans import Plan
    from scepsy.profile.model import ProfileSet
    from scepsy.search.problem import Goal, Problem
    from scepsy.slo import Slo


def state_problem(
    trace: list[Path],
    rate: list[float],
    *,
    profiles: Path | None,
    rename: list[str] | None,
    share: list[str] | None = None,
    cluster: str | None,
    gpus: int | None,
    gpu_type: str,
    arrivals: str = "poisson",
    share_unit: int = 10,
    goal: "Goal | None" = None,
    seed: int = 0,
    jobs: int = 2,
    machines: "Cluster | None" = None,
    prices: Path | None = None,
) -> "tuple[Problem, tuple[Load, ...], ProfileSet]":
    """The planning question that a command's options ask; a latency limit under the name "" holds for every workflow.

    ``share``: names that share instances. The loads call the LLM that serves them instead. ``machines``: the cluster itself
    instead of the options that name one. ``prices``: a file of prices over the cluster's.
    """
    from scepsy.api.prepare import loads_of
    from scepsy.cli.inputs import mean_contexts, read_arrivals, read_cluster, read_profiles, read_shares, read_traces
    from scepsy.profile.sharing import sharing
    from scepsy.search.problem import Goal

    loads = loads_of(read_traces(trace), rate, read_arrivals(arrivals))
    machines = machines or read_cluster(cluster, gpus, gpu_type)
    llms = list(dict.fromkeys(llm for load in loads for llm in load.trace.llms))
    groups = read_shares(share or [], [load.trace for load in loads])
    serving = {name: group[0] for group in groups for name in group[1:]}
    contexts = mean_contexts([load.trace.renamed(serving) for load in loads])
    known = sharing(read_profiles(profiles, llms, machines, rename or [], contexts), groups)
    loads = tuple(replace(load, trace=load.trace.renamed(known.other_names)) for load in loads)
    wanted = goal or Goal()
    if "" in wanted.limits_s:
        wanted = replace(wanted, limits_s={load.workflow: wanted.limits_s[""] for load in loads})
    problem = problem_of(loads, machines, known, share_unit=share_unit, goal=wanted, seed=seed, jobs=jobs)
    return replace(problem, cluster=priced(problem.cluster, prices)), loads, known


def with_objectives(problem: "Problem", slo: "Slo") -> "Problem":
    """The problem with what the SLO cannot be planned for among its assumptions. Raises ``InputError`` for an SLO that names
    what is not there, or more runs per second than are planned for."""
    workflows = [target.workflow for target in problem.targets]
    llms = {llm.llm: None for use in problem.uses for llm in use.llms}
    require_own("--slo", slo.llms, problem.profiles.other_names)
    for line in slo.unknown(workflows, llms):
        raise InputError(f"--slo: {line}")
    for name, rate in zip(workflows, problem.rates_per_s, strict=True):
        least = slo.workflow(name).min_throughput_per_s
        if least is not None and rate < least:
            raise InputError(
                f"--rate is {rate:g} for {name}, but the SLO asks for at least {least:g} runs/s: plan for that rate or more"
            )
    if not slo.llms:
        return problem
    note = "objectives for TTFT and TPOT are not predicted while planning: `scepsy validate` simulates them"
    return replace(problem, assumptions=(*problem.assumptions, note))


def require_own(option: str, names: "Iterable[str]", others: "Mapping[str, str]") -> None:
    """Raise ``InputError`` for a name that shares another's instances: what is given for it would hold for all of them."""
    for name in names:
        if name in others:
            raise InputError(
                f"{option} names {name!r}, which shares the instances of {others[name]}: give it for {others[name]}, where it "
                f"holds for the calls of both"
            )


def require_objectives(plan: "Plan", problem: "Problem") -> None:
    """Raise ``Infeasible`` when a plan of a planner that knows no objectives misses one, as predicted."""
    from scepsy.api.forecast import forecast
    from scepsy.errors import Infeasible
    from scepsy.slo import over

    slo = problem.goal.slo
    if slo is None or not slo.limits_latency:
        return
    for document in forecast(plan, problem, "critical-path"):
        for name, limit, value in over(slo, document["workflow"], document["latency_s"]):
            raise Infeasible(
                f"the {plan.planner} plan misses an objective: {document['workflow']} {name} is {value:.4g} s, limit "
                f"{limit:.4g} s: --planner exact looks for one that keeps it"
            )


def slo_of(plan: "Plan", given: list[str] | None) -> "Slo | None":
    """The objectives to check a plan against: those given, else the plan's own. Raises ``InputError`` for unknown names."""
    from scepsy.files.slo import read_slo

    slo = read_slo(given or []) or plan.slo
    if slo is not None:
        require_own("--slo", slo.llms, plan.other_names)
        for line in slo.unknown([target.workflow for target in plan.targets], [a.llm for a in plan.allocations]):
            raise InputError(f"--slo: {line}")
    return slo


def restricted(problem: "Problem", pins: list[str], excluded: list[str]) -> "Problem":
    """The problem with what ``--pin`` fixes and ``--exclude`` forbids, both among its assumptions. Raises ``InputError``."""
    import msgspec

    from scepsy.search.choices import Choices, read_ban, read_pin

    llms = list(dict.fromkeys(llm.llm for use in problem.uses for llm in use.llms))
    for option, texts in (("--pin", pins), ("--exclude", excluded)):
        require_own(option, [text.rpartition("=")[0] for text in texts], problem.profiles.other_names)
    pinned = tuple(read_pin(text, llms) for text in pins)
    if len({one.llm for one in pinned}) != len(pinned):
        raise InputError(f"--pin is given twice for one LLM ({', '.join(pins)}): give each once")
    bans, nodes, notes = [], problem.cluster.nodes, []
    for text in excluded:
        ban = read_ban(text, llms)
        if ban is not None:
            bans.append(ban)
            continue
        left = tuple(node for node in nodes if text not in (node.name, node.gpu_type))
        if len(left) == len(nodes):
            known = [*dict.fromkeys(node.gpu_type for node in nodes), *(node.name for node in nodes)]
            raise InputError(
                f"--exclude is {text!r}: must be a node or GPU type ({', '.join(known)}), or LLM=TP or LLM=TP:SHARE"
            )
        if not left:
            raise InputError(f"--exclude {text}: nothing is left of cluster {problem.cluster.name}")
        nodes = left
        notes.append(f"excluded from the cluster: {text}")
    kinds = {node.gpu_type for node in nodes}
    types = tuple(gpu for gpu in problem.cluster.gpu_types if gpu.name in kinds)
    choices = Choices(pinned, tuple(bans))
    return replace(
        problem,
        cluster=msgspec.structs.replace(problem.cluster, nodes=nodes, gpu_types=types),
        choices=choices,
        assumptions=(*problem.assumptions, *choices.notes(), *notes),
    )


def priced(cluster: "Cluster", prices: Path | None) -> "Cluster":
    """The cluster with the prices of a file, if there is one, in place of its own."""
    from scepsy.cost import with_prices
    from scepsy.files.prices import load_prices
    from scepsy.profile import catalogue

    return cluster if prices is None else with_prices(cluster, load_prices(prices), catalogue.gpu_types())


def problem_of_plan(
    plan: "Plan", loads: "tuple[Load, ...]", profiles: "ProfileSet", *, seed: int | None = None, jobs: int
) -> "Problem":
    """The problem behind a plan, on the curves that its numbers come from (or those of another seed)."""
    from scepsy.search.problem import Goal

    chosen = plan.curve_seed if seed is None else seed
    return problem_of(loads, plan.cluster, profiles, share_unit=plan.share_unit_pct, goal=Goal(), seed=chosen, jobs=jobs)


def problem_of(
    loads: "tuple[Load, ...]", cluster: "Cluster", profiles: "ProfileSet", *, share_unit: int, goal: Any, seed: int, jobs: int
) -> "Problem":
    """State the problem; profile the curves that the cache lacks, with a progress bar."""
    from scepsy.api.prepare import prepare
    from scepsy.files.cache import cache_dir

    if not 1 <= share_unit <= 100:
        raise InputError(f"--share-unit is {share_unit}: must be 1 to 100 percent")
    with progress_bar("profiling curves") as progress:
        return prepare(
            loads,
            cluster,
            profiles,
            share_unit_pct=share_unit,
            goal=goal,
            seed=seed,
            cache_dir=cache_dir(),
            jobs=jobs,
            progress=progress,
        )


def read_plan(path: Path, rate: list[float] | None) -> "tuple[Plan, tuple[Load, ...], ProfileSet]":
    """A plan with its loads (at ``rate`` where given) and profiles."""

    from scepsy.api.prepare import Load
    from scepsy.cli.inputs import plan_inputs
    from scepsy.files.plan import load_plan

    result = load_plan(path)
    traces, profiles = plan_inputs(result, path)
    if rate and len(rate) != len(result.targets):
        names = ", ".join(target.workflow for target in result.targets)
        raise InputError(f"--rate is given {len(rate)} times: must be once for each workflow of the plan ({names})")
    loads = []
    for index, (target, (trace, name)) in enumerate(zip(result.targets, traces, strict=True)):
        arrivals = target.arrivals
        if rate:
            if not 0 < rate[index] < math.inf:
                raise InputError(f"--rate is {rate[index]:g}: must be a finite number > 0 (runs per second)")
            arrivals = arrivals.at_rate(rate[index])
        loads.append(Load(trace=trace, arrivals=arrivals, path=name))
    return result, tuple(loads), profiles
