"""The few words in which the documents of ``--json`` are described; each gives a piece of JSON Schema (draft 2020-12)."""

from collections.abc import Mapping
from typing import Any

Shape = Mapping[str, Any]

TEXT: Shape = {"type": "string"}
NUMBER: Shape = {"type": "number"}
WHOLE: Shape = {"type": "integer"}
FLAG: Shape = {"type": "boolean"}


def record(fields: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None, **about: str) -> Shape:
    """An object that has all of ``fields`` and may have those of ``optional``. Further ones are allowed: they may be added.

    ``about``: title, description.

    >>> record({"gpus": WHOLE}, {"why": TEXT})["required"]
    ['gpus']
    """
    properties = {name: dict(shape) for name, shape in {**fields, **(optional or {})}.items()}
    return {**about, "type": "object", "required": list(fields), "properties": properties}


def rows(item: Shape) -> Shape:
    """An array, each item of one shape."""
    return {"type": "array", "items": dict(item)}


def by_name(item: Shape) -> Shape:
    """An object whose keys are names: of workflows, LLMs, files."""
    return {"type": "object", "additionalProperties": dict(item)}


def maybe(item: Shape) -> Shape:
    """The same or null: what could not be known, and numbers that are infinite or not a number.

    >>> maybe(NUMBER)
    {'type': ['number', 'null']}
    """
    if set(item) == {"type"}:
        return {"type": [item["type"], "null"]}
    return {"anyOf": [dict(item), {"type": "null"}]}


def either(*shapes: Shape) -> Shape:
    """One of several documents, by what was asked for."""
    return {"anyOf": [dict(shape) for shape in shapes]}
