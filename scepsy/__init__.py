"""Plan, simulate and run multi-LLM agentic workflows on a GPU cluster.

The names below are the public interface. They load on first use, so that ``import scepsy`` stays quick.
"""

from importlib import import_module
from typing import Any

from scepsy.version import __version__ as __version__

_HOMES = {
    "Arrivals": "scepsy.workload",
    "Cluster": "scepsy.cluster",
    "InputError": "scepsy.errors",
    "Infeasible": "scepsy.errors",
    "Plan": "scepsy.plans",
    "ProfileSet": "scepsy.profile.model",
    "Records": "scepsy.records",
    "ScepsyError": "scepsy.errors",
    "Trace": "scepsy.workload",
    "compare": "scepsy.api.program",
    "generate_trace": "scepsy.api.inputs",
    "import_trace": "scepsy.api.inputs",
    "load_cluster": "scepsy.api.inputs",
    "load_plan": "scepsy.files.plan",
    "load_profiles": "scepsy.files.profiles",
    "load_trace": "scepsy.files.trace",
    "plan": "scepsy.api.program",
    "predict": "scepsy.api.program",
    "profiles_of": "scepsy.api.inputs",
    "save_plan": "scepsy.files.plan",
    "save_trace": "scepsy.files.trace",
    "simulate": "scepsy.api.program",
    "summarise": "scepsy.metrics",
    "validate": "scepsy.api.program",
}
"""Name → the module that defines it. ``__init__.pyi`` says the same to type checkers."""

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'scepsy' has no attribute {name!r}: public names are {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
