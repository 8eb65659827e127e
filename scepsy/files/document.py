"""A value as a YAML or JSON document: ``format`` and ``version`` first, then the value's own fields."""

import math
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from scepsy.errors import InputError
from scepsy.files import yamltext
from scepsy.files.atomic import write_bytes
from scepsy.files.failure import decode_json, explain, fail, read_bytes, shown

T = TypeVar("T")


def check_envelope(path: str | Path, document: Any, name: str, version: int, line: int | None = None) -> dict[str, Any]:
    """Check ``format`` and ``version`` and return the remaining fields. Raises ``InputError``."""
    if not isinstance(document, dict):
        raise fail(path, f"the document is {shown(document)}: must be a mapping that begins with format: {name}", line=line)
    rest = dict(document)
    if "format" not in rest:
        raise fail(path, f"format is missing: must be {name} (is this another kind of file? else add it)", line=line)
    found = rest.pop("format")
    if found != name:
        raise fail(path, f"format is {shown(found)}: must be {name} (this is another kind of file)", line=line)
    if "version" not in rest:
        raise fail(path, f"version is missing: must be {version} (add it)", line=line)
    found = rest.pop("version")
    if type(found) is not int or found != version:
        remedy = "written by a newer Scepsy: upgrade" if type(found) is int and found > version else "write it again"
        raise fail(path, f"version is {shown(found)}: must be {version} ({remedy})", line=line)
    return rest


def read_yaml(path: str | Path, kind: type[T], name: str, version: int, *, allow_infinity: bool = False) -> T:
    """Read one value from a YAML file. Raises ``InputError`` naming file, line, field and remedy."""
    parsed = yamltext.parse(path, read_bytes(path), allow_infinity=allow_infinity)
    rest = check_envelope(path, parsed.value, name, version)
    try:
        return msgspec.convert(rest, kind)
    except msgspec.ValidationError as error:
        place, problem = explain(error, rest, kind)
        raise fail(path, problem, line=parsed.line(place)) from error
    except (RecursionError, OverflowError) as error:
        raise fail(path, f"cannot be a {kind.__name__}: {error}") from error


def write_yaml(path: str | Path, value: Any, name: str, version: int, *, allow_infinity: bool = False) -> None:
    """Write one value as a YAML file, atomically. Raises ``InputError`` when a number in it is not finite."""
    fields = _fields(value)
    refuse_nonfinite(path, fields, allow_infinity=allow_infinity)
    write_bytes(path, yamltext.dump({"format": name, "version": version, **fields}))


def read_json(path: str | Path, kind: type[T], name: str, version: int) -> T:
    """Read one value from a JSON file. Raises ``InputError`` naming file, field and remedy."""
    rest = check_envelope(path, decode_json(path, read_bytes(path)), name, version)
    try:
        return msgspec.convert(rest, kind)
    except msgspec.ValidationError as error:
        raise fail(path, explain(error, rest, kind)[1]) from error
    except (RecursionError, OverflowError) as error:
        raise fail(path, f"cannot be a {kind.__name__}: {error}") from error


def write_json(path: str | Path, value: Any, name: str, version: int) -> None:
    """Write one value as an indented JSON file, atomically. Raises ``InputError`` when a number in it is not finite."""
    fields = _fields(value)
    refuse_nonfinite(path, fields)
    write_bytes(
        path, msgspec.json.format(msgspec.json.encode({"format": name, "version": version, **fields}), indent=1) + b"\n"
    )


def _fields(value: Any) -> dict[str, Any]:
    fields = msgspec.to_builtins(value)
    assert isinstance(fields, dict)
    return fields


def refuse_nonfinite(path: str | Path, document: Any, *, allow_infinity: bool = False, place: str = "") -> None:
    """Raise ``InputError`` if a number to be written is NaN or (unless allowed) infinite: no reader would take it back."""
    if isinstance(document, dict):
        for key, item in document.items():
            refuse_nonfinite(path, item, allow_infinity=allow_infinity, place=f"{place}.{key}".removeprefix("."))
    elif isinstance(document, (list, tuple)):
        for index, item in enumerate(document):
            refuse_nonfinite(path, item, allow_infinity=allow_infinity, place=f"{place}[{index}]")
    elif isinstance(document, float) and (math.isnan(document) or (math.isinf(document) and not allow_infinity)):
        raise InputError(f"{path}: {place} is {document}: must be a finite number (nothing was written)")
