"""A tool loop in Pydantic AI: the agent answers, a tool runs, its result goes back, until it is done."""

import asyncio

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

from experiments.agents.common import Job, draw, sentence

ROLES = {"agent": "generate", "checker": "generate"}

MOST_TURNS = 5


RETRIES = 5
"""Pydantic AI asks again when a model says nothing, which random weights often do."""


def _agent(client: AsyncOpenAI, model: str, instructions: str) -> Agent[None, str]:
    provider = OpenAIProvider(openai_client=client)
    return Agent(OpenAIChatModel(model, provider=provider), instructions=instructions, retries=RETRIES)


async def program(job: Job) -> str:
    """One to five tool calls, chosen and timed by draw; the whole conversation is sent each time; a second model checks."""
    rng = job.rng("tools")
    async with job.client() as client:
        agent = _agent(client, job.models["agent"], "Use the tools, then answer.")
        prompt = sentence(rng, draw(rng, 8, 16))
        history: list[ModelMessage] = []
        answer = ""
        for turn in range(draw(rng, 1, MOST_TURNS)):
            settings = ModelSettings(max_tokens=draw(rng, 10, 30))
            reply = await agent.run(prompt, message_history=history, model_settings=settings)
            history, answer = reply.all_messages(), reply.output
            await asyncio.sleep(float(rng.exponential(0.1)))  # the tool
            prompt = f"Tool {draw(rng, 1, 3)} returned in turn {turn}: {sentence(rng, draw(rng, 4, 12))}"
        checker = _agent(client, job.models["checker"], "Say whether the answer holds.")
        verdict = await checker.run(answer or "nothing", model_settings=ModelSettings(max_tokens=draw(rng, 8, 16)))
        return str(verdict.output)
