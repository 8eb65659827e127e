"""Predicted against simulated, and simulated against measured engines where recorded runs are at hand."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from experiments.points import Row, expected_calls, measured_point, predicted_point
from experiments.questions import Question
from experiments.real_traces import REAL, data_folder
from experiments.runner import Experiment, Scale, Task
from experiments.studies.loads import effort_of, question_of

PREDICTORS = ("aggregate", "critical-path", "paper")
QUICK = ("rag-rerank", "beam-search", "debate", "map-reduce")
MORE = ("rag-llm-rerank", "rag-rewrite", "reflection", "text-to-sql", "trading-desk", "chat", "tool-agent")


def tasks(scale: Scale) -> list[Task]:
    """One task per workflow and load; Scepsy's plan at each."""
    names = [*QUICK, *MORE] if scale.full else list(QUICK)
    if scale.full and data_folder():
        names += [f"real:{name}" for name in REAL]
    loads = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9) if scale.full else (0.2, 0.5, 0.8)
    found = []
    for name in names:
        question = Question(workflows=(name,), gpus=16 if scale.full else 4)
        for load in loads:
            for seed in scale.seeds:
                params = {"question": asdict(question), "load": load, "seed": seed, "effort": asdict(scale.effort)}
                found.append(Task(params, question))
    return found


def rows(params: Mapping[str, Any]) -> list[Row]:
    """One simulated row, and one for each predictor."""
    question, load, seed = question_of(params), params["load"], params["seed"]
    found = measured_point(question, "scepsy", {}, load, seed, effort_of(params))
    for predictor in PREDICTORS:
        found += predicted_point(question, "scepsy", {}, load, predictor)
    return found


def calls(params: Mapping[str, Any]) -> float:
    """Calls of one task."""
    return expected_calls(question_of(params), params["load"], effort_of(params))


STUDY = Experiment("prediction", "predicted, simulated, measured", "fig_04_prediction", tasks, rows, calls)
