"""Text-to-SQL in the manner of CHESS: retrieve, propose, revise, test, evaluate."""

from scepsy.generate.builder import Prompt, RunBuilder, instructions, integer, lognormal, lognormal_s
from scepsy.generate.spec import Role, WorkflowSpec

KEYWORDS_PROBABILITY = 0.8
REVISIONS_MAX = 10
REVISE_AGAIN = 0.7876
"""Probability of one more revision: a geometric number, redrawn above the limit, then has mean 2.85."""

EVALUATIONS_MAX, EVALUATIONS_PROBABILITY = 7, 0.7
EXECUTE_MEDIAN_S = 0.2


def _text_to_sql(b: RunBuilder) -> None:
    question = b.text("question", lognormal(b.rng, 40, 0.4, 10, 120))
    start: list[str] = []
    if b.rng.random() < KEYWORDS_PROBABILITY:
        b.call("keywords", "strong", (instructions("sql/keywords", 635), question), lognormal(b.rng, 46, 0.3, 10, 150))
        start = ["keywords"]
    retrievers = [f"retriever-{i}" for i in range(4)]
    for name in retrievers:
        prompt: Prompt = (instructions("sql/retriever", 237), question, b.text(f"column-{name}", 26))
        b.call(name, "small", prompt, lognormal(b.rng, 7, 0.3, 2, 30), after=start)
    schema = b.text("schema", integer(b.rng, 9600, 11600))
    candidates = [f"candidate-{i}" for i in range(2)]
    queries = [
        b.call(
            name, "strong", (instructions("sql/candidate", 360), schema, question), integer(b.rng, 590, 740), after=retrievers
        )
        for name in candidates
    ]
    # Each revision sees what executing the query said, so they follow one another.
    before, query = candidates, queries[0]
    for number in range(_revisions(b)):
        prompt = (
            instructions("sql/revise", 512),
            b.text("schema-cut", 5600),
            question,
            query,
            b.text(f"error-{number}", integer(b.rng, 30, 400)),
        )
        query = b.call(
            name := f"revision-{number}", "strong", prompt, integer(b.rng, 82, 188), after=before, gap_s=_execute_s(b)
        )
        before = [name]
    tests = b.call(
        "test-generator",
        "strong",
        (instructions("sql/tests", 793), question, query),
        lognormal(b.rng, 97, 0.25, 30, 300),
        after=before,
    )
    testers = [f"tester-{i}" for i in range(3)]
    for name in testers:
        b.call(
            name,
            "small",
            (instructions("sql/tester", 128), question, b.text(f"{name}-case", 105)),
            lognormal(b.rng, 5, 0.3, 1, 20),
            after=["test-generator"],
        )
    for number in range(int(b.rng.binomial(EVALUATIONS_MAX, EVALUATIONS_PROBABILITY))):
        prompt = (instructions("sql/evaluate", 512), question, tests, b.text(f"result-{number}", integer(b.rng, 250, 650)))
        b.call(f"evaluation-{number}", "strong", prompt, lognormal(b.rng, 29, 0.3, 5, 90), after=testers)


def _revisions(b: RunBuilder) -> int:
    while True:
        number = int(b.rng.geometric(1.0 - REVISE_AGAIN)) - 1
        if number <= REVISIONS_MAX:
            return number


def _execute_s(b: RunBuilder) -> float:
    return lognormal_s(b.rng, EXECUTE_MEDIAN_S, 0.8)


WORKFLOWS = (
    WorkflowSpec(
        name="text-to-sql",
        summary="CHESS: keywords, 4 retrievers, 2 candidates, revisions, tests and evaluations: 10-28 calls",
        roles={"strong": Role("llama-3.1-70b"), "small": Role("llama-3.1-8b")},
        build=_text_to_sql,
        sources=("calls per stage and their token means: HexGen-Flow's published traces of CHESS",),
        assumptions=(
            "revisions geometric with mean 2.85 (published: 0.7-5.0), at most 10; evaluations binomial(7, 0.7): assumed shapes",
            "stages follow one another as in CHESS; evaluations are issued at once: assumed",
            f"executing a query takes {EXECUTE_MEDIAN_S} s (median; log-normal, sigma 0.8): assumed",
        ),
    ),
)
