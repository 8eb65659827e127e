"""What profiling found: latency against call rate of every LLM, by tensor-parallel degree and by share; and what it cost."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.points.measured import Row
from experiments.points.questions import CURVE_SEED, Question, base_case, trace_of
from experiments.runner import Experiment, Scale, Task
from experiments.studies.loads import question_of
from scepsy.api.prepare import Load, prepare
from scepsy.profile import catalogue
from scepsy.workload import Arrivals

WORKFLOWS = ("rag-rerank", "beam-search")


def tasks(scale: Scale) -> list[Task]:
    """One task per workflow."""
    names = (*WORKFLOWS, "rag-llm-rerank", "debate", "text-to-sql") if scale.full else WORKFLOWS
    questions = [Question(workflows=(name,)) for name in names]
    return [Task({"question": asdict(question)}, question) for question in questions]


def rows(params: Mapping[str, Any]) -> list[Row]:
    """One row per curve point of single instances."""
    question = question_of(params)
    curves = base_case(question, (1.0,)).problem.curves.values()
    return [
        {
            "workflow": curve.workflow,
            "llm": curve.llm,
            "gpu_type": curve.gpu_type,
            "tensor_parallel": curve.tensor_parallel,
            "share_pct": curve.share_pct,
            "utilisation": curve.utilisation[n],
            "calls_per_s": curve.utilisation[n] * curve.capacity_per_s,
            "capacity_per_s": curve.capacity_per_s,
            "latency_mean_s": curve.mean_s[n],
            "latency_p95_s": curve.p95_s[n],
            "source": "simulated",
        }
        for curve in sorted(curves, key=lambda c: (c.llm, c.tensor_parallel, c.share_pct))
        if curve.replicas == 1
        for n in range(len(curve.utilisation))
    ]


STUDY = Experiment("curves", "latency against call rate per LLM", "fig_03_curves", tasks, rows)


def cost_rows(params: Mapping[str, Any]) -> list[Row]:
    """Wall time of profiling one workflow from nothing, in one process."""
    question = question_of(params)
    trace = trace_of(question.workflows[0])
    cluster = catalogue.cluster_of(question.gpus, question.gpu_type)
    profiles = catalogue.builtin_profiles(trace.llms, cluster.gpu_types)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        load = Load(trace=trace, arrivals=Arrivals(rate_per_s=1.0))
        problem = prepare([load], cluster, profiles, seed=CURVE_SEED, cache_dir=Path(folder), jobs=1)
    wall_s = time.perf_counter() - began
    return [
        {
            "workflow": question.name,
            "llms": len(trace.llms),
            "curves": len(problem.curves),
            "points": sum(len(curve.utilisation) for curve in problem.curves.values()),
            "wall_s": wall_s,
            "source": "simulated",
        }
    ]


COST_STUDY = Experiment("profiling", "what profiling costs", "tab_04_profiling", tasks, cost_rows)
