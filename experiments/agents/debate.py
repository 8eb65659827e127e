"""Debate: agents answer, read each other, answer again; a judge sums up."""

import asyncio

from experiments.agents.common import Job, chat, draw, sentence

ROLES = {"debater": "generate", "judge": "generate"}

AGENTS, ROUNDS = 3, 2


async def program(job: Job) -> str:
    """Three agents, two rounds with full exchange, one judge."""
    rng = job.rng("debate")
    async with job.client() as client:
        question = sentence(rng, draw(rng, 8, 16))
        answers = [""] * AGENTS
        for _ in range(ROUNDS):
            lengths = [draw(rng, 12, 36) for _ in range(AGENTS)]

            async def speak(agent: int, others: list[str], length: int) -> str:
                heard = "\n".join(
                    f"Agent {number} said: {text}" for number, text in enumerate(others) if text and number != agent
                )
                messages = [
                    {"role": "system", "content": f"You are agent {agent} of {AGENTS}."},
                    {"role": "user", "content": f"{question}\n{heard}"},
                ]
                return await chat(client, job.models["debater"], messages, length)

            before = list(answers)
            answers = await asyncio.gather(*(speak(agent, before, lengths[agent]) for agent in range(AGENTS)))
        summary = [{"role": "user", "content": f"{question}\n" + "\n".join(answers) + "\nWho is right?"}]
        return await chat(client, job.models["judge"], summary, draw(rng, 16, 40))
