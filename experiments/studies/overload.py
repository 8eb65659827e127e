"""How far a latency ratio grows with the length of the experiment, once one side is overloaded: what "up to 27x" can mean.

A stable point is one whose work in the system does not drift (``scepsy.steady``).
Beyond that the queue grows as long as arrivals last, and the ratio is whatever length somebody chose.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from experiments.points.measured import Row, expected_calls, measured_point
from experiments.points.questions import Question
from experiments.runner import Experiment, Scale, Task
from experiments.studies.loads import effort_of, question_of

LOAD = 0.9
QUESTION = Question(workflows=("rag-rerank",), gpus=4)
LENGTHS = (1.0, 3.0, 10.0)
"""Times the usual span of arrivals; the quick scale takes the first two."""
SYSTEMS: Mapping[str, Mapping[str, Any]] = {
    "scepsy": {},
    "oracle-user": {},
    "equal": {},
    "aegaeon": {"prefill": 2, "decode": 2, "dispatch": "counted"},
}


def tasks(scale: Scale) -> list[Task]:
    """One task per system, length and seed."""
    lengths = LENGTHS if scale.full else LENGTHS[:2]
    return [
        Task(
            {
                "question": asdict(QUESTION),
                "system": system,
                "option": dict(option),
                "spans": length,
                "seed": seed,
                "effort": asdict(replace(scale.effort, spans=length * scale.effort.spans, most_calls=1_000_000)),
            },
            QUESTION,
        )
        for system, option in SYSTEMS.items()
        for length in lengths
        for seed in scale.seeds
    ]


def rows(params: Mapping[str, Any]) -> list[Row]:
    """The simulated row, with the length in units of the usual one."""
    found = measured_point(question_of(params), params["system"], params["option"], LOAD, params["seed"], effort_of(params))
    return [row | {"length": params["spans"]} for row in found]


def calls(params: Mapping[str, Any]) -> float:
    """Calls of one task."""
    return expected_calls(question_of(params), LOAD, effort_of(params), params["system"])


STUDY = Experiment("overload", "a ratio against the experiment's length", "tab_06_overload", tasks, rows, calls)
