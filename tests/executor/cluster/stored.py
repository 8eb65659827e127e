"""What a real API server stores of an object that it takes: its own spelling, and what it adds where nobody merges.

Two things of this make a GitOps tool see a difference for ever. A quantity or an empty value comes back in another form. And
a default is filled in within a list that has no keys: such a list is compared as a whole. Defaults elsewhere are nobody's
concern, since tools compare only the fields that were applied.
"""

import copy
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

Object = dict[str, Any]

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|[MGTPE]|[KMGTPE]i)?")
_QUANTITIES = ("requests", "limits", "sizeLimit")
"""Fields of type Quantity, or maps of them."""

_DEFAULTS: dict[tuple[str, str], Object] = {
    ("NetworkPolicy", "ports[]"): {"protocol": "TCP"},
    ("ResourceClaim", "exactly"): {"allocationMode": "ExactCount", "count": 1},
    **{(kind, "fieldRef"): {"apiVersion": "v1"} for kind in ("Deployment", "Job")},
}
"""(kind, field) → what is filled in there, of the server's defaulting code (pkg/apis/*/v1/defaults.go), as far as it reaches
into lists without keys of what we render."""


def as_stored(obj: Object) -> Object:
    """The object in the server's own spelling."""
    custom = "." in obj["apiVersion"].partition("/")[0] and not obj["apiVersion"].partition("/")[0].endswith(".k8s.io")
    if custom:  # a custom resource is stored as it came
        return copy.deepcopy(obj)
    kept = {part: obj[part] for part in ("apiVersion", "kind", "metadata")}
    return {**kept, **{part: _stored(obj["kind"], part, value) for part, value in obj.items() if part not in kept}}


def canonical(quantity: str) -> str:
    """A quantity as Go's ``resource.Quantity`` writes it.

    >>> [canonical(each) for each in ("1000m", "0.5", "2048Mi", "7Gi", "250m", "1e3")]
    ['1', '500m', '2Gi', '7Gi', '250m', '1e3']
    """
    match = _QUANTITY.fullmatch(quantity)
    if match is None:
        return quantity
    number, unit = Decimal(match[1]), match[2] or ""
    if unit.endswith("i"):
        value, step, units = number * 1024 ** (" KMGTPE".index(unit[0])), 1024, ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]
    else:
        value, step, units = number * 1000 ** (["m", "", "k", *"MGTPE"].index(unit)), 1000, ["m", "", "k", *"MGTPE"]
    at = 0
    while at + 1 < len(units) and value and value % step == 0:
        value, at = value / step, at + 1
    return f"{value.normalize():f}{units[at]}"


def _stored(kind: str, field: str, value: Any) -> Any:
    if isinstance(value, dict):
        if field in _QUANTITIES:
            return {key: canonical(each) for key, each in value.items()}
        found = {key: _stored(kind, key, each) for key, each in value.items() if not _empty(each) or field == "data"}
        return {**_DEFAULTS.get((kind, field), {}), **found}
    if isinstance(value, list):
        return [_stored(kind, f"{field}[]", each) for each in value]
    return canonical(value) if field in _QUANTITIES and isinstance(value, str) else value


def _empty(value: Any) -> bool:
    """Left out when an object is written; an empty mapping is a choice that was made (``emptyDir: {}``)."""
    return value is None or value in ("", [])


def respelt(obj: Object) -> list[str]:
    """Paths at which the server would store something else than ``obj`` says."""
    return list(_differences(obj, as_stored(obj), ""))


def _differences(wanted: Any, stored: Any, path: str) -> Iterator[str]:
    if isinstance(wanted, dict) and isinstance(stored, dict):
        for key in dict.fromkeys((*wanted, *stored)):
            yield from _differences(wanted.get(key), stored.get(key), f"{path}.{key}")
    elif isinstance(wanted, list) and isinstance(stored, list) and len(wanted) == len(stored):
        for index, (one, other) in enumerate(zip(wanted, stored, strict=True)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif wanted != stored:
        yield f"{path}: {wanted!r} is stored as {stored!r}"
