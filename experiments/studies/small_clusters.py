"""Four and eight GPUs: Scepsy against every split of Aegaeon, and against every user allocation of Ayo."""

from collections.abc import Mapping
from typing import Any

from experiments.points.measured import Row
from experiments.points.questions import Question
from experiments.runner import Experiment, Scale, Task
from experiments.studies.headline import QUESTIONS
from experiments.studies.loads import calls_of_loads, load_tasks, run_loads
from experiments.systems.registry import find_system
from scepsy.profile import catalogue


def questions(scale: Scale) -> list[Question]:
    """The headline's workloads on 4 and 8 GPUs; quick: each workflow alone."""
    from dataclasses import replace

    chosen = QUESTIONS if scale.full else QUESTIONS[:2]
    return [replace(question, gpus=gpus) for gpus in (4, 8) for question in chosen]


def aegaeon_tasks(scale: Scale) -> list[Task]:
    """Aegaeon with each split, published dispatch and (full) the balanced one."""
    found = load_tasks(questions(scale), ("scepsy",), scale)
    for question in questions(scale):
        every = find_system("aegaeon").options(catalogue.cluster_of(question.gpus))
        options = (
            every if scale.full else [o for o in every if o["dispatch"] == "counted" and o["prefill"] in _few(question.gpus)]
        )
        found += load_tasks([question], ("aegaeon",), scale, options=options)
    return found


def _few(gpus: int) -> tuple[int, ...]:
    return (1, 2, 3) if gpus == 4 else (3, 4, 6)


def ayo_tasks(scale: Scale) -> list[Task]:
    """Ayo with each user allocation; topology batching off (full: and on)."""
    found = load_tasks(questions(scale), ("scepsy",), scale)
    for question in questions(scale):
        every = find_system("ayo").options(catalogue.cluster_of(question.gpus))
        options = every if scale.full else [option for option in every if not option["topology"]]
        found += load_tasks([question], ("ayo",), scale, options=options)
    return found


def run(params: Mapping[str, Any]) -> list[Row]:
    """One task."""
    return run_loads(params)


AEGAEON = Experiment("aegaeon", "4 and 8 GPUs against Aegaeon's splits", "fig_06_aegaeon", aegaeon_tasks, run, calls_of_loads)
AYO = Experiment("ayo", "4 and 8 GPUs against Ayo's allocations", "fig_07_ayo", ayo_tasks, run, calls_of_loads)
