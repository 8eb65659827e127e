"""Systems that are an allocation rule: plan, then run statically behind least-outstanding routers."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

import msgspec
import numpy as np

from experiments.systems.deployment import Deploy, Deployment, Option, allocations_text
from experiments.systems.scheduler import scheduled
from scepsy.api.case import Case
from scepsy.api.judge import SPLITS_JUDGED, fastest, judged_plan, why_not_judged
from scepsy.backend import Workload
from scepsy.baselines.independent import plan_by_rate, plan_independent_shares
from scepsy.baselines.oracle_user import best_splits
from scepsy.errors import Infeasible
from scepsy.place.hierarchical import layout, pack
from scepsy.plans import Plan
from scepsy.predictors.aggregate import Integers
from scepsy.profile.model import ProfileSet
from scepsy.records import Records
from scepsy.search import PLANNERS
from scepsy.search.assemble import accepts, assemble, evaluate
from scepsy.search.exact import best_within
from scepsy.search.knapsack import solve
from scepsy.search.problem import Problem
from scepsy.search.space import Options, build_space
from scepsy.search.within import cost_items, no_seeds
from sim.world.run import simulate

MOST_EXHAUSTIVE = 600
"""Allocations that the exhaustive oracle simulates at most."""


def static(plan: Plan, profiles: ProfileSet, router: str = "least-outstanding", queue_order: str = "fcfs") -> Deployment:
    """A plan run as it is, by the compiled core where it models the case."""

    def run(workload: Workload) -> Records:
        return simulate(plan, workload, profiles=profiles, router=router, queue_order=queue_order, engine="auto")

    return Deployment(replay=run, decided=allocations_text(plan), gpus=len(plan.gpu_shares), plan=plan)


def planner(name: str) -> Deploy:
    """A planner of the registry as a system."""

    def deploy(case: Case, option: Option) -> Deployment:
        return static(PLANNERS[name](case.problem), case.problem.profiles)

    return deploy


def by_rate(case: Case, option: Option) -> Deployment:
    """Each LLM by itself, leftover GPUs by arrival rate."""
    return static(plan_by_rate(case.problem), case.problem.profiles)


def aggregate_only(case: Case, option: Option) -> Deployment:
    """The exact planner under the aggregate pipeline alone: without runs it has no critical path to re-rank by."""
    plan = PLANNERS["exact"](replace(case.problem, runs={}))
    return static(plan, case.problem.profiles)


# ---- ablations ---------------------------------------------------------------------------------------------------------

Keep = Callable[[Options], Integers]

ABLATIONS: dict[str, Keep] = {
    "no-tp": lambda options: np.flatnonzero(options.tensor_parallel == 1),
    "no-replicas": lambda options: np.flatnonzero(options.replicas == 1),
}


def plan_within(problem: Problem, name: str, keep: Keep) -> Plan:
    """The exact planner on a part of its search space. Raises ``Infeasible`` when an LLM has no option left, or nothing
    packs.

    No other planner is asked: its plans may lie outside that part.
    """
    started = perf_counter()
    space = build_space(problem)
    llms = []
    for options in space.llms:
        index = keep(options)
        if len(index) == 0:
            raise Infeasible(
                f"planner {name}: none of {len(options)} options of LLM {options.llm} carries {options.load_per_s:.4g} calls/s"
            )
        llms.append(options.take(index))
    space = replace(space, llms=tuple(llms))
    found = best_within(problem, space, solve(cost_items(space), space.budgets), others=no_seeds)
    return assemble(problem, name, found.allocations, found.placement, started, found.proof)


def ablation(name: str) -> Deploy:
    """Scepsy's exact planner without one of its means."""

    def deploy(case: Case, option: Option) -> Deployment:
        return static(plan_within(case.problem, name, ABLATIONS[name]), case.problem.profiles)

    return deploy


def default_scheduler(case: Case, option: Option) -> Deployment:
    """The exact planner's allocation where a scheduler that knows no topology puts its pods."""
    plan = scheduled(PLANNERS["exact"](case.problem), case.problem)
    return static(plan, case.problem.profiles)


# ---- sharing and planning told apart -----------------------------------------------------------------------------------


def whole_gpus_only(case: Case) -> Case:
    """The same question on a cluster that cannot share a GPU."""
    capabilities = msgspec.structs.replace(case.problem.capabilities, sm_percent=False)
    return replace(case, problem=replace(case.problem, capabilities=capabilities))


def on_whole_gpus(deploy: Deploy) -> Deploy:
    """A planner's system, every instance on GPUs of its own: what planning brings without sharing."""

    def deploy_whole(case: Case, option: Option) -> Deployment:
        return deploy(whole_gpus_only(case), option)

    return deploy_whole


def independent_shares(case: Case, option: Option) -> Deployment:
    """Each LLM by itself, any share of a GPU: what sharing brings without the workflow's view."""
    return static(plan_independent_shares(case.problem), case.problem.profiles)


# ---- judged by simulation ----------------------------------------------------------------------------------------------


def judged(case: Case, option: Option) -> Deployment:
    """The plan that simulates fastest among every planner's and its neighbours; the predictor's where nothing can be judged."""
    plan = PLANNERS["exact"](case.problem) if why_not_judged(case.problem) else judged_plan(case).best
    return static(plan, case.problem.profiles)


def oracle_user(case: Case, option: Option) -> Deployment:
    """The best static whole-GPU allocation: every split by the predictor, the best few by simulation."""
    return static(fastest(best_splits(case.problem, SPLITS_JUDGED), case), case.problem.profiles)


def every_plan(problem: Problem) -> list[Plan]:
    """Every allocation that carries the load and packs. Raises ``Infeasible`` beyond ``MOST_EXHAUSTIVE``, or when there is
    none.
    """
    started = perf_counter()
    space = build_space(problem)
    where = layout(problem.cluster)
    plans: list[Plan] = []
    for choices in itertools.product(*(range(len(options)) for options in space.llms)):
        units = sum(int(options.units[choice]) for options, choice in zip(space.llms, choices, strict=True))
        if units > sum(space.budgets):
            continue
        allocations = space.allocations(choices)
        placement = pack(where, allocations)
        if placement is None or not accepts(problem, evaluate(problem, allocations, placement)):
            continue
        if len(plans) == MOST_EXHAUSTIVE:
            raise Infeasible(
                f"exhaustive oracle: more than {MOST_EXHAUSTIVE} allocations: take fewer GPUs or a coarser share unit"
            )
        plans.append(assemble(problem, "exhaustive", allocations, placement, started))
    if not plans:
        raise Infeasible(f"exhaustive oracle: no allocation on {sum(space.gpus_of)} GPUs carries the load")
    return plans


def exhaustive(case: Case, option: Option) -> Deployment:
    """Every allocation simulated, the fastest taken."""
    return static(fastest(every_plan(case.problem), case), case.problem.profiles)
