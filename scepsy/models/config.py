"""A model's ``config.json`` (Hugging Face format), read field by field: every complaint names file, field, value and remedy."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scepsy.errors import InputError

LARGEST = 10**9
"""No width, vocabulary or count of a real model is larger; beyond it a file is damaged."""

MOST_LAYERS = 10_000
LARGEST_FILE_BYTES = 32 * 1024 * 1024


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class Config:
    """One (possibly nested) JSON object of a config file. ``where`` names it in messages."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self.fields = fields
        self.where = where

    def wrong(self, field: str, must: str) -> InputError:
        """The error that a field is not what it must be."""
        value = self.fields.get(field, "missing")
        shown = value if value == "missing" else _show(value)
        return InputError(f"{self.where}: {field} is {shown}: must be {must}")

    def has(self, field: str) -> bool:
        """Whether the field is there and not null."""
        return self.fields.get(field) is not None

    def whole(self, field: str, default: int | None = None, *, minimum: int = 1, maximum: int = LARGEST) -> int:
        """A whole number in [minimum, maximum]; ``default`` where the field is missing or null. Raises ``InputError``."""
        value = self.fields.get(field)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise self.wrong(field, f"a whole number from {minimum} to {maximum}")
        return value

    def first(self, *names: str, default: int | None = None, minimum: int = 1) -> int:
        """The first of several fields that is there (families name the same thing differently)."""
        for name in names:
            if self.has(name):
                return self.whole(name, minimum=minimum)
        return self.whole(names[0], default, minimum=minimum)

    def flag(self, field: str, default: bool) -> bool:
        """True or false. Raises ``InputError`` for anything else."""
        value = self.fields.get(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(field, "true or false")
        return value

    def text(self, field: str, default: str = "") -> str:
        """A string. Raises ``InputError`` for anything else."""
        value = self.fields.get(field)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(field, "a string")
        return value

    def items(self, field: str, length: int | None = None) -> list[Any] | None:
        """A list, of ``length`` items where given; None where the field is missing or null."""
        value = self.fields.get(field)
        if value is None:
            return None
        if not isinstance(value, list) or (length is not None and len(value) != length):
            raise self.wrong(field, "a list" if length is None else f"a list with one item for each of {length} layers")
        return value

    def wholes(self, field: str, length: int | None = None) -> list[int] | None:
        """A list of whole numbers >= 0; None where the field is missing."""
        found = self.items(field, length)
        if found is not None and not all(type(item) is int and 0 <= item <= LARGEST for item in found):
            raise self.wrong(field, "a list of whole numbers >= 0")
        return found

    def words(self, field: str, length: int | None, known: Sequence[str]) -> list[str] | None:
        """A list of known words; None where the field is missing. Raises ``InputError`` naming the known ones."""
        found = self.items(field, length)
        if found is not None:
            for item in found:
                if item not in known:
                    raise InputError(f"{self.where}: {field} has {_show(item)}: must be one of {', '.join(known)}")
        return found

    def inner(self, field: str) -> "Config | None":
        """A nested object; None where the field is missing or null."""
        value = self.fields.get(field)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(field, "a JSON object")
        return Config(value, f"{self.where}: {field}")

    @property
    def layers(self) -> int:
        """``num_hidden_layers``."""
        return self.whole("num_hidden_layers", maximum=MOST_LAYERS)

    @property
    def architectures(self) -> tuple[str, ...]:
        """The class names in ``architectures``."""
        found = self.items("architectures") or []
        if not all(isinstance(item, str) for item in found):
            raise self.wrong("architectures", "a list of class names")
        return tuple(found)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; ``Infinity`` and ``NaN`` are read as Python's json writes them. Raises ``InputError``."""
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise InputError(f"{path}: more than {LARGEST_FILE_BYTES // 2**20} MiB: must be a model's config.json")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: must be a model folder with its config.json") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: must be the model's config.json") from error
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON object ({error}): must be the model's configuration") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a JSON object (it is {type(found).__name__}): must be the model's configuration")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite int or float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e18 and math.isfinite(value)
