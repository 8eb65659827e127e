"""Several workflows on one cluster: who is admitted, and what it would take for the rest.

Planning itself is joint: LLMs that workflows share carry the sum of their calls, every target rate is a hard constraint (so
none starves), and weights and latency limits are per workflow (``Problem``). Here the question is the one before: does it
all fit, and if not, which workflow at which rate, or with how many more GPUs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import floor, log10

from scepsy.cluster import Cluster, Node
from scepsy.errors import Infeasible
from scepsy.plans import Plan
from scepsy.search.goals import at_rates, plan_exact
from scepsy.search.problem import Problem, subset

RATE_BISECTIONS = 10
"""Bisections of a workflow's rate: 1/1024 of its target."""
MAX_MORE_GPUS = 64
RESTATED = 6
"""Mixtures of rates that are asked about, one after the other, until one that is possible is found."""


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
        rate = (
            f"it can at {rounded_down(self.possible_rate_per_s)}/s" if self.possible_rate_per_s > 0 else "not even at a trickle"
        )
        gpus = f", or with {self.more_gpus} more GPU{'s' * (self.more_gpus != 1)}" if self.more_gpus else ""
        return f"workflow {self.workflow} cannot be served at {self.rate_per_s:.3g}/s; {rate}{gpus}"


def rounded_down(rate_per_s: float) -> str:
    """A rate to three digits and never above it, so that what is said to be possible is.

    >>> rounded_down(0.35678), rounded_down(1999.9), rounded_down(2.0)
    ('0.356', '1990', '2')
    """
    scale = 10.0 ** (floor(log10(rate_per_s)) - 2)
    digits = floor(rate_per_s / scale * (1 + 1e-12))
    return f"{digits * scale:.12g}"


State = Callable[[Sequence[int], Sequence[float]], Problem]
"""States the question for some of the workflows (by number) at these rates."""


def admit(problem: Problem, state: State | None = None) -> tuple[Admission, ...]:
    """Admit the workflows in the order of the targets, each at its rate beside those before it, or say what it could have.

    A workflow that does not fit is left out before the next one is looked at. Where workflows share an LLM its curves depend on
    the mixture of their rates. ``state`` profiles them for each mixture that is asked about, so that a rate which is named as
    possible is possible when it is asked for; without it the curves of the problem's own mixture are used throughout.
    """
    ask = state or (lambda numbers, rates: at_rates(subset(problem, list(numbers)), rates))
    admitted: list[int] = []
    answers = []
    for number, (target, rate) in enumerate(zip(problem.targets, problem.rates_per_s, strict=True)):
        numbers = [*admitted, number]
        rates = [problem.rates_per_s[n] for n in numbers]
        trial = ask(numbers, rates)
        if _plans(trial):
            admitted.append(number)
            answers.append(Admission(target.workflow, rate, True, rate, 0))
        else:
            answers.append(Admission(target.workflow, rate, False, _possible_rate(ask, numbers, rates), _more_gpus(trial)))
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


def _possible_rate(ask: State, numbers: Sequence[int], rates: Sequence[float]) -> float:
    """A rate of the last workflow beside the others at theirs that has a plan on the curves of that very mixture, near the
    highest; three digits, 0 where none was found."""
    *others, high = rates
    trial = ask(numbers, rates)
    for _ in range(RESTATED):
        low = 0.0
        for _ in range(RATE_BISECTIONS):
            middle = (low + high) / 2
            if _plans(at_rates(trial, [*others, middle])):
                low = middle
            else:
                high = middle
        if low == 0.0:
            return 0.0
        low = float(rounded_down(low))
        trial = ask(numbers, [*others, low])
        if _plans(trial):
            return low
        high = low
    return 0.0


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
