"""Every system that is compared, by name: how it decides, how it runs, which options are swept, what it is granted.

A system turns a planning problem and one of its options into a ``Deployment``: something that replays workloads. All of them
replay the same runs at the same times on the same step models. To add one, write a ``deploy`` function and add a line here
(docs/adding.md).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import Literal

from experiments.systems import allocations, runtimes
from experiments.systems.deployment import Deploy, Deployment, Option, label_of
from scepsy.api.case import Case
from scepsy.cluster import Cluster
from scepsy.errors import Infeasible, InputError

Group = Literal["scepsy", "ablation", "allocation", "autoscaling", "engine", "order", "oracle"]
Favours = Literal["it", "others", "nobody"]


def _one(cluster: Cluster) -> tuple[Option, ...]:
    return ({},)


@dataclass(frozen=True)
class System:
    """One system."""

    name: str
    title: str
    group: Group
    deploy: Deploy
    assumes: str
    """What we had to decide where its description is silent, and what we granted it."""
    favours: Favours = "nobody"
    """Whom those assumptions favour."""
    options: Callable[[Cluster], tuple[Option, ...]] = _one
    """Every configuration that is tried on a cluster; its best one at each rate counts."""
    probe: Deploy | None = None
    """Finds a plan at exactly the rates at which ``deploy`` does, in less time; None: ``deploy`` itself."""


_PLANS: tuple[tuple[str, str, Deploy], ...] = (
    ("scepsy", "Scepsy", allocations.judged),
    ("scepsy-paper", "Scepsy (the paper's)", allocations.planner("paper")),
    ("equal", "equal GPUs", allocations.planner("equal")),
    ("independent", "each LLM by itself", allocations.planner("independent")),
    ("oracle-user", "oracle user", allocations.oracle_user),
)
"""Plans that are run under every queue order."""
_ORDERS = (
    ("plas", "PLAS", "Autellix's queue order and routing"),
    (
        "hexagent",
        "HexAGenT-like order",
        "HexAGenT's order by slack to the run's horizon; lengths known, least-outstanding router",
    ),
)

_ALL = (
    System(
        "scepsy",
        "Scepsy",
        "scepsy",
        allocations.judged,
        "the default of `scepsy plan`: exact search, the best allocations re-ranked by the critical path, these and every "
        "other planner's judged by brief simulations; plans on the runs that it is then measured on, in another order and at "
        "other times",
        "it",
        probe=allocations.planner("exact"),
    ),
    System(
        "scepsy-predicted",
        "Scepsy (predicted only)",
        "scepsy",
        allocations.planner("exact"),
        "as scepsy, no simulation between predictor and plan (`--judge none`)",
        "it",
    ),
    System(
        "scepsy-exact",
        "Scepsy (exact, aggregate only)",
        "scepsy",
        allocations.aggregate_only,
        "as scepsy-predicted, without the critical path",
        "it",
    ),
    System(
        "scepsy-paper",
        "Scepsy (the paper's)",
        "scepsy",
        allocations.planner("paper"),
        "the paper's search, its formula L_m n_m / p_m with the trace's n_m and p_m, and its outer loop over workflows; as "
        "scepsy in all that the paper leaves open",
        "it",
    ),
    System(
        "scepsy-hierarchical",
        "Scepsy (the paper's search alone)",
        "scepsy",
        allocations.planner("hierarchical"),
        "as scepsy; the search as the paper describes it, on measured busy seconds",
        "it",
    ),
    System(
        "no-fractions",
        "Scepsy on whole GPUs",
        "ablation",
        allocations.on_whole_gpus(allocations.judged),
        "scepsy on a cluster that cannot share a GPU: what planning brings without sharing",
        probe=allocations.on_whole_gpus(allocations.planner("exact")),
    ),
    System(
        "scepsy-paper-whole",
        "Scepsy (the paper's) on whole GPUs",
        "ablation",
        allocations.on_whole_gpus(allocations.planner("paper")),
        "scepsy-paper on a cluster that cannot share a GPU",
    ),
    System(
        "independent-shares",
        "each LLM by itself, with shares",
        "ablation",
        allocations.independent_shares,
        "as independent, any share of a GPU allowed: what sharing brings without the workflow's view; no published system",
        "it",
    ),
    System("no-tp", "without tensor parallelism", "ablation", allocations.ablation("no-tp"), "scepsy-predicted at degree 1"),
    System(
        "no-replicas",
        "without replicas",
        "ablation",
        allocations.ablation("no-replicas"),
        "scepsy-predicted with one instance per LLM",
    ),
    System(
        "default-scheduler",
        "placed by a default scheduler",
        "ablation",
        allocations.default_scheduler,
        "scepsy-predicted's allocation, pods placed one by one on the emptiest node that fits, as Kubernetes does by default; "
        "the device plugin keeps a group inside an NVLink domain",
        "it",
    ),
    System(
        "equal",
        "equal GPUs",
        "allocation",
        allocations.planner("equal"),
        "each LLM gets the degree and replicas that suit it best inside its GPUs, as a careful user would choose",
        "it",
    ),
    System("proportional", "GPUs by parameters", "allocation", allocations.planner("proportional"), "as equal", "it"),
    System(
        "independent",
        "each LLM by itself",
        "allocation",
        allocations.planner("independent"),
        "as equal; each LLM's own rate and latency curve are known; spare GPUs go where they lower its own latency most",
        "it",
    ),
    System(
        "independent-by-rate",
        "each LLM by itself, leftovers by rate",
        "allocation",
        allocations.by_rate,
        "as independent, but spare GPUs go by arrival rate, as some descriptions have it: a small model that is called often "
        "gets most of them",
        "others",
    ),
    System(
        "oracle-user",
        "oracle user",
        "allocation",
        allocations.oracle_user,
        "every whole-GPU split is tried, the best four judged by simulation: no user can do this",
        "it",
    ),
    System(
        "hpa",
        "Kubernetes HPA",
        "autoscaling",
        runtimes.hpa,
        "warm weights; a pod is ready after the measured cold start; starts cold from one pod per LLM, or from what it settles "
        "on under the load (15 times as fast, no cold starts, for twice its memory)",
        "nobody",
        runtimes.hpa_options,
    ),
    System(
        "wva",
        "llm-d variant autoscaler",
        "autoscaling",
        runtimes.variant_autoscaler,
        "one variant per LLM; starts as hpa; what one instance carries within its latency target is profiled; GPU limiter on",
        "it",
        runtimes.wva_options,
    ),
    System(
        "dynamo",
        "Dynamo-like planner",
        "autoscaling",
        runtimes.dynamo_planner,
        "one planner per LLM, engines that prefill and decode; starts as hpa; profiles are exact; constant predictor, no "
        "correction of the time between tokens",
        "nobody",
        runtimes.dynamo_options,
    ),
    System(
        "ayo",
        "Ayo",
        "engine",
        runtimes.ayo,
        "each of the three user allocations; early prefills placed with the calls they serve",
        "it",
        runtimes.ayo_options,
    ),
    System(
        "aegaeon",
        "Aegaeon",
        "engine",
        runtimes.aegaeon,
        "host memory keeps prompts for reuse and is large enough; every split; beside the published dispatch a balanced one "
        "and one that counts the switches it causes",
        "it",
        runtimes.aegaeon_options,
    ),
    System(
        "muxserve",
        "MuxServe",
        "engine",
        runtimes.muxserve,
        "rates known; unreserved SMs shared out; every number of copies of each LLM tried beside the published single one; "
        "prefix cache; SM time is conserved as for every system that shares GPUs",
        "it",
        runtimes.muxserve_options,
    ),
    System(
        "muxserve-whole",
        "MuxServe on whole GPUs",
        "ablation",
        runtimes.muxserve_whole,
        "as muxserve, one LLM per mesh: its placement and scheduler without sharing",
        "it",
        runtimes.muxserve_options,
    ),
    *(
        System(
            f"{name}-{order}",
            f"{title} + {called}",
            "scepsy" if name == "scepsy" else "order",
            runtimes.under_order(deploy, order),
            f"the plan of {name} under {source}",
            probe=allocations.planner("exact") if name == "scepsy" else None,
        )
        for name, title, deploy in _PLANS
        for order, called, source in _ORDERS
    ),
    System(
        "exhaustive",
        "exhaustive oracle",
        "oracle",
        allocations.exhaustive,
        "every allocation of a small cluster is simulated",
        "it",
    ),
)

SYSTEMS: Mapping[str, System] = {system.name: system for system in _ALL}


def find_system(name: str) -> System:
    """The system called ``name``. Raises ``InputError`` naming what there is."""
    if name not in SYSTEMS:
        raise InputError(f"system is {name!r}: must be one of {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


STEPS = 9
LOWEST = 0.01
"""The highest rate that a system plans for is looked for from this part of the rate asked for, in ``STEPS`` halvings of the
ratio: to within 1 %.
"""


def deploy(system: System, case: Case, option: Option) -> Deployment:
    """Deploy at the case's rates; where the system finds no plan, the one for the highest rate that it does plan for.

    That is what its user would be running when the load grows past it. Raises ``Infeasible`` when it has none at a hundredth.
    """
    try:
        return system.deploy(case, option)
    except Infeasible as error:
        why = error
    part = highest_part(system, case, option)
    if part == 0.0:
        raise Infeasible(f"system {system.name} ({label_of(option) or 'no option'}): {_line(why)}")
    return carried(system.deploy(case.at_factor(part), option), part, why)


def highest_part(system: System, case: Case, option: Option) -> float:
    """The largest part of the case's rates for which the system has a plan, 1 at most; 0 when it has none at ``LOWEST``."""
    probe = system.probe or system.deploy

    def planned(part: float) -> bool:
        try:
            probe(case.at_factor(part), option)
        except Infeasible:
            return False
        return True

    if planned(1.0):
        return 1.0
    if not planned(LOWEST):
        return 0.0
    low, high = LOWEST, 1.0
    for _ in range(STEPS):
        middle = sqrt(low * high)
        low, high = (middle, high) if planned(middle) else (low, middle)
    return low


def carried(deployment: Deployment, part: float, why: Infeasible) -> Deployment:
    """A deployment for a part of the rate, and why there is none for all of it."""
    return replace(deployment, carried=f"planned for {part:.3f} of the rate: {_line(why)}")


def _line(error: Infeasible) -> str:
    return " ".join(str(error).split())
