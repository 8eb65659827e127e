"""Step-level beam search guided by a process reward model (PRM).

Each round extends the kept path by ``WIDTH`` candidate steps and scores every candidate with one forward pass of
the PRM over the prompt and all steps so far; the best one is kept. All candidates of a round share their whole prompt,
and each round's prompt continues the last one's, so nearly everything but the newest step is cached.
"""

from scepsy.generate.builder import Prompt, RunBuilder, instructions, lognormal
from scepsy.generate.spec import Role, WorkflowSpec

WIDTH = 4
MAX_DEPTH = 40

STEP_MEDIAN, STEP_SIGMA = 38, 0.652
"""Log-normal with mean 47, p50 38, p95 110: exp(sigma²/2) = 47/38."""

ROUNDS_MEDIAN, ROUNDS_SIGMA, ROUNDS_MAX = 5.53, 0.54, 29
"""Log-normal, rounded, with mean 6.3, CV 0.57, p95 13, max 29."""

EARLIEST_LEAVE = 0.52
"""A finished beam leaves at a uniform part of the search between this and 1: 4 · 0.82 beams on average, which with
47 tokens a step and 6.3 rounds gives the 970-985 generator tokens per question that were measured."""

EXPANSIONS_MEDIAN, EXPANSIONS_SIGMA, EXPANSIONS_RANGE = 40, 0.9, (6, 211)

_PROMPT = ("prompt of 400 tokens: 256 of instructions shared by all runs, the question 144 on average (log-normal): assumed",)


def _step_tokens(b: RunBuilder) -> int:
    return lognormal(b.rng, STEP_MEDIAN, STEP_SIGMA, 2, 512)


def _prompt(b: RunBuilder) -> Prompt:
    return instructions("beam/instructions", 256), b.text("question", lognormal(b.rng, 135, 0.36, 30, 500))


def _round(b: RunBuilder, number: int, path: Prompt, width: int, scores: list[str]) -> tuple[Prompt, list[str]]:
    """Extend ``path`` by ``width`` candidates, then score them together: the path with the best one, and the scoring calls."""
    steps = [f"step-{number}-{beam}" for beam in range(width)]
    candidates = [b.call(step, "generator", path, _step_tokens(b), after=scores) for step in steps]
    for beam, candidate in enumerate(candidates):
        b.call(f"score-{number}-{beam}", "prm", (*path, candidate), after=steps)
    best = int(b.rng.integers(width))
    return (*path, candidates[best]), [f"score-{number}-{beam}" for beam in range(width)]


def _beam_search(b: RunBuilder) -> None:
    rounds = lognormal(b.rng, ROUNDS_MEDIAN, ROUNDS_SIGMA, 1, ROUNDS_MAX)
    stays = sorted(b.rng.uniform(EARLIEST_LEAVE, 1.0, WIDTH - 1) * rounds)
    path = _prompt(b)
    scores: list[str] = []
    for number in range(rounds):
        width = 1 + sum(number + 0.5 < stay for stay in stays)
        path, scores = _round(b, number, path, width, scores)


def _beam_search_paper(b: RunBuilder) -> None:
    expansions = lognormal(b.rng, EXPANSIONS_MEDIAN, EXPANSIONS_SIGMA, *EXPANSIONS_RANGE)
    prompt = _prompt(b)
    path = prompt
    scores: list[str] = []
    for number in range(expansions):
        if len(path) - len(prompt) >= MAX_DEPTH:
            path = path[: len(prompt) + int(b.rng.integers(MAX_DEPTH))]
        path, scores = _round(b, number, path, WIDTH, scores)


WORKFLOWS = (
    WorkflowSpec(
        name="beam-search",
        summary="beam search with a PRM, width 4: 6.3 rounds of step generation and scoring",
        roles={"generator": Role("llama-3.2-1b"), "prm": Role("prm-8b", "rerank")},
        build=_beam_search,
        sources=(
            "structure, at most 40 steps, finished beams leave, models: search-and-learn's published code",
            "steps of 47 tokens (p50 38, p95 110), rounds mean 6.3, CV 0.55-0.60, p95 13, max 29, 970-985 generator tokens "
            "per question: OpenR run logs on MATH, width 4",
        ),
        assumptions=(
            *_PROMPT,
            "one path is kept and expanded 4 ways (n/m = 1); beams leave between 52 % and 100 % of the rounds (fitted)",
        ),
    ),
    WorkflowSpec(
        name="beam-search-paper",
        summary="beam search as the paper describes its load: 24-844 generator calls per request",
        roles={"generator": Role("qwen2.5-7b"), "prm": Role("prm-7b", "rerank")},
        build=_beam_search_paper,
        sources=("24-844 generator calls per request: second-hand description of the paper's load",),
        assumptions=(
            *_PROMPT,
            "expansions log-normal with median 40 and sigma 0.9, redrawn outside 6-211, 4 calls each, one after the other",
            "steps as measured for width 4 (mean 47 tokens); paths of at most 40 steps, then back to a random earlier step",
        ),
    ),
)
