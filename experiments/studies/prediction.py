"""Predicted against simulated, and simulated against measured engines where recorded runs are at hand."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from experiments.points.measured import Row, expected_calls, measured_point, predicted_point
from experiments.points.questions import Question
from experiments.points.real_traces import REAL, data_folder
from experiments.runner import Experiment, Scale, Task
from experiments.studies.loads import effort_of, question_of
from scepsy.errors import InputError
from sim.recorded.validate import validate_runs

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
    return found + engine_tasks()


def engine_tasks() -> list[Task]:
    """One task per recorded run of a real engine in ``$SCEPSY_DATA``."""
    folder = data_folder()
    runs = sorted((folder / "vllm_runs").glob("*/meta.json")) if folder else []
    return [Task({"engine": path.parent.name}) for path in runs]


def engine_rows(name: str) -> list[Row]:
    """The simulator, fitted on the run's first third, against what the engine did with the rest: signed errors in percent."""
    folder = data_folder()
    if folder is None:
        raise InputError(f"engine run {name}: SCEPSY_DATA is not set: set it to the folder that holds vllm_runs/{name}")
    rows = validate_runs([folder / "vllm_runs" / name])["runs"]
    kept = ("requests", "latency_mean_err_pct", "latency_p95_err_pct", "tpot_mean_err_pct", "ttft_mean_err_pct")
    return [{"workload": f"engine:{name}", "source": "measured", **{key: row[key] for key in kept}} for row in rows]


def rows(params: Mapping[str, Any]) -> list[Row]:
    """One simulated row, and one for each predictor."""
    if "engine" in params:
        return engine_rows(params["engine"])
    question, load, seed = question_of(params), params["load"], params["seed"]
    found = measured_point(question, "scepsy", {}, load, seed, effort_of(params))
    for predictor in PREDICTORS:
        found += predicted_point(question, "scepsy", {}, load, predictor)
    return found


def calls(params: Mapping[str, Any]) -> float:
    """Calls of one task."""
    if "engine" in params:
        return 300.0
    return expected_calls(question_of(params), params["load"], effort_of(params))


STUDY = Experiment("prediction", "predicted, simulated, measured", "fig_04_prediction", tasks, rows, calls)
