"""Where a stored object differs from the manifest that it was applied from. Pure."""

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from executor.cluster.api import Object

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_SCALE: dict[str | None, Decimal] = {
    **{None: Decimal(1), "m": Decimal("0.001")},
    **{"k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12)},
    **{"Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40)},
}

Difference = tuple[str, Any, Any]
"""(path, planned, stored)"""


def differences(manifest: Object, stored: Object) -> list[Difference]:
    """Fields of ``spec`` and ``data`` that we set and that are otherwise now; the server's defaults are not ours to compare.

    >>> differences({"spec": {"replicas": 1}}, {"spec": {"replicas": 2, "paused": False}})
    [('spec.replicas', 1, 2)]
    """
    return [
        difference
        for part in ("spec", "data")
        if part in manifest
        for difference in _compare(manifest[part], stored.get(part, {}), part)
    ]


def additions(manifest: Object, stored: Object) -> list[tuple[str, int]]:
    """(path, how many) of list entries that somebody put beside ours: tolerations, sidecars, variables.

    >>> additions({"spec": {"tolerations": [{"key": "a"}]}}, {"spec": {"tolerations": [{"key": "a"}, {"key": "b"}]}})
    [('spec.tolerations', 1)]
    """
    return [
        (path, count)
        for part in ("spec",)
        if part in manifest
        for path, count in _more(manifest[part], stored.get(part, {}), part)
    ]


def _more(wanted: Any, stored: Any, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(wanted, dict) and isinstance(stored, dict):
        for key, value in wanted.items():
            yield from _more(value, stored.get(key), f"{path}.{key}")
    elif isinstance(wanted, list) and isinstance(stored, list) and _field(path) in _OPEN_LISTS:
        if len(stored) > len(wanted):
            yield path, len(stored) - len(wanted)
        for index, (each, match) in enumerate(_pairs(wanted, stored, _OPEN_LISTS[_field(path)])):
            yield from _more(each, match, f"{path}[{index}]")


_OPEN_LISTS = {
    **dict.fromkeys(("containers", "initContainers", "volumes", "env", "resourceClaims", "claims"), ("name",)),
    "volumeMounts": ("mountPath",),
    "ports": ("containerPort", "port", "protocol"),
    "imagePullSecrets": ("name",),
    "tolerations": ("key", "operator", "value", "effect"),
}
"""Lists that others may add to without touching what we set, and what tells their entries apart. Most are keyed lists of the
pod's schema (``x-kubernetes-list-map-keys``); tolerations are no keyed list, but admission appends to them."""


def _field(path: str) -> str:
    return path.rpartition(".")[2]


def _pairs(wanted: list[Any], stored: list[Any], keys: tuple[str, ...]) -> list[tuple[Any, Any]]:
    def key(entry: Any) -> tuple[Any, ...]:
        return tuple(entry.get(k) for k in keys if k != "protocol") if isinstance(entry, dict) else (entry,)

    by_key = {key(entry): entry for entry in stored}
    return [(entry, by_key.get(key(entry))) for entry in wanted]


def _compare(wanted: Any, stored: Any, path: str) -> list[Difference]:
    if isinstance(wanted, dict) and isinstance(stored, dict):
        return [d for key, value in wanted.items() for d in _compare(value, stored.get(key), f"{path}.{key}")]
    if isinstance(wanted, list) and isinstance(stored, list) and _field(path) in _OPEN_LISTS:
        pairs = _pairs(wanted, stored, _OPEN_LISTS[_field(path)])
        return [d for i, (a, b) in enumerate(pairs) for d in _compare(a, b, f"{path}[{i}]")]
    if isinstance(wanted, list) and isinstance(stored, list) and len(wanted) == len(stored):
        return [d for i, (a, b) in enumerate(zip(wanted, stored, strict=True)) for d in _compare(a, b, f"{path}[{i}]")]
    # An empty mapping and an absent one mean the same to the server, and so do 1000m and 1.
    if wanted == stored or (not wanted and not stored) or _same_quantity(wanted, stored):
        return []
    return [(path, wanted, stored)]


def _same_quantity(wanted: Any, stored: Any) -> bool:
    if not (isinstance(wanted, str) and isinstance(stored, str)):
        return False
    a, b = _QUANTITY.fullmatch(wanted), _QUANTITY.fullmatch(stored)
    return a is not None and b is not None and _value(a) == _value(b)


def _value(match: re.Match[str]) -> Decimal:
    return Decimal(match[1]) * _SCALE[match[2]]
