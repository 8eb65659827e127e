"""The evaluation as data: parts, their questions, their systems, and what each scale may spend on them.

Adding a workload, a cluster size or a kind of arrivals is a line here. Systems come from the registry, so a new system is in
every part that takes its group.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from experiments.points.measured import interpreted
from experiments.points.questions import Question
from experiments.points.real_traces import REAL, data_folder
from experiments.points.settled import Budget
from experiments.systems.deployment import Option
from experiments.systems.registry import SYSTEMS
from scepsy.profile import catalogue

GROUPS = ("scepsy", "allocation", "autoscaling", "engine")
STATIC_GROUPS = ("scepsy", "allocation")
JUDGED = ("scepsy", "scepsy-plas", "scepsy-hexagent", "no-fractions", "oracle-user")
"""Plans that simulations choose: too slow to be made again and again beyond 16 GPUs."""
RIVALS = ("scepsy", "oracle-user", "ayo", "aegaeon", "muxserve")
"""Who is asked again where one assumption is changed."""

RAG, BEAM, BOTH = ("rag-rerank",), ("beam-search",), ("rag-rerank", "beam-search")
ONE_OF_A_KIND = ("scepsy", "scepsy-paper", "independent", "oracle-user", "hpa", "ayo", "aegaeon", "muxserve")
"""Who is asked on the workloads that no claim is about: of systems that differ in a detail only the best known one."""
OTHER = ("rag-llm-rerank", "debate", "map-reduce", "text-to-sql", "tool-agent")
WIDE = ("beam-search-paper",)
"""Hundreds of calls in a run: too long for every system's every option."""
LONG_CONTEXTS = dict.fromkeys(("kvct-neon", "kvct-v8"), ("scepsy", "oracle-user", "independent", "equal"))
"""Coding agents, whose calls hold thousands of KV blocks. Only systems of the compiled core: one brief trial of an interpreted
one took over eight minutes of processor time."""
LONGEST = ("kvct-v8",)
"""Two minutes of processor time for one point of a compiled system: asked at the scale ``long`` only."""
MAIN_PARTS = ("headline", "small", "workloads", "quick", "smoke")
"""Measured at every common rate."""


@dataclass(frozen=True)
class Cell:
    """Systems that are compared on one question."""

    part: str
    question: Question
    systems: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """How much of the evaluation one scale runs, and how precisely."""

    name: str
    budget: Budget
    """Of systems that the compiled core models."""
    policy_budget: Budget
    """Of systems that only the interpreted engine models, whose calls take ten to twenty times as long."""
    screen_calls: int
    """Calls of a trial of one option."""
    parts: tuple[str, ...]
    screen_loads: tuple[float, ...]
    """Loads at which every option of a system is tried once, briefly, to find the ones that are measured."""
    screen_seed: int
    """Not one of the measured seeds, so that choosing does not flatter what is chosen."""
    finalists: int
    """Options of a system that are measured in full at a common rate: the best ones of the screening."""
    finalists_at_border: int
    """The same where its highest stable rate is sought."""
    most_options: int
    """Options that are tried at all; the registry's order, evenly thinned."""
    rates: tuple[float, ...]
    """Parts of the best system's highest stable rate at which all are measured."""

    def rates_of(self, part: str) -> tuple[float, ...]:
        """The rates of one part: half of them where an assumption is changed or a system taken apart."""
        return self.rates if part in MAIN_PARTS else self.rates[1::2]

    def budget_of(self, system: str) -> Budget:
        """What a point of a system may cost."""
        return self.policy_budget if interpreted(system) else self.budget

    def border_budget_of(self, system: str) -> Budget:
        """What a load on the way to the highest stable rate may cost: one seed, as long as all seeds of a point together.

        Whether work stays behind shows with the length of a replay, not with the number of short ones. With five replays of
        100,000 calls most brackets had no upper end at all, and for the same processor time one long replay finds both ends.
        """
        budget = self.budget_of(system)
        return replace(budget, seeds=budget.seeds[:1], most_calls=len(budget.seeds) * budget.most_calls)


FULL = Plan(
    name="full",
    budget=Budget(seeds=(1, 2, 3, 4, 5), precision=0.03, tolerance=0.02, first_calls=12_000, most_calls=100_000),
    policy_budget=Budget(seeds=(1, 2, 3), precision=0.05, tolerance=0.05, first_calls=12_000, most_calls=36_000),
    screen_calls=4_000,
    parts=("headline", "small", "ablation", "workloads", "real", "large", "h100", "arrivals", "tokens", "models"),
    screen_loads=(0.15, 0.4, 0.8),
    screen_seed=101,
    finalists=1,
    finalists_at_border=1,
    most_options=24,
    rates=(0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.1),
)
"""The committed tables."""
LONG = replace(
    FULL,
    name="long",
    budget=replace(FULL.budget, most_calls=1_000_000),
    policy_budget=replace(FULL.budget, most_calls=200_000),
    screen_calls=12_000,
    finalists_at_border=2,
)
"""The same questions, every system as precisely as the compiled ones: for a cluster of machines (``--backend dask``)."""
QUICK = Plan(
    name="quick",
    budget=Budget(seeds=(1, 2), precision=0.1, tolerance=0.05, first_calls=4_000, most_calls=100_000),
    policy_budget=Budget(seeds=(1, 2), precision=0.1, tolerance=0.1, first_calls=4_000, most_calls=12_000),
    screen_calls=4_000,
    parts=("quick",),
    screen_loads=(0.15, 0.4, 0.8),
    screen_seed=101,
    finalists=1,
    finalists_at_border=1,
    most_options=16,
    rates=(0.1, 0.5, 0.9, 1.1),
)
SMOKE = replace(
    QUICK,
    name="smoke",
    budget=replace(QUICK.budget, precision=0.2, first_calls=2_000, most_calls=20_000),
    policy_budget=replace(QUICK.policy_budget, precision=0.2, first_calls=2_000, most_calls=8_000),
    screen_calls=2_000,
    parts=("smoke",),
    screen_loads=(0.6,),
    most_options=3,
    rates=(0.3, 0.8),
)
"""For tests and trials: one workflow on four GPUs, four systems, seconds of processor time. Nothing follows from it."""
PLANS = {plan.name: plan for plan in (SMOKE, QUICK, FULL, LONG)}


def systems_of(groups: Sequence[str], without: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the registry's systems in some groups."""
    return tuple(system.name for system in SYSTEMS.values() if system.group in groups and system.name not in without)


def cells(plan: Plan) -> list[Cell]:
    """Every cell of a plan, in order of its parts."""
    makers = {
        "headline": lambda: [Cell("headline", Question(w), systems_of(GROUPS)) for w in (RAG, BEAM, BOTH)],
        "small": lambda: [Cell("small", Question(w, gpus=n), systems_of(GROUPS)) for n in (4, 8) for w in (RAG, BEAM, BOTH)],
        "quick": _quick,
        "smoke": lambda: [Cell("smoke", Question(RAG, gpus=4), ("scepsy", "equal", "aegaeon", "no-fractions"))],
        "ablation": _ablation,
        "workloads": lambda: [
            *(Cell("workloads", Question((w,)), ONE_OF_A_KIND) for w in OTHER),
            Cell("workloads", Question(WIDE), RIVALS),
        ],
        "real": lambda: _real(plan),
        "large": _large,
        "h100": lambda: [Cell("h100", Question(w, gpu_type="H100-80G", gpus=8), RIVALS) for w in (RAG, BEAM)],
        "arrivals": _arrivals,
        "tokens": _tokens,
        "models": _models,
    }
    return [cell for part in plan.parts for cell in makers[part]()]


def _quick() -> list[Cell]:
    """A little of everything that the figures draw."""
    names = systems_of(GROUPS, ("scepsy-hexagent", "oracle-user"))
    asked = (Question(RAG, gpus=4), Question(BEAM, gpus=4), Question(RAG))
    changed = tuple(Question(RAG, gpus=8, arrivals=kind) for kind in ("poisson", "gamma:4"))
    tight = Question(BEAM, gpus=4, gpus_per_node=2)
    return [
        *(Cell("quick", question, names) for question in asked),
        Cell("quick", tight, ("scepsy", *systems_of(("ablation",)))),
        *(Cell("quick", question, ("scepsy", "aegaeon")) for question in changed),
    ]


def _ablation() -> list[Cell]:
    """16 GPUs, and two nodes of two GPUs, where five LLMs must share."""
    names = ("scepsy", *systems_of(("ablation",)))
    sizes = ((16, 8), (4, 2))
    return [
        Cell("ablation", Question(w, gpus=gpus, gpus_per_node=node), names) for gpus, node in sizes for w in (RAG, BEAM, BOTH)
    ]


def _real(plan: Plan) -> list[Cell]:
    """Real traces, where the folder is known: hosted models are played by open ones, so 16 GPUs."""
    return [
        Cell("real", Question((f"real:{name}",)), LONG_CONTEXTS.get(name, RIVALS))
        for name in REAL
        if data_folder() and (name not in LONGEST or plan.name == "long")
    ]


def _large() -> list[Cell]:
    """Clusters on which only plans are compared: engines and autoscalers are interpreted, and too slow there."""
    names = systems_of(STATIC_GROUPS, (*JUDGED, "scepsy-exact", "proportional", "independent-by-rate"))
    return [Cell("large", Question(BOTH, gpus=gpus), names) for gpus in (128, 1024)]


def _arrivals() -> list[Cell]:
    kinds = ("gamma:2", "gamma:4", *(("azure",) if data_folder() else ()))
    return [Cell("arrivals", Question(w, gpus=8, arrivals=kind), RIVALS) for kind in kinds for w in (RAG, BEAM)]


def _tokens() -> list[Cell]:
    """Answers half and twice as long, known to every planner."""
    return [
        Cell("tokens", Question(w, gpus=8, planned_on=f"drift:{x}", measured_on=f"drift:{x}"), RIVALS)
        for x in (0.5, 2.0)
        for w in (RAG, BEAM)
    ]


def _models() -> list[Cell]:
    """Generators of other sizes."""
    played = ((RAG, "llama-2-7b", "llama-2-13b"), (BEAM, "llama-3.2-1b", "llama-3.2-3b"))
    return [Cell("models", Question(w, gpus=8, models=((name, other),)), RIVALS) for w, name, other in played]


def options_of(system: str, question: Question, plan: Plan) -> list[Option]:
    """The options of a system that a plan tries: all of them, or ``most_options`` spread over their list."""
    every = SYSTEMS[system].options(catalogue.cluster_of(question.gpus, question.gpu_type, question.gpus_per_node))
    count = len(every)
    if count <= plan.most_options:
        return list(every)
    if plan.most_options == 1:
        return [every[0]]
    return [every[round(n * (count - 1) / (plan.most_options - 1))] for n in range(plan.most_options)]
