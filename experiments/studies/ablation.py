"""Scepsy without one of its means: fractions, tensor parallelism, replicas, its own placement; a roomy and a tight cluster."""

from dataclasses import replace

from experiments.points.questions import Question
from experiments.runner import Experiment, Scale, Task
from experiments.studies.headline import QUESTIONS
from experiments.studies.loads import calls_of_loads, load_tasks, run_loads

SYSTEMS = ("scepsy", "no-fractions", "no-tp", "no-replicas", "default-scheduler")


def questions(scale: Scale) -> list[Question]:
    """16 GPUs, and two nodes of two GPUs, where five LLMs must share."""
    roomy = list(QUESTIONS) if scale.full else [QUESTIONS[2]]
    tight = [
        replace(question, gpus=4, gpus_per_node=2) for question in (QUESTIONS if scale.full else (QUESTIONS[0], QUESTIONS[2]))
    ]
    return roomy + tight


def tasks(scale: Scale) -> list[Task]:
    """Every ablation on every workload."""
    return load_tasks(questions(scale), SYSTEMS, scale)


STUDY = Experiment("ablation", "Scepsy without one of its means", "fig_09_ablation", tasks, run_loads, calls_of_loads)
