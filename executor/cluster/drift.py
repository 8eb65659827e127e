"""Where a stored object differs from the manifest that it was applied from. Pure."""

import re
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


def _compare(wanted: Any, stored: Any, path: str) -> list[Difference]:
    if isinstance(wanted, dict) and isinstance(stored, dict):
        return [d for key, value in wanted.items() for d in _compare(value, stored.get(key), f"{path}.{key}")]
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
