"""Two workflows on one cluster: planned together on all GPUs, or each by itself on its own part."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from experiments.points.measured import Row, expected_calls, measured_point
from experiments.points.questions import Question, reference_of
from experiments.runner import Experiment, Scale, Task
from experiments.studies.loads import effort_of, question_of

PAIR = ("rag-rerank", "beam-search")
LOAD = 0.7
"""Of what the whole cluster could carry in this mix."""


def tasks(scale: Scale) -> list[Task]:
    """One task per mix, cluster and way to use it; the split is tried at every border between nodes' halves."""
    parts = (0.1, 0.25, 0.5, 0.75, 0.9) if scale.full else (0.25, 0.75)
    gpus = 16 if scale.full else 8
    found = []
    for part in parts:
        question = Question(workflows=PAIR, gpus=gpus, mix=(part, 1 - part))
        borders = range(1, gpus) if scale.full else (2, 4, 6)
        for border in (0, *borders):
            for seed in scale.seeds:
                params = {"question": asdict(question), "border": border, "seed": seed, "effort": asdict(scale.effort)}
                found.append(Task(params, question))
    return found


def rows(params: Mapping[str, Any]) -> list[Row]:
    """Joint (border 0), or the first workflow on ``border`` GPUs and the second on the rest, both at the same rates."""
    question, border, seed, effort = question_of(params), params["border"], params["seed"], effort_of(params)
    extra = {"mix": question.mix[0], "border": border, "way": "joint" if border == 0 else "split"}
    if border == 0:
        return [row | extra for row in measured_point(question, "scepsy", {}, LOAD, seed, effort)]
    rates = reference_of(question).rates_per_s
    found = []
    for workflow, rate, gpus in zip(question.workflows, rates, (border, question.gpus - border), strict=True):
        alone = replace(question, workflows=(workflow,), mix=(), gpus=gpus)
        load = LOAD * rate / reference_of(alone).rates_per_s[0]
        found += [row | extra for row in measured_point(alone, "scepsy", {}, load, seed, effort)]
    return found


def calls(params: Mapping[str, Any]) -> float:
    """Calls of one task."""
    return expected_calls(question_of(params), LOAD, effort_of(params))


STUDY = Experiment("mix", "two workflows: joint or split cluster", "fig_08_mix", tasks, rows, calls)
