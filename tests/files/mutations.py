"""Damage to files, by a seed: cut, overwritten, and, where a file is JSON or YAML, values of the wrong kind, size or place."""

import copy
import gzip
import json
import random
from typing import Any

import yaml

SCALARS: tuple[Any, ...] = (
    None, True, False, "", "x", "-1", 0, -1, 1, 0.5, -0.0, 1e308, -1e308, 1e-320, 2**31, 2**63 - 1, 2**63,
    2**64, 10**30, -(2**63), float("inf"), float("-inf"), float("nan"), [], {}, [[]], [None], [1, "a"], {"a": 1}, {"": None},
    "a" * 5000, "\0", "\ud800",
    "é λ", "1e6", ".inf", "no", "2024-01-01", "../../etc/passwd", "a\nb", "\u202e", 1e-9, 3, 7, 100, 101,
)  # fmt: skip

TOKENS = (
    b"-1", b"1e999", b"null", b"[", b"]", b"{", b"}", b"NaN", b".nan", b"\xff", b"\n", b": ", b'"', b",", b"\0", b"&a ", b"*a",
    b"!!python/object:x", b"0x1f", b"1_000", b"\t", b"\\u0000", b"\\ud800", b"9" * 400, b"[" * 3000, b'{"a":' * 3000, b"---\n",
    b"#",
)  # fmt: skip


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    found: list[tuple[Any, Any]] = []
    items = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for key, item in items:
        found.append((document, key))
        found += places(item)
    return found


def change(document: Any, draw: random.Random) -> Any:
    """One change somewhere in a document: a value, a name, an order or a number of items."""
    found = places(document)
    if not found or draw.random() < 0.02:
        return draw.choice(SCALARS)
    container, key = draw.choice(found)
    kind = draw.randrange(9)
    if kind <= 3:
        container[key] = copy.deepcopy(draw.choice(SCALARS))
    elif kind == 4:
        del container[key]
    elif kind == 5 and isinstance(container, dict):
        container[draw.choice([key + "x", "", "format", "id", key.upper(), "é"])] = container.pop(key)
    elif kind == 6:
        container[key] = draw.choice([[container[key]], {"value": container[key]}, [container[key]] * 3, str(container[key])])
    elif kind == 7 and isinstance(container, list):
        container.insert(draw.randrange(len(container) + 1), copy.deepcopy(container[key]))
    else:
        other, place = draw.choice(found)
        try:
            container[key] = copy.deepcopy(other[place])
        except (LookupError, TypeError):
            container[key] = None
    return document


def of_bytes(data: bytes, draw: random.Random) -> bytes:
    """Some bytes lost, doubled, flipped or written over."""
    content = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(content) + 1)
        until = min(len(content), at + draw.choice([0, 1, 2, 8, 64]))
        kind = draw.randrange(6)
        if kind == 0:
            del content[at:]
        elif kind == 1:
            del content[at:until]
        elif kind == 2:
            content[at:at] = content[at : at + 64]
        elif kind == 3 and at < len(content):
            content[at] ^= 1 << draw.randrange(8)
        elif kind == 4:
            content[at:until] = draw.choice(TOKENS)
        else:
            content[at:until] = draw.randbytes(until - at)
    return bytes(content)


def mutated(name: str, data: bytes, seed: int) -> bytes:
    """The content of file ``name`` with the damage of this seed. The same seed gives the same bytes."""
    draw = random.Random(f"{name} {seed}")
    if name.endswith(".gz") and draw.random() < 0.7:
        return gzip.compress(mutated(name[:-3], gzip.decompress(data), seed), mtime=0)
    if draw.random() < 0.35 or not name.endswith((".json", ".jsonl", ".yaml")):
        return of_bytes(data, draw)
    if name.endswith(".jsonl"):
        lines = [json.loads(line) for line in data.splitlines()]
        for _ in range(draw.randint(1, 2)):
            at = draw.randrange(len(lines))
            lines[at] = change(lines[at], draw)
        return b"\n".join(_json(line) for line in lines) + b"\n"
    document = json.loads(data) if name.endswith(".json") else yaml.safe_load(data)
    for _ in range(draw.randint(1, 2)):
        document = change(document, draw)
    if name.endswith(".json"):
        return _json(document)
    return yaml.safe_dump(document, allow_unicode=True, sort_keys=False).encode(errors="surrogatepass")


def _json(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=True).encode()
