"""What breaks what: drift, runs that skip an LLM, fan-out over LLMs, tool time, bursts; on generated and, where known,
real traces.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from experiments.points.measured import Row, expected_calls, measured_point, predicted_point
from experiments.points.questions import Question
from experiments.points.real_traces import REAL, data_folder
from experiments.runner import Experiment, Scale, Task
from experiments.studies.loads import effort_of, question_of

LOAD = 0.6
PREDICTORS = ("aggregate", "critical-path", "paper")
SYSTEMS = ("scepsy", "scepsy-exact", "scepsy-paper", "equal")
QUICK_SYSTEMS = ("scepsy", "scepsy-exact", "equal")


def cases(scale: Scale) -> list[tuple[str, float, Question]]:
    """(dimension, value, question)."""
    gpus = 16 if scale.full else 4
    names = ("rag-rerank", "beam-search", "text-to-sql") if scale.full else ("beam-search",)
    values: Mapping[str, tuple[float, ...]] = (
        {
            "drift": (0.5, 0.75, 1.0, 1.25, 1.5, 2.0),
            "bimodal": (0.0, 0.25, 0.5, 0.75),
            "tool": (0.0, 0.3, 0.6, 0.9),
            "burst": (1, 2, 4),
        }
        if scale.full
        else {"drift": (1.0, 1.5, 2.0), "bimodal": (0.0, 0.5), "tool": (0.0, 0.9), "burst": (1, 4)}
    )
    found = []
    for name in names:
        one = (name,)
        found += [("drift", v, Question(workflows=one, gpus=gpus, measured_on=f"drift:{v}")) for v in values["drift"]]
        for d in ("bimodal", "tool"):
            # Value 0 is the trace as it is.
            changed = [(v, f"{d}:{v}" if v else "") for v in values[d]]
            found += [(d, v, Question(workflows=one, gpus=gpus, planned_on=text, measured_on=text)) for v, text in changed]
        found += [("burst", v, Question(workflows=one, gpus=gpus, arrivals=f"gamma:{v}")) for v in values["burst"]]
    widths = (1, 2, 4, 8) if scale.full else (1, 8)
    found += [("fan-out", w, Question(workflows=(f"fan-out-{w}",), gpus=gpus)) for w in widths]
    return found + real_cases(scale)


def real_cases(scale: Scale) -> list[tuple[str, float, Question]]:
    """Real traces, steady and bursty; their hosted models are played by open ones, so 16 GPUs."""
    if not data_folder():
        return []
    names = list(REAL) if scale.full else ["tau2-retail", "kvct-neon"]
    bursts = (1, 4) if scale.full else (1,)
    return [("real", v, Question(workflows=(f"real:{n}",), gpus=16, arrivals=f"gamma:{v}")) for n in names for v in bursts]


def tasks(scale: Scale) -> list[Task]:
    """One task per case, system and seed."""
    return [
        Task(
            {
                "dimension": dimension,
                "value": value,
                "question": asdict(question),
                "system": system,
                "seed": seed,
                "effort": asdict(scale.effort),
            },
            question,
        )
        for dimension, value, question in cases(scale)
        for system in (SYSTEMS if scale.full else QUICK_SYSTEMS)
        for seed in scale.seeds
    ]


def rows(params: Mapping[str, Any]) -> list[Row]:
    """The simulated row, and for Scepsy's own plan what each predictor expected."""
    question, system = question_of(params), params["system"]
    found = measured_point(question, system, {}, LOAD, params["seed"], effort_of(params))
    if system == "scepsy":
        for predictor in PREDICTORS:
            found += predicted_point(question, system, {}, LOAD, predictor)
    return [row | {"dimension": params["dimension"], "value": params["value"]} for row in found]


def calls(params: Mapping[str, Any]) -> float:
    """Calls of one task."""
    return expected_calls(question_of(params), LOAD, effort_of(params), params["system"])


STUDY = Experiment("robustness", "drift, bimodal use, fan-out, tools, bursts", "fig_12_robustness", tasks, rows, calls)
