"""Several agents on one question: debate, map-reduce, reflection, a trading desk. Two model sizes each."""

from scepsy.generate.builder import Prompt, RunBuilder, Segment, instructions, integer, lognormal, lognormal_s
from scepsy.generate.spec import Role, WorkflowSpec

_SOURCE = ("structure and at most 512 output tokens: Helium's published workloads",)
_OUTPUT = "answers log-normal with median 220 and sigma 0.6, at most 512 tokens: assumed"
_SIZES = {"small": Role("llama-3.2-3b"), "large": Role("llama-3.1-8b")}


def _output(b: RunBuilder) -> int:
    return lognormal(b.rng, 220, 0.6, 16, 512)


def _ask(b: RunBuilder, name: str, role: str, prompt: Prompt, after: list[str], gap_s: float = 0.0) -> Segment:
    return b.call(name, role, prompt, _output(b), after=after, gap_s=gap_s)


def _debate(b: RunBuilder, agents: int = 3, rounds: int = 2) -> None:
    question = b.text("question", lognormal(b.rng, 150, 0.5, 20, 800))
    sizes = ["large", *["small"] * (agents - 1)]
    talks: list[Prompt] = [(instructions(f"debate/agent-{a}", 96), question) for a in range(agents)]
    before: list[str] = []
    for number in range(rounds):
        names = [f"agent-{a}-round-{number}" for a in range(agents)]
        answers = [_ask(b, name, sizes[a], talks[a], before) for a, name in enumerate(names)]
        # A conversation continues with the agent's own answer, then with what the others said.
        talks = [(*talks[a], answers[a], *(answers[o] for o in range(agents) if o != a)) for a in range(agents)]
        before = names


def _map_reduce(b: RunBuilder, experts: int) -> None:
    document = (instructions("map-reduce/task", 64), b.text("document", lognormal(b.rng, 1200, 0.5, 200, 6000)))
    names = [f"expert-{e}" for e in range(experts)]
    views = [_ask(b, name, "expert", (*document, instructions(f"{name}/view", 32)), []) for name in names]
    _ask(b, "summary", "summariser", (instructions("map-reduce/summary", 64), *views), names)


def _reflection(b: RunBuilder) -> None:
    task = b.text("task", lognormal(b.rng, 300, 0.5, 40, 1500))
    writer = (instructions("reflection/writer", 96), task)
    draft = _ask(b, "draft", "writer", writer, [])
    critics = [
        _ask(
            b,
            f"critic-{c}",
            "critic",
            (instructions("reflection/critic", 96), task, draft, instructions(f"criterion-{c}", 32)),
            ["draft"],
        )
        for c in range(2)
    ]
    _ask(b, "refine", "writer", (*writer, draft, *critics), ["critic-0", "critic-1"])


CHAINS, RISK_ROUNDS, FETCH_MEDIAN_S = 8, 3, 0.5


def _trading_desk(b: RunBuilder) -> None:
    """4 analysts, bull and bear and their manager, 8 chains of a trader and 3 x 3 risk turns, 1 manager: 88 calls."""
    ticker = b.text("ticker", integer(b.rng, 30, 80))
    analysts = [f"analyst-{a}" for a in range(4)]
    reports = tuple(
        _ask(
            b,
            name,
            "small",
            (instructions(f"desk/{name}", 160), ticker, b.text(f"feed-{name}", integer(b.rng, 400, 1200))),
            [],
            lognormal_s(b.rng, FETCH_MEDIAN_S, 0.6),
        )
        for name in analysts
    )
    bull = _ask(b, "bull", "large", (instructions("desk/bull", 128), *reports), analysts)
    bear = _ask(b, "bear", "large", (instructions("desk/bear", 128), *reports, bull), ["bull"])
    thesis = _ask(b, "research-manager", "large", (instructions("desk/research-manager", 128), bull, bear), ["bear"])
    ends, plans = [], []
    for chain in range(CHAINS):
        plan = _ask(
            b,
            f"trader-{chain}",
            "small",
            (instructions("desk/trader", 128), thesis, instructions(f"style-{chain}", 24)),
            ["research-manager"],
        )
        talk: Prompt = (instructions("desk/risk", 128), plan)
        last = f"trader-{chain}"
        for turn in range(RISK_ROUNDS):
            for voice in ("risky", "neutral", "safe"):
                name = f"{voice}-{chain}-{turn}"
                talk = (*talk, _ask(b, name, "small", talk, [last]))
                last = name
        ends.append(last)
        plans += [plan, talk[-1]]
    _ask(b, "manager", "large", (instructions("desk/manager", 128), thesis, *plans), ends)


WORKFLOWS = (
    WorkflowSpec(
        name="debate",
        summary="3 agents x 2 rounds, every agent reads every answer",
        roles=_SIZES,
        build=_debate,
        sources=_SOURCE,
        assumptions=(
            _OUTPUT,
            "question with a median of 150 tokens: assumed",
            "one agent of the large size, two of the small: assumed",
        ),
    ),
    WorkflowSpec(
        name="map-reduce",
        summary="14 experts read one document in parallel, one summariser",
        roles={"expert": _SIZES["small"], "summariser": _SIZES["large"]},
        build=lambda b: _map_reduce(b, 14),
        sources=_SOURCE,
        assumptions=(
            _OUTPUT,
            "document with a median of 1200 tokens (log-normal, sigma 0.5), read before the expert's view: assumed",
        ),
    ),
    WorkflowSpec(
        name="map-reduce-7",
        summary="7 experts read one document in parallel, one summariser",
        roles={"expert": _SIZES["small"], "summariser": _SIZES["large"]},
        build=lambda b: _map_reduce(b, 7),
        sources=_SOURCE,
        assumptions=(
            _OUTPUT,
            "document with a median of 1200 tokens (log-normal, sigma 0.5), read before the expert's view: assumed",
        ),
    ),
    WorkflowSpec(
        name="reflection",
        summary="draft, 2 critics in parallel, refine",
        roles={"writer": _SIZES["large"], "critic": _SIZES["small"]},
        build=_reflection,
        sources=_SOURCE,
        assumptions=(_OUTPUT, "task with a median of 300 tokens: assumed"),
    ),
    WorkflowSpec(
        name="trading-desk",
        summary="4 analysts, a debate, 8 chains of trader and risk debate, a manager: 19 agents, 88 calls",
        roles=_SIZES,
        build=_trading_desk,
        sources=_SOURCE,
        assumptions=(
            _OUTPUT,
            "88 calls split as 4 + 3 + 8 x (1 + 3 x 3) + 1, the split that gives 19 agents: assumed",
            f"market data takes {FETCH_MEDIAN_S} s (median) and 400-1200 tokens: assumed",
        ),
    ),
)
