"""What the load experiments share: tasks for systems with every option, and how a task is run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import fsum
from typing import Any

import msgspec

from experiments.points.measured import Effort, Row, expected_calls, ladder
from experiments.points.questions import Question
from experiments.runner import Scale, Task
from experiments.systems.deployment import Option
from experiments.systems.registry import find_system
from scepsy.profile import catalogue

QUICK_OPTIONS: Mapping[str, tuple[Option, ...]] = {
    "ayo": ({"allocation": "oracle", "topology": False}, {"allocation": "proportional", "topology": False}),
    "hpa": ({"metric": "waiting", "target": 5.0}, {"metric": "load", "target": 16.0}),
    "muxserve": ({"copies": 1}, {"copies": 2}),
}
"""What the quick scale tries of the systems with many options; the full scale tries all."""


def options_of(system: str, gpus: int, scale: Scale) -> Sequence[Option]:
    """The options of a system that a scale tries."""
    every = find_system(system).options(catalogue.cluster_of(gpus))
    if scale.full:
        return every
    if system == "aegaeon":
        few = (gpus // 4, gpus // 2, 3 * gpus // 4)
        return [option for option in every if option["dispatch"] == "counted" and option["prefill"] in few]
    return QUICK_OPTIONS.get(system, every)


def load_tasks(
    questions: Iterable[Question],
    systems: Iterable[str],
    scale: Scale,
    *,
    loads: Sequence[float] = (),
    options: Sequence[Option] = (),
) -> list[Task]:
    """One task per (question, system, option, seed): all loads in order, then the border of stability."""
    chosen = tuple(loads or scale.loads)
    systems = tuple(systems)
    tasks = []
    for question in questions:
        for system in systems:
            for option in options or options_of(system, question.gpus, scale):
                for seed in scale.seeds:
                    params = {
                        "question": asdict(question),
                        "system": system,
                        "option": dict(option),
                        "loads": list(chosen),
                        "seed": seed,
                        "effort": asdict(scale.effort),
                        "halvings": scale.halvings,
                    }
                    tasks.append(Task(params=params, question=question))
    return tasks


def question_of(params: Mapping[str, Any]) -> Question:
    """The question of a task."""
    return msgspec.convert(params["question"], Question)


def effort_of(params: Mapping[str, Any]) -> Effort:
    """The effort of a task."""
    return msgspec.convert(params["effort"], Effort)


def run_loads(params: Mapping[str, Any]) -> list[Row]:
    """A task of ``load_tasks``."""
    return ladder(
        question_of(params),
        params["system"],
        params["option"],
        params["loads"],
        params["seed"],
        effort_of(params),
        params["halvings"],
    )


def calls_of_loads(params: Mapping[str, Any]) -> float:
    """About how many calls such a task simulates."""
    question, effort = question_of(params), effort_of(params)
    loads = [*params["loads"], *[1.0] * params["halvings"]]
    return fsum(expected_calls(question, load, effort, params["system"]) for load in loads)
