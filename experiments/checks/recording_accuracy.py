"""How well are dependencies inferred from a recording? Programs whose dependencies are known, recorded and imported again.

``python -m experiments.checks.recording_accuracy`` lets programs run against the recorder in simulated time, 5 to 20 runs at
once, with and without a run id in the header, and passes texts on in several styles. It compares the edges of the imported
trace with the true ones (both transitively reduced). Nothing is measured but counts, so the same numbers come on every machine.
"""

import json
import tempfile
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import networkx as nx
import numpy as np
import pandas as pd
import simpy
import typer

from executor.recording.config import Recording
from executor.recording.recorder import Recorder
from executor.wire.body import read_body
from executor.wire.stream import Output
from experiments.code_version import stamped
from scepsy.importers.recorded.reader import load_recording
from scepsy.importers.recorded.trace import edges_of
from scepsy.rng import stream

RESULTS = Path("experiments/results/recording_accuracy.csv")

STYLES = ("verbatim", "json", "cut", "summarised")
"""How a program passes a text on: as it is, inside JSON inside the prompt, its first 40 %, a third of its sentences."""

Steps = Generator[simpy.Event, Any, Any]


class Answer(NamedTuple):
    """What a call said, and its id."""

    call: str
    text: str
    tool: str = ""


@dataclass
class ProgramWorld:
    """One recording: simulated time, the recorder, and what really waited for what."""

    env: simpy.Environment
    recorder: Recorder
    rng: np.random.Generator
    style: str
    header: bool
    after: dict[str, tuple[str, ...]] = field(default_factory=dict)
    run_of: dict[str, str] = field(default_factory=dict)

    def text(self, sentences: int) -> str:
        """So many sentences that nobody else says."""
        return " ".join(_sentence(self.rng) for _ in range(sentences))

    def pass_on(self, text: str) -> str:
        """``text`` as the style has it."""
        sentences = text.split(". ")
        if self.style == "cut":
            return text[: int(0.4 * len(text))] + "…"
        if self.style == "summarised":
            return ". ".join(sentences[::3])
        if self.style == "json":
            return json.dumps({"role": "worker", "answer": text + '\n"quoted"', "score": 0.5})
        return text

    def call(
        self, run: str, llm: str, messages: list[dict[str, Any]], after: Iterable[Answer], *, sentences: int = 6,
        says: str | None = None, tool: bool = False, endpoint: str = "chat/completions",
    ) -> Generator[simpy.Event, Any, Answer]:  # fmt: skip
        """One call to an LLM; how long it takes depends on what it says."""
        document = {"model": llm, "messages": messages} if endpoint == "chat/completions" else {"model": llm, **messages[0]}
        data = msgspec.json.encode(document)
        headers = {"x-scepsy-run": run} if self.header else {}
        opened = self.recorder.begin(endpoint, headers, read_body(data), "", "", "", data)
        self.recorder.see_input(opened)
        said = self.text(sentences) if says is None else says
        yield self.env.timeout(float(self.rng.uniform(0.8, 1.2)) * (0.15 + len(said) / 400))
        tools = (
            [{"id": f"call_{opened.id}", "type": "function", "function": {"name": "f", "arguments": "{}"}}] if tool else None
        )
        message = {"role": "assistant", "content": said, **({"tool_calls": tools} if tools else {})}
        output = Output()
        usage = {"prompt_tokens": max(1, len(data) // 4), "completion_tokens": max(1, len(said) // 4)}
        reply: dict[str, Any] = {"usage": usage}
        if endpoint == "chat/completions":
            reply["choices"] = [{"index": 0, "message": message}]
        output.read(msgspec.json.encode(reply))
        self.recorder.end(opened, outcome="completed", output=output)
        self.after[opened.id] = tuple(answer.call for answer in after)
        self.run_of[opened.id] = run
        return Answer(opened.id, said, f"call_{opened.id}")

    def together(self, steps: Iterable[Steps]) -> Generator[simpy.Event, Any, list[Any]]:
        """Several at once; their results in order."""
        tasks = [self.env.process(each) for each in steps]
        yield self.env.all_of(tasks)
        return [task.value for task in tasks]


_SYLLABLES = [a + b for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "er", "is", "ol", "um")]
_VOCABULARY = stream(0, "recording_accuracy", "words")
WORDS = ["".join(_VOCABULARY.choice(_SYLLABLES, _VOCABULARY.integers(1, 4))) for _ in range(3000)]
_WEIGHTS = 1 / np.arange(3, 3003)
_WEIGHTS /= _WEIGHTS.sum()
"""Zipf's law: a few words are everywhere, as in any language."""


def _sentence(rng: np.random.Generator) -> str:
    words = rng.choice(WORDS, int(rng.integers(7, 16)), p=_WEIGHTS)
    return " ".join(words).capitalize() + "."


def user(text: str) -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, Any]:
    """A system message, the same in every run."""
    return {"role": "system", "content": text}


def asked(tool_call: str) -> dict[str, Any]:
    """A tool call."""
    return {"id": tool_call, "type": "function", "function": {"name": "f", "arguments": "{}"}}


def map_reduce(world: ProgramWorld, run: str) -> Steps:
    """Chunks of a document summarised side by side, then together."""
    chunks = [world.text(8) for _ in range(int(world.rng.integers(3, 8)))]
    task = "You summarise documents for busy readers. Keep names and numbers. Be brief.\n\nDocument:\n"
    parts = yield from world.together(world.call(run, "small", [user(task + chunk)], ()) for chunk in chunks)
    yield world.env.timeout(0.01)
    joined = "\n\n".join(f"Part {n}: {world.pass_on(part.text)}" for n, part in enumerate(parts))
    yield from world.call(run, "large", [system("Combine the summaries into one."), user(joined)], parts)


def debate(world: ProgramWorld, run: str) -> Steps:
    """Three debaters in three rounds, each reading the others; then a judge."""
    question = world.text(1)
    said: list[Answer] = []
    for _ in range(3):
        prompts = []
        for which in range(3):
            others = "\n".join(f"Debater {n} said: {world.pass_on(a.text)}" for n, a in enumerate(said) if n != which)
            own = f"You said: {said[which].text}\n" if said else ""
            prompts.append([system("You debate. Argue well and answer the others."), user(f"{question}\n{own}{others}")])
        said = yield from world.together(world.call(run, "small", prompt, said) for prompt in prompts)
        yield world.env.timeout(0.005)
    joined = "\n".join(f"Debater {n}: {world.pass_on(answer.text)}" for n, answer in enumerate(said))
    yield from world.call(run, "large", [system("You judge debates."), user(f"{question}\n{joined}")], said, sentences=2)


def tool_loop(world: ProgramWorld, run: str, task: str | None = None, after: tuple[Answer, ...] = ()) -> Steps:
    """A conversation that grows: an answer asks for a tool, whose result comes back."""
    messages = [system("You are an assistant with tools. Think, then act."), user(task or world.text(2))]
    before = after
    for _ in range(int(world.rng.integers(2, 6))):
        answer = yield from world.call(run, "large", messages, before, sentences=2, tool=True)
        before = (answer,)
        yield world.env.timeout(float(world.rng.exponential(0.3)))
        said: dict[str, Any] = {"role": "assistant", "content": answer.text}
        said["tool_calls"] = [asked(answer.tool)]
        messages = [*messages, said, {"role": "tool", "tool_call_id": answer.tool, "content": world.pass_on(world.text(3))}]
    answer = yield from world.call(run, "large", messages, before, sentences=3)
    return answer


def sub_agents(world: ProgramWorld, run: str) -> Steps:
    """A planner hands tasks to agents with tools of their own, side by side, and puts their answers together."""
    question = world.text(2)
    tasks = [world.text(2) for _ in range(3)]
    plan = yield from world.call(
        run, "large", [system("You plan."), user(question)], (), says=json.dumps({"tasks": tasks}), tool=True
    )
    yield world.env.timeout(0.01)
    answers = yield from world.together(tool_loop(world, run, f"Your task: {world.pass_on(task)}", (plan,)) for task in tasks)
    results = "\n".join(world.pass_on(answer.text) for answer in answers)
    messages = [system("You plan."), user(question), {"role": "assistant", "content": plan.text}, user(f"Results:\n{results}")]
    yield from world.call(run, "large", messages, answers)


def rag(world: ProgramWorld, run: str) -> Steps:
    """A question rewritten, documents of one collection for all runs reranked, the best of them read."""
    question = world.text(1)
    query = yield from world.call(run, "small", [system("Rewrite the question as a query."), user(question)], (), sentences=1)
    yield world.env.timeout(float(world.rng.uniform(0.02, 0.08)))
    chosen = world.rng.choice(len(DOCUMENTS), 6, replace=False)
    documents = [DOCUMENTS[which] for which in chosen]
    body = {"query": world.pass_on(query.text), "documents": documents}
    scores = yield from world.call(run, "ranker", [body], (query,), says="", endpoint="rerank")
    yield world.env.timeout(0.005)
    best = "\n\n".join(documents[:3])
    prompt = f"Answer from the passages.\n\n{best}\n\nQuestion: {question}"
    yield from world.call(run, "large", [user(prompt)], (scores,), sentences=4)


def branches(world: ProgramWorld, run: str) -> Steps:
    """A router says one word, an expert answers, sometimes a reviewer reads the answer."""
    question = world.text(2)
    which = str(world.rng.choice(["billing", "technical", "other"]))
    route = yield from world.call(run, "small", [system("Say billing, technical or other."), user(question)], (), says=which)
    yield world.env.timeout(0.005)
    expert = [system(f"You are the expert for {which} questions. Be helpful and precise."), user(question)]
    answer = yield from world.call(run, "large", expert, (route,))
    if which != "other":
        yield world.env.timeout(0.005)
        review = f"Review this answer.\nQuestion: {question}\nAnswer: {world.pass_on(answer.text)}"
        yield from world.call(run, "small", [user(review)], (answer,), sentences=2)


DOCUMENTS = [" ".join(_sentence(_VOCABULARY) for _ in range(5)) for _ in range(60)]
"""Forty runs read of these, so that runs share documents."""

PROGRAMS: dict[str, Callable[[ProgramWorld, str], Steps]] = {
    "map-reduce": map_reduce, "debate": debate, "tool-loop": tool_loop, "sub-agents": sub_agents, "rag": rag,
    "branches": branches,
}  # fmt: skip


class Score(NamedTuple):
    """Edges of one recording."""

    inferred: int
    true: int
    right: int
    runs_found: int
    calls: int


def play(
    programs: list[str], style: str, *, header: bool, in_flight: int, runs: int, seed: int, isolated: bool = False
) -> tuple[ProgramWorld, Path]:
    """Record ``runs`` runs, about ``in_flight`` at once; the world, and the recording's file."""
    folder = Path(tempfile.mkdtemp(prefix="recording-accuracy-"))
    env = simpy.Environment()
    recorder = Recorder(
        Recording(path="calls.jsonl", isolated=isolated), folder, clock=lambda: 1000.0 + env.now, secret=b"%d" % seed
    )
    world = ProgramWorld(env, recorder, stream(seed, *programs, style), style, header)

    def user_of(which: int) -> Steps:
        """One after another, with pauses, so that about ``in_flight`` are on their way."""
        yield env.timeout(float(world.rng.uniform(0, 5)))
        for number in range(which, runs, in_flight):
            yield env.process(PROGRAMS[programs[number % len(programs)]](world, f"run-{number}"))
            yield env.timeout(float(world.rng.exponential(0.5)))

    for which in range(in_flight):
        env.process(user_of(which))
    env.run()
    recorder.close()
    return world, folder / "calls.jsonl"


def score(world: ProgramWorld, path: Path) -> Score:
    """Compare what an import infers with what was so."""
    truth: nx.DiGraph[str] = nx.DiGraph()
    truth.add_nodes_from(world.after)
    truth.add_edges_from((parent, child) for child, parents in world.after.items() for parent in parents)
    true = set(nx.transitive_reduction(truth).edges)
    calls = load_recording(path).calls
    by_run = edges_of(calls)
    inferred = {(edge.parent, edge.child) for edges in by_run.values() for edge in edges}
    return Score(len(inferred), len(true), len(inferred & true), len(by_run), len(calls))


def table(runs: int, seeds: Iterable[int], flights: Iterable[int] = (5, 20)) -> pd.DataFrame:
    """One row for each program (and all of them mixed), style, way of naming runs, and runs in flight."""
    rows = []
    for name in (*PROGRAMS, "mixed"):
        programs = list(PROGRAMS) if name == "mixed" else [name]
        for style in STYLES:
            for header in (True, False):
                for in_flight in flights:
                    found = [
                        score(*play(programs, style, header=header, in_flight=in_flight, runs=runs, seed=seed))
                        for seed in seeds
                    ]
                    right, inferred, true = (sum(getattr(one, key) for one in found) for key in ("right", "inferred", "true"))
                    rows.append({
                        "program": name, "style": style, "run_id": "header" if header else "none", "in_flight": in_flight,
                        "runs": runs * len(found), "calls": sum(one.calls for one in found), "true_edges": true,
                        "precision": round(right / max(1, inferred), 3), "recall": round(right / max(1, true), 3),
                        "runs_found": sum(one.runs_found for one in found),
                    })  # fmt: skip
    return pd.DataFrame(rows)


def main(
    runs: Annotated[int, typer.Option(min=1, help="Runs per recording.")] = 40,
    seeds: Annotated[int, typer.Option(min=1, help="Recordings per row.")] = 2,
    first_seed: Annotated[int, typer.Option(help="0 to 3 were looked at when the thresholds were chosen.")] = 10,
    output: Annotated[Path, typer.Option("-o", help="Where the table is kept.")] = RESULTS,
) -> None:
    """Make the table of precision and recall per program and style."""
    found = table(runs, range(first_seed, first_seed + seeds))
    output.parent.mkdir(parents=True, exist_ok=True)
    stamped(found).to_csv(output, index=False)
    print(found.to_string(index=False))


if __name__ == "__main__":
    typer.run(main)
