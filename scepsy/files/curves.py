"""Curves files: ``format: scepsy.curves`` as JSON."""

from collections.abc import Iterable
from pathlib import Path

from scepsy.files.document import read_json, write_json
from scepsy.profile.curve import Curve
from scepsy.value import Value

FORMAT, VERSION = "scepsy.curves", 1


class CurveSet(Value, frozen=True, kw_only=True):
    """What a curves file holds."""

    curves: tuple[Curve, ...]

    def __post_init__(self) -> None:
        seen: set[tuple[object, ...]] = set()
        for index, c in enumerate(self.curves):
            key = (c.workflow, c.llm, c.gpu_type, c.tensor_parallel, c.share_pct, c.replicas)
            if key in seen:
                raise ValueError(f"curves[{index}] is a second curve of {key}: must be distinct")
            seen.add(key)


def load_curves(path: str | Path) -> tuple[Curve, ...]:
    """Read curves. Raises ``InputError`` naming file, field and remedy."""
    return read_json(path, CurveSet, FORMAT, VERSION).curves


def save_curves(path: str | Path, curves: Iterable[Curve]) -> None:
    """Write curves, atomically. Raises ``ValueError`` when two describe the same instance type."""
    write_json(path, CurveSet(curves=tuple(curves)), FORMAT, VERSION)
