"""Generated traces: one module per workflow family, every distribution with its source or marked as assumed."""

from scepsy.generate.registry import WORKFLOWS, find_workflow, generate, generate_runs, trace_source
from scepsy.generate.spec import WorkflowSpec

__all__ = ["WORKFLOWS", "WorkflowSpec", "find_workflow", "generate", "generate_runs", "trace_source"]
