"""Several workflows on one cluster: who is admitted, and what it would take for the rest.

Planning itself is joint: LLMs that workflows share carry the sum of their calls, every target rate is a hard constraint (so
none starves), and weights and latency limits are per workflow (``Problem``). Here the question is the one before: does it
all fit, and if not, which workflow at which rate, or with how many more GPUs.
"""

from dataclasses import dataclass, replace

from scepsy.cluster import Cluster, Node
from scepsy.errors import Infeasible
from scepsy.plans import Plan
from scepsy.search.goals import at_rates, plan_exact
from scepsy.search.problem import Problem, subset

RATE_BISECTIONS = 10
"""Bisections of a workflow's rate: 1/1024 of its target."""
MAX_MORE_GPUS = 64


@dataclass(frozen=True)
class Admission:
    """One workflow beside those admitted before it."""

    workflow: str
    rate_per_s: float
    served: bool
    possible_rate_per_s: float
    """What it can have beside the others: the target where served, 0 where not even a trickle fits."""
    more_gpus: int | None
    """GPUs to add for the target; 0 where served, None where ``MAX_MORE_GPUS`` do not help."""

    def __str__(self) -> str:
        if self.served:
            return f"workflow {self.workflow} is served at {self.rate_per_s:.3g}/s"
        rate = f"it can at {self.possible_rate_per_s:.3g}/s" if self.possible_rate_per_s > 0 else "not even at a trickle"
        gpus = f", or with {self.more_gpus} more GPU{'s' * (self.more_gpus != 1)}" if self.more_gpus else ""
        return f"workflow {self.workflow} cannot be served at {self.rate_per_s:.3g}/s; {rate}{gpus}"


def admit(problem: Problem) -> tuple[Admission, ...]:
    """Admit the workflows in the order of the targets, each at its rate beside those before it, or say what it could have.

    A workflow that does not fit is left out before the next one is looked at.
    """
    admitted: list[int] = []
    answers = []
    for number, (target, rate) in enumerate(zip(problem.targets, problem.rates_per_s, strict=True)):
        trial = subset(problem, [*admitted, number])
        if _plans(trial):
            admitted.append(number)
            answers.append(Admission(target.workflow, rate, True, rate, 0))
        else:
            possible = _possible_rate(trial)
            answers.append(Admission(target.workflow, rate, False, possible, _more_gpus(trial)))
    return tuple(answers)


def plan_admitted(problem: Problem) -> Plan:
    """The exact plan for all workflows. Raises ``Infeasible`` with one sentence on each workflow that does not fit."""
    try:
        return plan_exact(problem)
    except Infeasible as error:
        if len(problem.targets) == 1:
            raise
        refused = [str(answer) for answer in admit(problem) if not answer.served]
        raise Infeasible("; ".join(refused) if refused else str(error)) from error


def with_more_gpus(problem: Problem, more: int) -> Problem:
    """The problem on a cluster with ``more`` GPUs of the last node's type: further nodes like it, the last one smaller."""
    last = problem.cluster.nodes[-1]
    nodes = list(problem.cluster.nodes)
    number = 0
    while more > 0:
        size = min(more, last.gpus)
        domains = last.nvlink_domains if size == last.gpus else ()
        nodes.append(Node(name=f"added-{number}", gpu_type=last.gpu_type, gpus=size, nvlink_domains=domains))
        more -= size
        number += 1
    cluster = Cluster(name=problem.cluster.name, gpu_types=problem.cluster.gpu_types, nodes=tuple(nodes))
    return replace(problem, cluster=cluster)


def _plans(problem: Problem) -> bool:
    try:
        plan_exact(problem)
    except Infeasible:
        return False
    return True


def _possible_rate(problem: Problem) -> float:
    """The last workflow's highest rate beside the others at theirs."""
    *others, wanted = problem.rates_per_s
    low, high = 0.0, wanted
    for _ in range(RATE_BISECTIONS):
        middle = (low + high) / 2
        if _plans(at_rates(problem, [*others, middle])):
            low = middle
        else:
            high = middle
    return low


def _more_gpus(problem: Problem) -> int | None:
    """The fewest GPUs to add: doubled until it fits, then halved back."""
    high = 1
    while not _plans(with_more_gpus(problem, high)):
        high *= 2
        if high > MAX_MORE_GPUS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if _plans(with_more_gpus(problem, middle)):
            high = middle
        else:
            low = middle
    return high
