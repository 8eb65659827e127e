"""One translator for everything that can be wrong with a file: each problem becomes one ``InputError`` line.

    trace.jsonl: line 3: calls[2].input_tokens is 'many': must be an integer
    nodes.yaml: line 12: nodes[0].gpu is not a known field: must be left out (did you mean 'gpus'?)

msgspec says what it expected and where, but not what it found; the raw document is looked up for that.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from scepsy.errors import InputError

Step = str | int
Lines = Mapping[tuple[Step, ...], int]

WHOLE_BYTES = 1 << 30
"""A document longer than this is refused: it would not be one of ours, and decoded it takes many times as much memory."""

_PATH = re.compile(r" - at (?:`key` in )?`\$([^`]*)`$")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")
_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}


def fail(path: str | Path, problem: str, *, line: int | None = None) -> InputError:
    """Build the error: file, line if known, problem, on one line."""
    where = f"{path}: line {line}: " if line else f"{path}: "
    return InputError(where + " ".join(problem.split()))


def dotted(steps: tuple[Step, ...]) -> str:
    """Write a place in a document as one reads it.

    >>> dotted(("calls", 2, "input_tokens"))
    'calls[2].input_tokens'
    """
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".")


def shown(value: object, limit: int = 60) -> str:
    """Show a value in a message: its repr, cut."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def explain(
    error: msgspec.ValidationError, document: Any, kind: Any, prefix: tuple[Step, ...] = ()
) -> tuple[tuple[Step, ...], str]:
    """Say where in ``document`` (what was decoded, untyped) a ``ValidationError`` is, and what is wrong, in words.

    ``kind`` is the type it was decoded as: its field names are what a misspelt one is compared with.
    """
    message = str(error)
    found = _PATH.search(message)
    what = message[: found.start()] if found else message
    steps = _steps(found.group(1) if found else "")
    place = (*prefix, *steps)
    here = dotted(place) or "the document"
    dot = f"{dotted(place)}." if place else ""
    match: re.Match[str] | None
    if match := re.fullmatch(r"Object missing required field `(.+)`", what):
        return place, f"{dot}{match.group(1)} is missing: must be given (add it)"
    if match := re.fullmatch(r"Object contains unknown field `(.+)`", what, re.DOTALL):
        return (
            *place,
            match.group(1),
        ), f"{dot}{match.group(1)} is not a known field: must be left out{_hint(match.group(1), kind)}"
    if match := re.match(r"Expected `([^`]+)`", what):
        must = " or ".join(_WORDS.get(word.strip(), word.strip()) for word in match.group(1).split("|"))
        length = re.search(r" of length ([^,]+)", what)
        return (
            place,
            f"{here} is {_value_at(document, steps)}: must be {must}{' of length ' + length.group(1) if length else ''}",
        )
    if what.startswith("Invalid enum value"):
        return place, f"{here} is {_value_at(document, steps)}: must be one of {_allowed(kind, steps)}"
    if what == "Number out of range":
        return place, f"{here} is out of range: must be a finite number that fits 64 bits"
    if match := re.match(r"([\w.\[\]]+)( is |:)", what):  # a value's own check, which begins with its field
        return (*place, *_steps(f".{match.group(1)}")), f"{dot}{what}"
    return place, f"{here}: {what}"


def _steps(path: str) -> list[Step]:
    steps: list[Step] = []
    for match in _STEP.finditer(path):
        if match.group(1) is not None:
            steps.append(match.group(1))
        elif match.group(2) is not None:
            steps.append(int(match.group(2)))
        else:
            break  # "[...]": some key of a mapping; msgspec does not say which
    return steps


def _value_at(document: Any, steps: list[Step]) -> str:
    for step in steps:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return "of the wrong type"
    return "missing" if document is None else shown(document)


def _hint(name: str, kind: Any) -> str:
    close = difflib.get_close_matches(
        name, sorted({field for struct in _structs(kind) for field in struct.__struct_fields__}), 1
    )
    return f" (did you mean {close[0]!r}?)" if close else " (remove it)"


def _allowed(kind: Any, steps: list[Step]) -> str:
    name = next((step for step in reversed(steps) if isinstance(step, str)), "")
    for struct in _structs(kind):
        literal = get_type_hints(struct).get(name)
        if literal is not None and get_args(literal) and all(isinstance(arg, str) for arg in get_args(literal)):
            return ", ".join(get_args(literal))
    return "the values the schema lists"


def _structs(kind: Any, seen: set[Any] | None = None) -> Iterator[type[msgspec.Struct]]:
    seen = set() if seen is None else seen
    if kind in seen:
        return
    seen.add(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        for hint in get_type_hints(kind).values():
            yield from _structs(hint, seen)
    else:
        for arg in get_args(kind):
            yield from _structs(arg, seen)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn what the operating system says about a file into ``InputError``."""
    try:
        yield
    except FileNotFoundError as error:
        raise fail(path, "does not exist: must be a readable file (check the path)") from error
    except IsADirectoryError as error:
        raise fail(path, "is a directory: must be a file (name the file inside it)") from error
    except PermissionError as error:
        raise fail(path, "cannot be read: must be readable (check its permissions)") from error
    except UnicodeDecodeError as error:
        raise fail(path, f"is not UTF-8 (byte {error.object[error.start]:#04x}): must be UTF-8 text (convert it)") from error
    except OSError as error:
        raise fail(path, f"cannot be read: {error.strerror or error} (check that the file is whole)") from error


def read_bytes(path: str | Path) -> bytes:
    """Read a whole file. Raises ``InputError`` when it is missing, a folder, unreadable or empty."""
    with reading(path), Path(path).open("rb") as file:
        data = file.read(WHOLE_BYTES + 1)
    if len(data) > WHOLE_BYTES:
        raise fail(path, f"is longer than {WHOLE_BYTES >> 20} MiB: must be shorter (is this the right file?)")
    if not data.strip():
        raise fail(path, "is empty: must hold a document (was it cut off while being written?)")
    return data


def read_text(path: str | Path) -> str:
    """Read a whole UTF-8 text file. Raises ``InputError`` as ``read_bytes`` does, and when it is not UTF-8."""
    with reading(path):
        return read_bytes(path).decode("utf-8-sig")


def decode_json(path: str | Path, data: bytes, line: int | None = None) -> Any:
    """Decode JSON to plain values. Raises ``InputError`` on anything that is not JSON."""
    try:
        return msgspec.json.decode(data)
    except UnicodeDecodeError as error:
        raise fail(path, f"is not UTF-8 (byte {data[error.start]:#04x}): must be UTF-8 text (convert it)", line=line) from error
    except RecursionError as error:
        raise fail(path, "is nested too deeply: must follow the schema", line=line) from error
    except (msgspec.DecodeError, ValueError) as error:
        if "truncated" in str(error):
            raise fail(
                path, "ends in the middle of a value: must be complete JSON (was it cut off? write it again)", line=line
            ) from error
        raise fail(path, f"is not JSON ({error}): must be JSON (NaN and Infinity are none either)", line=line) from error
