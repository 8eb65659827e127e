"""Retrieval-augmented generation: rewrite the question, search, rerank, answer from the best passages."""

import asyncio

from experiments.agents.common import Job, chat, draw, passages, rerank, sentence

ROLES = {"rewriter": "generate", "reranker": "rerank", "generator": "generate"}

SEARCH_S = 0.02
"""The vector search: no index is worth having for made-up passages, so its time is slept."""


async def program(job: Job) -> str:
    """A small model rewrites the question; 8 passages are found and reranked; a larger model answers from 3."""
    rng = job.rng("rag")
    async with job.client() as client:
        question = sentence(rng, draw(rng, 6, 12)) + " Why?"
        ask = [{"role": "user", "content": f"Rewrite for a search engine: {question}"}]
        rewritten = await chat(client, job.models["rewriter"], ask, draw(rng, 8, 24))
        await asyncio.sleep(SEARCH_S)
        corpus = passages(job.seed, 200)
        found = [corpus[index] for index in rng.choice(len(corpus), size=8, replace=False)]
        order = await rerank(client, job.models["reranker"], f"{question} {rewritten}", found)
        context = "\n".join(found[index] for index in order[:3])
        messages = [
            {"role": "system", "content": "Answer from the passages only."},
            {"role": "user", "content": f"{context}\n\nQuestion: {question}"},
        ]
        return await chat(client, job.models["generator"], messages, draw(rng, 12, 40))
