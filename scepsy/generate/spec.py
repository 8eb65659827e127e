"""What a generated workflow is: its roles, its shape, where its numbers come from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from scepsy.generate.builder import RunBuilder
from scepsy.workload import CallKind


@dataclass(frozen=True)
class Role:
    """One part that an LLM plays in a workflow."""

    llm: str
    """The model used unless another is asked for."""
    kind: CallKind = "generate"


@dataclass(frozen=True)
class WorkflowSpec:
    """One workflow that can be generated."""

    name: str
    summary: str
    roles: Mapping[str, Role]
    build: Callable[[RunBuilder], None]
    """Adds one run's calls to the builder; draws only from the builder's own random stream."""
    sources: tuple[str, ...]
    """Where each published number comes from."""
    assumptions: tuple[str, ...] = field(default=())
    """What no public source gives, and the value taken."""
