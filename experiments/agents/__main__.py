"""Run agent programs against a gateway: ``python -m experiments.agents rag --url http://127.0.0.1:8080 --runs 20 …``."""

import asyncio
import importlib
import json
from types import ModuleType
from typing import Annotated

import typer

from experiments.agents.common import Job
from scepsy.errors import BackendError, InputError
from scepsy.rng import stream

PROGRAMS = {
    "rag": "rag",
    "beam-search": "beam_search",
    "debate": "debate",
    "map-reduce": "map_reduce",
    "tool-loop": "tool_loop",
}
"""Workflow → module of this package, imported when it is run: some need frameworks of the extra ``agents``."""


def load(name: str) -> ModuleType:
    """The module of one workflow. Raises ``InputError`` for an unknown one or a missing framework."""
    if name not in PROGRAMS:
        raise InputError(f"workflow is {name!r}: must be one of {', '.join(PROGRAMS)}")
    try:
        return importlib.import_module(f"experiments.agents.{PROGRAMS[name]}")
    except ModuleNotFoundError as error:
        raise InputError(f"workflow {name} needs {error.name}: pip install 'scepsy[agents]'") from error


async def run_all(
    name: str, url: str, models: dict[str, str], runs: int, *, rate_per_s: float | None = None, seed: int = 0
) -> list[str]:
    """Run a program ``runs`` times, one after another or at Poisson times; each run is named in its base_url.

    Raises ``InputError`` for a missing role, ``BackendError`` when a run fails.
    """
    module = load(name)
    for role in module.ROLES:
        if role not in models:
            raise InputError(f"workflow {name}: role {role} has no model: give --model {role}=NAME")
    gaps = stream(seed, "agents", name).exponential(1 / rate_per_s, runs) if rate_per_s else [0.0] * runs

    async def one(index: int) -> str:
        base_url = f"{url}/workflow/{name}/run/{name}-{seed}-{index}/v1"
        try:
            return str(await module.program(Job(base_url=base_url, models=models, seed=seed, index=index)))
        except Exception as error:  # whatever the frameworks raise, the run failed
            raise BackendError(f"workflow {name} run {index}: {type(error).__name__}: {error}") from error

    answers = []
    if rate_per_s is None:
        for index in range(runs):
            answers.append(await one(index))
        return answers
    tasks = []
    for index, gap_s in enumerate(gaps):
        await asyncio.sleep(float(gap_s))
        tasks.append(asyncio.create_task(one(index)))
    return list(await asyncio.gather(*tasks))


def main(
    name: Annotated[str, typer.Argument(help=", ".join(PROGRAMS))],
    url: Annotated[str, typer.Option(help="The gateway, without a path.")],
    model: Annotated[list[str], typer.Option("--model", metavar="ROLE=NAME")],
    runs: Annotated[int, typer.Option(min=1)] = 20,
    rate: Annotated[float | None, typer.Option(help="Runs per second (Poisson); default: one after another.")] = None,
    seed: int = 0,
) -> None:
    """Run one of the agent programs."""
    models = dict(item.split("=", 1) for item in model)
    answers = asyncio.run(run_all(name, url, models, runs, rate_per_s=rate, seed=seed))
    print(json.dumps({"workflow": name, "runs": len(answers), "characters": sum(map(len, answers))}))


if __name__ == "__main__":
    typer.run(main)
