"""YAML as the 1.2 core schema reads it, and nothing more: no aliases, no tags, no duplicate keys, no NaN.

PyYAML follows YAML 1.1, where ``no`` is false, ``1:30`` is 90 and ``1e6`` is a string; a node called ``no`` or a rate of
``1e6`` must be what it looks like. Its parser is used, its resolver is replaced (for reading and for writing, so that
what is written is read back the same), and values are built from events without recursion: a hostile file cannot
exhaust the stack, and aliases cannot blow up.
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml import events as ev

from scepsy.files.failure import Step, dotted, fail

MAX_DEPTH = 64

_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?[0-9]+$")
_FLOAT = re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$")

_JSON_LINES = re.compile(r'\{"format": ?"([\w.-]{1,40})"')
"""How the header of a file of JSON lines, such as a trace, begins."""


class _Dumper(yaml.SafeDumper):
    """Writes block style, keys in the order given, and quotes whatever the core schema would not read as a string."""

    yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own protocol)

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)


# YAML 1.1's words are kept as things to quote, so that other readers see strings too.
_WORD_1_1 = re.compile(
    r"^(?:y|Y|yes|Yes|YES|n|N|no|No|NO|on|On|ON|off|Off|OFF|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?|=|<<)$"
)
_DATE_1_1 = re.compile(r"^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*$")
for _tag, _pattern in (
    ("null", _NULL),
    ("bool", _BOOL),
    ("int", _INT),
    ("float", _FLOAT),
    ("x-1.1", _WORD_1_1),
    ("x-1.1", _DATE_1_1),
    ("x-1.1", re.compile(r"^[-+]?0[xob][0-9a-fA-F_]+$|^[-+]?[0-9][0-9_]*$")),
):
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, None)


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    if math.isfinite(value):
        text = repr(value)
    else:
        text = ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


# Line separators and control characters survive only inside double quotes, as escapes.
_PLAIN = re.compile(r"^[\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd]*$")


def _represent_str(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if _PLAIN.fullmatch(value) else '"')


_Dumper.add_representer(float, _represent_float)
_Dumper.add_representer(str, _represent_str)


def dump(document: Any) -> bytes:
    """Write plain values (mappings, lists, strings, numbers) as YAML; the same value always gives the same bytes."""
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)
    return str(text).encode()


@dataclass
class _Open:
    """A collection that is still being read."""

    value: dict[str, Any] | list[Any]
    path: tuple[Step, ...]
    key: str | None = None

    def place(self) -> tuple[Step, ...]:
        return (*self.path, len(self.value) if isinstance(self.value, list) else self.key or "")


@dataclass
class Parsed:
    """Plain values, and the line each place begins on."""

    value: Any = None
    lines: dict[tuple[Step, ...], int] = field(default_factory=dict)

    def line(self, place: tuple[Step, ...]) -> int | None:
        """Line of a place, or of the nearest thing around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place)


def parse(path: str | Path, data: bytes, *, allow_infinity: bool = False) -> Parsed:
    """Read one YAML document. Raises ``InputError`` naming file, line and field."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise fail(path, f"is not UTF-8 (byte {data[error.start]:#04x}): must be UTF-8 text (convert it)") from error
    builder = _Builder(path, allow_infinity)
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        if lines := _JSON_LINES.match(text):
            found = f"format is {lines[1]!r}, JSON lines"
            raise fail(path, f"{found}: must be a YAML document (give another file)", line=1) from error
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise fail(
            path, f"is not YAML ({error.problem} {error.context or ''}): must be one document (was it cut off?)", line=line
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise fail(path, f"is not YAML ({error}): must be text") from error
    if builder.documents == 0:
        raise fail(path, "holds only comments: must hold a document")
    return builder.parsed


class _Builder:
    def __init__(self, path: str | Path, allow_infinity: bool) -> None:
        self.path = path
        self.allow_infinity = allow_infinity
        self.stack: list[_Open] = []
        self.documents = 0
        self.parsed = Parsed()

    def take(self, event: ev.Event) -> None:
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, ev.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise fail(self.path, "is a second YAML document: must be one document (remove the ---)", line=line)
        elif isinstance(event, ev.AliasEvent):
            raise fail(self.path, f"*{event.anchor} is an alias: must be written out (aliases are not read)", line=line)
        elif isinstance(event, ev.ScalarEvent):
            self.scalar(event, line)
        elif isinstance(event, (ev.MappingStartEvent, ev.SequenceStartEvent)):
            self.open({} if isinstance(event, ev.MappingStartEvent) else [], event, line)
        elif isinstance(event, (ev.MappingEndEvent, ev.SequenceEndEvent)):
            self.stack.pop()

    def open(self, value: dict[str, Any] | list[Any], event: Any, line: int | None) -> None:
        self.refuse_tag(event, line)
        parent = self.stack[-1] if self.stack else None
        if parent and isinstance(parent.value, dict) and parent.key is None:
            raise fail(
                self.path, f"{dotted(parent.path) or 'the document'} has a collection as a key: must be a name", line=line
            )
        if len(self.stack) >= MAX_DEPTH:
            raise fail(self.path, f"is nested more than {MAX_DEPTH} deep: must follow the schema", line=line)
        place = parent.place() if parent else ()
        self.add(value, line)
        self.stack.append(_Open(value, place))

    def scalar(self, event: ev.ScalarEvent, line: int | None) -> None:
        self.refuse_tag(event, line)
        parent = self.stack[-1] if self.stack else None
        if parent and isinstance(parent.value, dict) and parent.key is None:
            if event.value in parent.value:
                name = dotted((*parent.path, event.value))
                raise fail(self.path, f"{name} is given twice: must be given once (remove one)", line=line)
            parent.key = event.value
            return
        value: Any = event.value
        if not event.style:  # plain, not quoted
            try:
                value = self.resolve(event.value)
            except ValueError as error:
                place = parent.place() if parent else ()
                raise fail(
                    self.path, f"{dotted(place) or 'the document'} is {event.value[:60]}: must be {error}", line=line
                ) from error
        self.add(value, line)

    def resolve(self, text: str) -> Any:
        if _NULL.match(text):
            return None
        if _BOOL.match(text):
            return text.lower() == "true"
        if _INT.match(text):
            if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
                raise ValueError("an integer of at most 64 bits")
            return int(text)
        if _FLOAT.match(text):
            number = float(
                text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf").lower().replace(".nan", "nan")
            )
            spelt_infinite = text.lower().endswith(".inf")
            if math.isnan(number) or (math.isinf(number) and not (self.allow_infinity and spelt_infinite)):
                raise ValueError("a finite number")
            return number
        return text

    def refuse_tag(self, event: Any, line: int | None) -> None:
        if event.tag not in (None, "!"):
            raise fail(self.path, f"{event.tag} is a tag: must be left out (plain values only)", line=line)

    def add(self, value: Any, line: int | None) -> None:
        parent = self.stack[-1] if self.stack else None
        if line is not None:
            self.parsed.lines[parent.place() if parent else ()] = line
        if parent is None:
            self.parsed.value = value
        elif isinstance(parent.value, list):
            parent.value.append(value)
        else:
            assert parent.key is not None
            parent.value[parent.key] = value
            parent.key = None
