"""The base of every value: frozen, keyword-built, refusing unknown fields when read from a file."""

import math
from typing import Any

import msgspec


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A frozen value, valid once built.

    Subclasses check themselves in ``__post_init__`` and raise ``ValueError("field is 3: must be ...")``;
    the ``files`` package turns that into an ``InputError`` naming the file and the path inside it.
    """


def require(ok: bool, field: str, value: Any, must: str) -> None:
    """Raise ``ValueError`` naming the field, its value and what it must be, unless ``ok``.

    >>> require(-1 >= 0, "input_tokens", -1, ">= 0")
    Traceback (most recent call last):
    ...
    ValueError: input_tokens is -1: must be >= 0
    """
    if not ok:
        raise ValueError(f"{field} is {value!r}: must be {must}")


def require_finite(field: str, value: float, *, minimum: float = 0.0, exclusive: bool = False) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite number >= ``minimum`` (or > it when ``exclusive``)."""
    if not (math.isfinite(value) and (value > minimum if exclusive else value >= minimum)):
        raise ValueError(f"{field} is {value!r}: must be a finite number {'>' if exclusive else '>='} {minimum:g}")
