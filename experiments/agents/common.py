"""What the programs share: a client per run, seeded decisions, and text to work on."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from openai import AsyncOpenAI

from scepsy.rng import stream

_WORDS = re.findall(
    r"\w+",
    """river stone market engine harbour winter signal copper valley bridge letter garden mountain circuit ocean paper window
    forest number island metal station silver field mirror candle border animal season theory memory history language""",
)


@dataclass(frozen=True)
class Job:
    """One run of a program."""

    base_url: str
    """OpenAI-compatible, ending in /v1; the run may be named in its path (``…/run/<id>/v1``)."""
    models: Mapping[str, str]
    """Role → model name."""
    seed: int
    index: int
    api_key: str = "none"

    def client(self) -> AsyncOpenAI:
        """A client as anybody would make it; retries are off, since a recording should show each call once."""
        return AsyncOpenAI(base_url=self.base_url, api_key=self.api_key, max_retries=0, timeout=600)

    def rng(self, *names: str) -> np.random.Generator:
        """This run's decisions."""
        return stream(self.seed, "agent", self.index, *names)


Program = Callable[[Job], Awaitable[str]]


def sentence(rng: np.random.Generator, words: int) -> str:
    """A sentence of common words."""
    return " ".join(_WORDS[index] for index in rng.integers(len(_WORDS), size=words)) + "."


def passages(seed: int, count: int, words: int = 12) -> list[str]:
    """The corpus that all runs search."""
    rng = stream(seed, "corpus")
    return [sentence(rng, words) for _ in range(count)]


def draw(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number from low to high."""
    return int(rng.integers(low, high + 1))


async def chat(client: AsyncOpenAI, model: str, messages: list[dict[str, str]], max_tokens: int, **extra: Any) -> str:
    """One chat call, streamed as most programs do; the whole answer."""
    parts = []
    plain: Any = messages  # dicts, as in every example
    answer: Any = await client.chat.completions.create(
        model=model,
        messages=plain,
        max_tokens=max_tokens,
        stream=True,
        **extra,
    )
    async for chunk in answer:
        if chunk.choices and chunk.choices[0].delta.content:
            parts.append(chunk.choices[0].delta.content)
    return "".join(parts)


async def rerank(client: AsyncOpenAI, model: str, query: str, documents: list[str]) -> list[int]:
    """Places of the documents, best first (the /rerank that vLLM, Cohere and Jina share)."""
    body = {"model": model, "query": query, "documents": documents}
    reply: Any = await client.post("/rerank", body=body, cast_to=object)
    return [int(row["index"]) for row in sorted(reply["results"], key=lambda row: -row["relevance_score"])]


async def scores(client: AsyncOpenAI, model: str, query: str, texts: list[str]) -> list[float]:
    """A score per text."""
    body = {"model": model, "text_1": query, "text_2": texts}
    reply: Any = await client.post("/score", body=body, cast_to=object)
    return [float(row["score"]) for row in reply["data"]]
