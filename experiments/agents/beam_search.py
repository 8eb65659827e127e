"""Beam search with a process reward model: expand every beam, score the steps, keep the best, until done."""

import asyncio

from experiments.agents.common import Job, chat, draw, scores, sentence

ROLES = {"generator": "generate", "reward": "rerank"}

WIDTH, KEEP, MOST_STEPS = 4, 2, 5


async def program(job: Job) -> str:
    """Width 4, keep 2; a run ends after a drawn number of steps, as finished beams would leave."""
    rng = job.rng("beam")
    async with job.client() as client:
        problem = sentence(rng, draw(rng, 10, 20))
        beams = [""]
        for _ in range(draw(rng, 2, MOST_STEPS)):
            fan_out = WIDTH // len(beams)
            lengths = [draw(rng, 8, 24) for _ in range(fan_out * len(beams))]

            async def expand(beam: str, length: int) -> str:
                messages = [
                    {"role": "user", "content": problem},
                    {"role": "assistant", "content": beam or "Step 1:"},
                    {"role": "user", "content": "Next step."},
                ]
                return f"{beam} {await chat(client, job.models['generator'], messages, length, temperature=0.8)}"

            starts = [beam for beam in beams for _ in range(fan_out)]
            expanded = await asyncio.gather(*(expand(*each) for each in zip(starts, lengths, strict=True)))
            rated = await asyncio.gather(*(scores(client, job.models["reward"], problem, [beam[-400:]]) for beam in expanded))
            best = sorted(range(len(expanded)), key=lambda index: -rated[index][0])[:KEEP]
            beams = [expanded[index][-600:] for index in best]
        return beams[0]
