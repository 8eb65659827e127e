"""The workflows themselves: calls, tokens, LLMs, where the numbers come from."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.points.measured import Row
from experiments.points.questions import trace_of
from experiments.runner import Experiment, Scale, Task
from scepsy.generate import WORKFLOWS
from scepsy.stats.use import workflow_use


def tasks(scale: Scale) -> list[Task]:
    """One task per generated workflow."""
    return [Task({"workflow": name}) for name in WORKFLOWS]


def rows(params: Mapping[str, Any]) -> list[Row]:
    """One row per LLM of the workflow."""
    name = params["workflow"]
    trace, spec = trace_of(name), WORKFLOWS[name]
    use = workflow_use(trace, name)
    found = []
    for llm in use.llms:
        mine = [call for run in trace.runs for call in run.calls if call.llm == llm.llm]
        found.append(
            {
                "workflow": name,
                "summary": spec.summary,
                "llm": llm.llm,
                "kind": mine[0].kind,
                "calls_per_run": llm.calls_per_run,
                "parallelism": llm.parallelism,
                "input_tokens": float(np.mean([call.input_tokens for call in mine])),
                "output_tokens": float(np.mean([call.output_tokens for call in mine])),
                "runs": len(trace.runs),
                "source": "generated",
                "sources": "; ".join(spec.sources),
                "assumptions": "; ".join(spec.assumptions),
            }
        )
    return found


STUDY = Experiment("workflows", "the reference workflows", "tab_01_workflows", tasks, rows)
