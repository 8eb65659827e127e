"""Reading single fields of foreign records, which may hold anything: text where a number is meant, numbers beyond all sense.

A field that is absent is None; one that is absurd raises ``Absurd``, so that the record is dropped and counted. Messages give
numbers, but of a text only its length: it may be a prompt.
"""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec

TOKENS_BELOW = 2**31
BYTES_PER_TOKEN = 4
"""Assumed where a call has no token counts: four bytes of UTF-8 text are one token."""

DEEPEST = 50
"""Levels of nesting that are looked through."""

EARLIEST_S, LATEST_S = 0.0, 4_102_444_800.0
"""Clock times are taken to lie between 1970 and 2100."""


class Absurd(ValueError):
    """A field of a record cannot be what it says."""


def said(value: object) -> str:
    """A foreign value as messages may show it: numbers as they are, of everything else only what it is.

    >>> said(-3), said("a secret"), said([1, 2])
    ('-3', 'a text of 8 characters', 'a list')
    """
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        text = repr(value) if not isinstance(value, int) or abs(value) < 10**24 else "a huge number"
        return text[:40]
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    return "a list" if isinstance(value, list) else "a mapping" if isinstance(value, dict) else "something else"


def get(record: Any, *paths: str) -> Any:
    """The first of these dotted paths that is there and not null; a key that contains dots itself is found too.

    >>> get({"a": {"b.c": 3}, "x": None}, "x", "a.b.c")
    3
    """
    for path in paths:
        found = _at(record, path)
        if found is not None:
            return found
    return None


def _at(record: Any, path: str) -> Any:
    if not isinstance(record, dict):
        return None
    if path in record:
        return record[path]
    for head, rest in _cuts(path):
        if head in record and (found := _at(record[head], rest)) is not None:
            return found
    return None


@cache
def _cuts(path: str) -> tuple[tuple[str, str], ...]:
    """Every way to cut a dotted path in two."""
    steps = path.split(".")
    return tuple((".".join(steps[:n]), ".".join(steps[n:])) for n in range(1, len(steps)))


def walk(value: Any, path: str, depth: int = 0) -> Iterator[Any]:
    """Everything at a dotted path; lists on the way are gone through.

    >>> list(walk({"a": [{"b": 1}, {"b": [2, 3]}]}, "a.b"))
    [1, 2, 3]
    """
    if isinstance(value, list):
        for item in value if depth < DEEPEST else ():
            yield from walk(item, path, depth + 1) if path else [item]
    elif not path:
        yield value
    elif isinstance(value, dict):
        name, _, rest = path.partition(".")
        if name in value:
            yield from walk(value[name], rest, depth + 1)


def label(value: Any, limit: int = 200) -> str:
    """An id or a name as text that can be written anywhere; empty when it is none.

    >>> label(None), label(17), label(" a\\n")
    ('', '17', 'a')
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    if isinstance(value, int):
        return str(value) if abs(value) < 10**24 else ""
    text = " ".join(value.split())[:limit]
    return text.encode("utf-8", "replace").decode()


def model_name(value: Any) -> str:
    """A model's name as a label; of a cloud's resource path (``projects/…/models/NAME``) only what it ends in.

    >>> model_name("projects/p/locations/eu/publishers/google/models/gemini-2.5-flash"), model_name("Qwen/Qwen3-8B")
    ('gemini-2.5-flash', 'Qwen/Qwen3-8B')
    """
    name = label(value)
    return name.rpartition("/models/")[2] if name.startswith(("projects/", "publishers/", "accounts/")) else name


def count(value: Any, name: str) -> int | None:
    """A number of tokens or the like: whole, from 0 to 2**31; None when absent. Raises ``Absurd``."""
    if value is None or value == "":
        return None
    number = _number(value)
    if number is None or not 0 <= number < TOKENS_BELOW or number != math.floor(number):
        raise Absurd(f"{name} is {said(value)}: must be a whole number from 0 to 2**31")
    return int(number)


def seconds(value: Any, name: str, *, unit_s: float = 1.0, most_s: float = 1e9) -> float | None:
    """A duration in seconds, given in units of ``unit_s``; None when absent. Raises ``Absurd``."""
    if value is None or value == "":
        return None
    number = _number(value)
    if number is None or not 0 <= number * unit_s <= most_s:
        raise Absurd(f"{name} is {said(value)}: must be a duration from 0 to {most_s:g} s")
    return number * unit_s


def moment_s(value: Any, name: str) -> float | None:
    """A clock time as seconds since 1970: ISO 8601, or a number of seconds, ms, µs or ns, told by its size; None when absent.

    A time without a zone is taken as UTC (only differences are ever used). Raises ``Absurd``.
    """
    if value is None or value == "":
        return None
    number = _number(value)
    if number is None and isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
            number = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            number = None
    elif number is not None:
        for limit, unit_s in ((1e11, 1.0), (1e14, 1e-3), (1e17, 1e-6), (1e20, 1e-9)):
            if number < limit:
                number *= unit_s
                break
    if number is None or not EARLIEST_S <= number <= LATEST_S:
        raise Absurd(f"{name} is {said(value)}: must be a time between 1970 and 2100")
    return number


def _number(value: Any) -> float | int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        if not text or len(text) > 40 or not (text[0].isdigit() or text[0] in "+-."):
            return None
        try:
            value = int(text) if text.isascii() and text.isdigit() else float(text)
        except ValueError:
            return None
    if isinstance(value, int):
        return value if abs(value) < 10**30 else None
    return value if isinstance(value, float) and math.isfinite(value) else None


def estimated_tokens(*values: Any) -> int:
    """Tokens of the texts in these values by the stated rule: UTF-8 bytes over four, rounded up; 0 when there is no text.

    >>> estimated_tokens([{"role": "user", "content": "hello there"}])
    4
    """
    size = sum(len(text.encode("utf-8", "replace")) for value in values for text in _texts(value))
    return min(-(-size // BYTES_PER_TOKEN), TOKENS_BELOW - 1)


def _texts(value: Any) -> Iterator[str]:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            pending.extend(item.values())


def embedded(value: Any) -> Any:
    """A value that may be JSON inside a string, decoded; else as it is."""
    if isinstance(value, str) and value[:1] in ("{", "[", '"'):
        try:
            return msgspec.json.decode(value)
        except (ValueError, RecursionError):
            return value
    return value
