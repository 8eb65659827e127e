"""SLO files, ``format: scepsy.slo`` as YAML, and objectives given as text, one at a time (``p95=6``)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from scepsy.errors import InputError
from scepsy.files.document import read_yaml, write_yaml
from scepsy.slo import ANY, STATISTICS, Slo

FORMAT, VERSION = "scepsy.slo", 1
FORMS = (
    "[WORKFLOW:]p95=SECONDS (mean, p50, p95, p99), throughput=PER_S, errors=PCT, or [LLM:]ttft-p95=SECONDS, tpot-mean=SECONDS"
)


def load_slo(path: str | Path) -> Slo:
    """Read an SLO file. Raises ``InputError`` naming file, line, field and remedy."""
    return read_yaml(path, Slo, FORMAT, VERSION)


def save_slo(path: str | Path, slo: Slo) -> None:
    """Write an SLO file, atomically."""
    write_yaml(path, slo, FORMAT, VERSION)


def read_slo(given: Sequence[str]) -> Slo | None:
    """An SLO from ``--slo`` options: at most one file, and objectives that are added to it; None where nothing is given.

    >>> read_slo(["support:p95=6"]).workflow("support").latency_s.p95
    6.0

    Raises ``InputError`` for several files and for text that is no objective.
    """
    if not given:
        return None
    files = [text for text in given if "=" not in text or Path(text).is_file()]
    if len(files) > 1:
        raise InputError(f"--slo names several files ({', '.join(files)}): give one, and further objectives as {FORMS}")
    document: dict[str, Any] = {"workflows": {}, "llms": {}}
    if files:
        document |= msgspec.to_builtins(load_slo(files[0]))
    for text in given:
        if text not in files:
            _add(document, text)
    try:
        return msgspec.convert(document, Slo)
    except msgspec.ValidationError as error:
        raise InputError(f"--slo {' '.join(text for text in given if text not in files)}: {error}") from error


def _add(document: dict[str, Any], text: str) -> None:
    """Write one objective into the document of an SLO."""
    what, _, number = text.rpartition("=")
    name, _, what = what.rpartition(":")
    wrong = InputError(f"--slo is {text!r}: must be an SLO file, or {FORMS}")
    try:
        value = float(number)
    except ValueError:
        raise wrong from None
    measure, _, statistic = what.partition("-")
    if what in STATISTICS:
        _entry(document, "workflows", name, "latency_s")[what] = value
    elif what in ("throughput", "errors"):
        field = {"throughput": "min_throughput_per_s", "errors": "error_budget_pct"}[what]
        document["workflows"].setdefault(name or ANY, {})[field] = value
    elif measure in ("ttft", "tpot") and statistic in STATISTICS:
        _entry(document, "llms", name, f"{measure}_s")[statistic] = value
    else:
        raise wrong


def _entry(document: dict[str, Any], kind: str, name: str, field: str) -> dict[str, float]:
    found: dict[str, float] = document.setdefault(kind, {}).setdefault(name or ANY, {}).setdefault(field, {})
    return found
