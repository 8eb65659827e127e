"""The JSON Schemas of every text format, generated from the values: ``python -m scepsy.files.schemas docs/schemas``.

A schema says which fields there are and of which types. The values check more when they are built (ranges, uniqueness,
references), so a file that a schema accepts can still be refused, never the other way round.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec

from scepsy.cluster import Cluster
from scepsy.cost import PriceList
from scepsy.files import cluster, curves, plan, prices, profiles, slo, trace
from scepsy.files.atomic import write_bytes
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.slo import Slo
from scepsy.workload import Run

_TYPES: dict[str, tuple[Any, str | None, int | None]] = {
    "trace-header": (trace.TraceHeader, trace.FORMAT, trace.VERSION),
    "trace-run": (Run, None, None),
    "cluster": (Cluster, cluster.FORMAT, cluster.VERSION),
    "prices": (PriceList, prices.FORMAT, prices.VERSION),
    "profiles": (ProfileSet, profiles.FORMAT, profiles.VERSION),
    "plan": (Plan, plan.FORMAT, plan.VERSION),
    "slo": (Slo, slo.FORMAT, slo.VERSION),
    "curves": (curves.CurveSet, curves.FORMAT, curves.VERSION),
}


def schemas() -> dict[str, dict[str, Any]]:
    """Every schema by name (``<name>.schema.json``)."""
    return {name: _schema(*item) for name, item in _TYPES.items()}


def _schema(kind: Any, form: str | None, version: int | None) -> dict[str, Any]:
    schema = msgspec.json.schema(kind)
    definitions = schema["$defs"]
    root = definitions.pop(kind.__name__)
    if form is not None:
        root["properties"] = {"format": {"const": form}, "version": {"const": version}, **root["properties"]}
        root["required"] = ["format", "version", *root.get("required", [])]
    if definitions:
        root["$defs"] = definitions
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root}


def write_schemas(folder: Path) -> list[Path]:
    """Write every schema into a folder; returns the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, schema in schemas().items():
        path = folder / f"{name}.schema.json"
        write_bytes(path, msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n")
        paths.append(path)
    return paths


if __name__ == "__main__":
    for written in write_schemas(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/schemas")):
        print(written)
