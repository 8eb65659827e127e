"""How different runs of one workflow are: calls and latency per run, and each LLM's share of a run's LLM time."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from experiments.points.measured import Row
from experiments.points.questions import Question, measured_streams, planning_case, trace_of
from experiments.points.real_traces import REAL, data_folder
from experiments.runner import Experiment, Scale, Task
from experiments.studies.loads import question_of
from experiments.systems.registry import deploy, find_system
from scepsy.backend import Workload
from scepsy.dag import latency_s, timed
from scepsy.workload import Trace

LOAD = 0.3
"""Light enough that runs differ by what they ask, not by how they queue."""
WORKFLOWS = ("beam-search", "beam-search-paper", "rag-rerank", "debate")
RUNS = 200


def run_tasks(scale: Scale) -> list[Task]:
    """One task per workflow."""
    names = WORKFLOWS if scale.full else ("beam-search", "rag-rerank")
    questions = [Question(workflows=(name,), gpus=16 if scale.full else 4) for name in names]
    return [Task({"question": asdict(q), "runs": RUNS * (5 if scale.full else 1)}, q) for q in questions]


def simulated_runs(params: Mapping[str, Any]) -> list[Row]:
    """One row per simulated run and LLM: calls, seconds of LLM time, the run's latency; a run's rows share ``run``."""
    question = question_of(params)
    deployment = deploy(find_system("scepsy"), planning_case(question, LOAD), {})
    records = deployment.replay(Workload(streams=measured_streams(question, LOAD), seed=1, runs=params["runs"]))
    calls = records.calls.to_pandas()
    calls["llm_s"] = calls["end_s"] - calls["issued_s"]
    runs = records.runs.to_pandas().set_index("run")
    latency = (runs["end_s"] - runs["arrival_s"]).to_dict()
    parts = calls.groupby(["run", "llm"], sort=False).agg(llm_s=("llm_s", "sum"), calls=("call", "count")).reset_index()
    whole = parts.groupby("run")["llm_s"].transform("sum")
    parts["share"] = parts["llm_s"] / whole
    return [
        {
            "kind": "run",
            "workflow": question.name,
            "run": str(row["run"]),
            "llm": str(row["llm"]),
            "calls": int(row["calls"]),
            "llm_s": float(row["llm_s"]),
            "share": float(row["share"]),
            "latency_s": float(latency[row["run"]]),
            "load": LOAD,
            "gpus": question.gpus,
            "source": "simulated",
        }
        for _, row in parts.iterrows()
    ]


RUNS_STUDY = Experiment("calls", "calls and latency per run", "fig_01_calls", run_tasks, simulated_runs, lambda params: 20_000)


def share_tasks(scale: Scale) -> list[Task]:
    """Generated workflows, and the real traces where the folder is known."""
    generated = (*WORKFLOWS, "map-reduce", "reflection", "text-to-sql", "rag-llm-rerank")
    real = [f"real:{name}" for name in REAL] if data_folder() else []
    return [Task({"workflow": name, "kind": "summary"}) for name in (*generated, *real)] + [
        Task(task.params, task.question) for task in run_tasks(scale)
    ]


def share_rows(params: Mapping[str, Any]) -> list[Row]:
    """Either the runs of one workflow, or its summary: CV of the dominant LLM's share, of its seconds and of the latency."""
    if "question" in params:
        return simulated_runs(params)
    trace = trace_of(params["workflow"])
    return [{"kind": "summary", "workflow": params["workflow"], **summary(trace)}]


def summary(trace: Trace) -> Row:
    """Variation of the LLM with the largest part of all LLM time, from recorded times or nominal ones."""
    rows = []
    for number, run in enumerate(timed(run) for run in trace.runs):
        for call in run.calls:
            rows.append((number, call.llm, call.duration_s, latency_s(run)))
    table = pd.DataFrame(rows, columns=["run", "llm", "s", "latency_s"])
    by_run = table.pivot_table(index="run", columns="llm", values="s", aggfunc="sum", fill_value=0.0)
    dominant = str(by_run.sum().idxmax())
    share = by_run[dominant] / by_run.sum(axis=1)
    latency = table.groupby("run")["latency_s"].first()
    recorded = all(call.start_s is not None for run in trace.runs for call in run.calls)
    return {
        "llm": dominant,
        "runs": len(trace.runs),
        "share_mean": float(share.mean()),
        "share_cv": float(share.std(ddof=0) / share.mean()),
        "seconds_cv": float(by_run[dominant].std(ddof=0) / by_run[dominant].mean()),
        "latency_cv": float(latency.std(ddof=0) / latency.mean()),
        "source": "measured" if recorded else "nominal",
    }


SHARES_STUDY = Experiment("shares", "how stable shares of LLM time are", "fig_02_shares", share_tasks, share_rows)
