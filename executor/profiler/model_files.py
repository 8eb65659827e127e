"""What the planner must know of a model that is profiled, read from its folder (``scepsy.models.read``)."""

from pathlib import Path

from scepsy.llm import Llm
from scepsy.models.read import read_model
from scepsy.workload import CallKind


def read_llm(name: str, folder: Path, kind: CallKind) -> Llm:
    """The Llm in ``folder``, served as ``name`` for calls of ``kind``. Raises ``InputError`` naming the field or the family."""
    return read_model(name, folder / "config.json", kind=kind)
