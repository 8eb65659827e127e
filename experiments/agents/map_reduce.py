"""Map-reduce in LangGraph: experts work on parts in parallel, one summariser joins them."""

import operator
from typing import Annotated, Any, TypedDict

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from pydantic import SecretStr

from experiments.agents.common import Job, draw, sentence

ROLES = {"expert": "generate", "summariser": "generate"}

PARTS = 4


class State(TypedDict):
    """The graph's state: each expert adds its note."""

    task: str
    notes: Annotated[list[str], operator.add]
    summary: str


class Part(TypedDict):
    """What one expert gets."""

    text: str
    length: int


def _model(job: Job, role: str, length: int) -> ChatOpenAI:
    settings: dict[str, Any] = {"max_tokens": length}
    return ChatOpenAI(
        base_url=job.base_url, api_key=SecretStr(job.api_key), model=job.models[role], max_retries=0,
        **settings,
    )  # fmt: skip


def graph(job: Job) -> Any:
    """The compiled graph of one run."""
    rng = job.rng("map-reduce")
    parts = [Part(text=sentence(rng, draw(rng, 10, 24)), length=draw(rng, 10, 30)) for _ in range(PARTS)]
    last = draw(rng, 20, 40)

    def split(state: State) -> list[Send]:
        return [Send("expert", part) for part in parts]

    async def expert(part: Part) -> dict[str, list[str]]:
        reply = await _model(job, "expert", part["length"]).ainvoke(f"Comment on: {part['text']}")
        return {"notes": [str(reply.content)]}

    async def summarise(state: State) -> dict[str, str]:
        notes = "\n".join(state["notes"])
        reply = await _model(job, "summariser", last).ainvoke(f"{state['task']}\n{notes}")
        return {"summary": str(reply.content)}

    builder: Any = StateGraph(State)
    builder.add_node("expert", expert)  # takes a part, which Send hands over
    builder.add_node("summarise", summarise)
    builder.add_conditional_edges(START, split, ["expert"])
    builder.add_edge("expert", "summarise")
    builder.add_edge("summarise", END)
    return builder.compile()


async def program(job: Job) -> str:
    """Four experts, one summariser."""
    done = await graph(job).ainvoke({"task": "Join the comments.", "notes": [], "summary": ""})
    return str(done["summary"])
