"""The JSON Schema of what each command prints with ``--json``: ``python -m scepsy.cli.schemas docs/schemas/commands``.

Scripts may rely on every required field: it stays, with its name, type and unit. Fields may be added, so a schema accepts
fields that it does not know.
"""

from pathlib import Path
from typing import Any

import msgspec

from scepsy.cli.schemas import checks, deploy, models, operate, plans, traces
from scepsy.cli.schemas.shapes import Shape
from scepsy.files.atomic import write_bytes

DOCUMENTS: dict[str, Shape] = (
    traces.DOCUMENTS | models.DOCUMENTS | plans.DOCUMENTS | checks.DOCUMENTS | deploy.DOCUMENTS | operate.DOCUMENTS
)  # fmt: skip
"""The document's shape by command (without ``scepsy``)."""


def schemas() -> dict[str, dict[str, Any]]:
    """Every command's schema by the command's name."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {name: {"$schema": dialect, "title": f"scepsy {name} --json", **shape} for name, shape in DOCUMENTS.items()}


def file_of(command: str) -> str:
    """The file name of a command's schema.

    >>> file_of("trace stats")
    'trace-stats.schema.json'
    """
    return f"{command.replace(' ', '-')}.schema.json"


def write_schemas(folder: Path) -> list[Path]:
    """Write every schema into a folder; returns the files written. Raises ``InputError`` where it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for command, schema in schemas().items():
        path = folder / file_of(command)
        write_bytes(path, msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n")
        paths.append(path)
    return paths
