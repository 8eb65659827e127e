"""Whose output is in this input? Found by hashes of 24-byte windows, in memory; text is never kept.

Texts are squeezed to letters and digits first, so that a template, JSON quoting or other line breaks around a text do not hide
it. Every window of an output gets a rolling hash (a polynomial modulo 2^64 with a secret base, all windows at once by prefix
sums), and one in four, chosen by the hash itself, is remembered, unless the call's own input had it already: what a call
repeats it did not say first. An input that contains the output contains the same windows. Outputs shorter than a few
windows are compared as whole messages.

Calls of one run are compared with each other; calls that nothing attributes to a run are compared with all such calls.

What is remembered is bounded per call, per run, and over all runs (``MAX_MARKS_HELD`` marks; the oldest calls are forgotten
first).
"""

import base64
import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scepsy.importers.recorded.record import PREFIX_BYTES, SourceCall

Hashes = npt.NDArray[np.uint64]

ANYWHERE = ""
"""The scope of calls that nothing attributes to a run."""

WINDOW_BYTES = 24
"""Bytes: long enough that common phrases rarely match, short enough for one-line answers."""

WINDOWS_PER_MARK = 4
"""One window in so many is remembered."""

MIN_MARKS = 2
"""With fewer an output is too short to be found by its windows."""

MAX_MARKS = 64
"""Per output: the smallest hashes are kept, so that any two texts keep the same ones."""

MIN_CONTAINED = 0.6
"""Part of an output's marks that an input must hold: templates cut and strip, other texts share a few phrases at most."""

MIN_QUOTED = 2.5
"""Or so many marks that nobody else said (those that others said too count in part): an output that was cut or summarised."""

MAX_MARKS_HELD = 500_000
"""Marks remembered over all runs. Those of a call are forgotten together, the oldest call first."""

MAX_PREFIXES = 2048
MAX_CALLS_PER_RUN = 512
"""A conversation of thousands of calls is linked to its latest ones, which contain what came before."""

MAX_CALLS_OF_ONE_TEXT = 8
"""Calls remembered for one and the same text."""

FEW = 16
"""So many hashes are scrambled one by one: operations on whole arrays cost more."""

HASHED_BLOCK_BYTES = 64 * 1024
"""Bytes hashed at a time: longer texts need no longer tables."""

MAX_INPUT_MARKS = 16_384
"""Marks of an input that are looked up, and kept while its call is in flight."""

MARKS_WRITTEN = 192
"""Marks of an input that are written down, for calls that nothing attributes to a run: of one window in eight, the smallest."""

HEAD_LENGTHS = (16, 32, 64)
"""Letters of an input's begin that are hashed, for the same calls: what begins alike is of one template."""

TEMPLATE_MARK_CALLS = 16
"""An input mark seen in so many such calls belongs to a template, and is written down no more."""

MAX_INPUT_MARKS_COUNTED = 2048
"""Marks of an input that are counted at all."""

MAX_MARKS_COUNTED = 100_000
"""Input marks whose number of calls is known."""

_QUOTED = re.compile(rb"\\u([0-9a-fA-F]{4})")
_KEEP = bytes(byte for byte in range(128) if not chr(byte).isalnum())
_LOWER = bytes(range(256)).lower()


def squeeze(text: str) -> bytes:
    """Letters and digits alone, in lower case; what quoting in JSON adds is taken off.

    >>> squeeze('She said: "Go\\n on"'), squeeze('{"a": "She said: \\\\"Go\\\\n on\\\\""}')[1:]
    (b'shesaidgoon', b'shesaidgoon')
    """
    data = text.encode(errors="surrogatepass")
    if b"\\" in data:
        data = data.replace(b"\\n", b"").replace(b"\\r", b"").replace(b"\\t", b"")
        if b"\\u" in data:
            data = _QUOTED.sub(lambda match: chr(int(match[1], 16)).encode(errors="surrogatepass"), data)
    return data.translate(_LOWER, _KEEP)


class Windows:
    """Rolling hashes under one secret base.

    Few numpy operations, since a call is short and each operation costs more than the bytes it works on.
    """

    def __init__(self, secret: bytes) -> None:
        digest = hashlib.blake2b(secret, digest_size=16).digest()
        self._base = int.from_bytes(digest[:8], "little") | 1  # odd, so that it has an inverse modulo 2^64
        self._mix = int.from_bytes(digest[8:], "little") | 1
        self._powers: Hashes = np.ones(1, np.uint64)
        self._inverses: Hashes = np.full(1, self._mix, np.uint64)
        self._grow(HASHED_BLOCK_BYTES)

    def _grow(self, length: int) -> None:
        """``base^i`` and ``mix·base^-i`` for at least ``length`` i."""
        if len(self._powers) < length:
            size = 1 << (length - 1).bit_length()
            for name, first, base in (("_powers", 1, self._base), ("_inverses", self._mix, pow(self._base, -1, 1 << 64))):
                factors = np.full(size, base, np.uint64)
                factors[0] = first
                setattr(self, name, np.cumprod(factors, dtype=np.uint64))

    def sums(self, data: bytes) -> Hashes:
        """``S[i] = Σ_{j < i} data[j]·base^j mod 2^64``, for i = 0 … len(data)."""
        length = len(data)
        self._grow(length)
        sums = np.empty(length + 1, np.uint64)
        sums[0] = 0
        terms = np.frombuffer(data, np.uint8).astype(np.uint64)  # a product that converts allocates 200 kB of buffers
        terms *= self._powers[:length]
        np.add.accumulate(terms, out=sums[1:])
        return sums

    def prefixes(self, data: bytes) -> tuple[int, ...]:
        """Hashes of the first 64, 128, … bytes, 52 bits each; scrambled, since they are written down."""
        count = min(len(data) // PREFIX_BYTES, MAX_PREFIXES)
        hashes = self.sums(data[: PREFIX_BYTES * count])[PREFIX_BYTES::PREFIX_BYTES]
        if count <= FEW:
            return tuple([self._scrambled(number) for number in hashes.tolist()])
        hashes = (hashes ^ (hashes >> _31)) * self._mix
        hashes ^= hashes >> _29
        hashes >>= _12
        return tuple(hashes.tolist())

    def _scrambled(self, number: int) -> int:
        number = (number ^ (number >> 31)) * self._mix % 2**64
        return (number ^ (number >> 29)) >> 12

    def marks(self, data: bytes) -> Hashes:
        """The sampled window hashes, in the order of their windows: those whose highest bits are all zero."""
        if len(data) <= HASHED_BLOCK_BYTES:
            return self._marks(self.sums(data))
        step = HASHED_BLOCK_BYTES - WINDOW_BYTES + 1  # blocks overlap, so that every window lies in one
        return np.concatenate([self._marks(self.sums(data[at : at + HASHED_BLOCK_BYTES])) for at in range(0, len(data), step)])

    def _marks(self, sums: Hashes) -> Hashes:
        windows = sums[WINDOW_BYTES:] - sums[:-WINDOW_BYTES]  # nothing when the data are shorter than a window
        windows *= self._inverses[: len(windows)]
        return windows[windows < _SAMPLED]


_12, _29, _31 = (np.uint64(bits) for bits in (12, 29, 31))

_SAMPLED = np.uint64(2**64 // WINDOWS_PER_MARK)
_SKETCHED = 2**64 // (2 * WINDOWS_PER_MARK)


class _Said(NamedTuple):
    """One call's output, by hash."""

    marks: tuple[int, ...]
    messages: tuple[int, ...]
    tools: tuple[int, ...]
    sources: tuple[str, ...] = ()
    """Whose outputs its input held: what holds this call's output probably holds theirs, and need not say so."""


class _Scope:
    """What the calls of one run said, by hash: which calls each mark, message and tool-call id came from.

    Tuples of strings and numbers, which the cycle collector stops looking at: a recording gateway holds many of them.
    """

    __slots__ = ("calls", "marks", "messages", "tools")

    def __init__(self) -> None:
        self.calls: OrderedDict[str, _Said] = OrderedDict()
        self.marks: dict[int, tuple[str, ...]] = {}
        self.messages: dict[int, tuple[str, ...]] = {}
        self.tools: dict[int, tuple[str, ...]] = {}

    def add(self, call: str, said: _Said) -> None:
        self.calls[call] = said
        for index, keys in ((self.marks, said.marks), (self.messages, said.messages), (self.tools, said.tools)):
            for key in keys:
                owners = index.get(key)
                index[key] = (call,) if owners is None else (*owners[1 - MAX_CALLS_OF_ONE_TEXT :], call)

    def forget(self, call: str) -> int:
        """Leave nothing of a call; how many marks it held."""
        said = self.calls.pop(call)
        for index, keys in ((self.marks, said.marks), (self.messages, said.messages), (self.tools, said.tools)):
            for key in keys:
                owners = index.get(key)
                if owners == (call,):
                    del index[key]
                elif owners is not None:  # or one of the many that said it before
                    index[key] = tuple([owner for owner in owners if owner != call])
        return _weight(said)

    def reduced(self, found: dict[str, SourceCall]) -> dict[str, SourceCall]:
        """Without those that another found call had in its own input: a long conversation names its latest turn only."""
        if len(found) < 2:
            return found
        left, kept = set(found), {}
        for call in reversed(self.calls):
            if not left:
                break
            if call not in left:
                continue
            left.discard(call)
            kept[call] = found[call]
            stack = [call]
            while stack:
                for before in self.calls[stack.pop()].sources:
                    if before in left:
                        left.discard(before)
                        stack.append(before)
        return kept

    def contained(self, mine: list[int]) -> dict[str, float]:
        """The part of each call's marks that is among ``mine``, of calls of which enough is."""
        hits: dict[str, int] = {}
        own: dict[str, float] = {}
        for mark in self.marks.keys() & mine:
            owners = self.marks[mark]
            for call in owners:
                hits[call] = hits.get(call, 0) + 1
                own[call] = own.get(call, 0.0) + 1 / len(owners)
        found = {}
        for call, count in hits.items():
            part = count / len(self.calls[call].marks)
            if (part >= MIN_CONTAINED and len(self.calls[call].marks) >= MIN_MARKS) or own[call] >= MIN_QUOTED:
                found[call] = part
        return found


def _weight(said: _Said) -> int:
    """Entries in the indexes, and a few more for the call itself."""
    return len(said.marks) + len(said.messages) + len(said.tools) + 4


class Seen(NamedTuple):
    """What an input showed."""

    input_bytes: int
    prefix: tuple[int, ...]
    sources: tuple[SourceCall, ...] = ()
    marks: Sequence[int] = ()
    """Of the input itself, while its call is in flight."""
    sketch: str = ""
    """Some of them to write down: base64 of 32-bit numbers, smallest first."""
    heads: tuple[int, ...] = ()
    """Hashes of its begin."""


NOTHING_SEEN = Seen(0, ())


class Provenance:
    """What the outputs of the calls in memory look like, by hash.

    Whole messages and tool-call ids go by Python's own hash of strings, which has a secret of its own in each process and
    costs a fifteenth of a digest; no such hash is ever written down.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._key = secret if secret is not None else secrets.token_bytes(16)
        self._windows = Windows(self._key)
        self._scopes: dict[str, _Scope] = {}
        self._order: OrderedDict[tuple[str, str], None] = OrderedDict()
        self.held = 0
        """Entries remembered, over all scopes."""
        self._counts: OrderedDict[int, int] = OrderedDict()  # a dict would look at all that it lost to find its first

    def see_input(self, scope: str, texts: list[str], tool_ids: list[str]) -> Seen:
        """What a call about to be sent contains of earlier outputs, its length and its prefix hashes."""
        data = "".join(texts).encode(errors="surrogatepass")
        prefixes = self._windows.prefixes(data)
        squeezed = list(map(squeeze, texts))
        marks = self._windows.marks(b"\n".join(squeezed))[:MAX_INPUT_MARKS].tolist()
        known = self._scopes.get(scope)
        found = known.reduced(self._sources(known, squeezed, tool_ids, marks)) if known is not None else {}
        if scope != ANYWHERE:
            return Seen(len(data), prefixes, tuple(found.values()), marks)
        begin = b"".join(squeezed[:4])
        heads = tuple(self._keyed(begin[:letters]) for letters in HEAD_LENGTHS)
        return Seen(len(data), prefixes, tuple(found.values()), marks, self._sketch(marks, known), heads)

    def _keyed(self, data: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(data, digest_size=5, key=self._key).digest(), "big")

    def _sources(self, known: _Scope, squeezed: list[bytes], tool_ids: list[str], marks: list[int]) -> dict[str, SourceCall]:
        found: dict[str, SourceCall] = {}
        for tool_id in tool_ids:
            for call in known.tools.get(hash(tool_id), ())[-1:]:
                found[call] = SourceCall(call=call, contained_pct=100, by="tool")
        if known.messages:
            for text in squeezed:
                for call in known.messages.get(hash(text), ()):
                    found.setdefault(call, SourceCall(call=call, contained_pct=100, by="message"))
        if known.marks:
            for call, part in known.contained(marks).items():
                found.setdefault(call, SourceCall(call=call, contained_pct=round(100 * part)))
        return found

    def _sketch(self, marks: list[int], known: _Scope | None) -> str:
        """Marks by which calls of one run know each other without one containing the other: a question that all repeat."""
        chosen: list[int] = []
        said = known.marks if known is not None else {}
        for mark in sorted({mark for mark in marks if mark < _SKETCHED})[:MAX_INPUT_MARKS_COUNTED]:
            count = self._counts.pop(mark, 0) + 1
            self._counts[mark] = count  # moved to the end: the one used longest ago is forgotten first
            if count <= TEMPLATE_MARK_CALLS and mark not in said and len(chosen) < MARKS_WRITTEN:
                chosen.append(mark >> 29)
        while len(self._counts) > MAX_MARKS_COUNTED:
            self._counts.popitem(last=False)
        return base64.b64encode(np.array(chosen, "<u4").tobytes()).decode()

    def see_output(
        self,
        scope: str,
        call: str,
        texts: list[str],
        tool_call_ids: list[str],
        own: Collection[int] = (),
        sources: Iterable[SourceCall] = (),
    ) -> bool:
        """Remember a call's output, less what its own input held; whether it can be found again in later inputs."""
        known = self._scopes.get(scope)
        if known is None:
            known = self._scopes[scope] = _Scope()
        squeezed = list(map(squeeze, texts))
        found = self._windows.marks(b"\n".join(squeezed))
        if len(found) > MAX_MARKS:
            found = np.unique(found)[: MAX_MARKS + len(own)]  # the smallest: among them are enough that are not its own
        marks = sorted(set(found.tolist()).difference(own))[:MAX_MARKS]
        said = _Said(
            tuple(marks),
            tuple({hash(text) for text in squeezed if len(text) >= 4}),  # a bare "yes" or "7" says nothing about its origin
            tuple({hash(tool_id) for tool_id in tool_call_ids}),
            tuple(source.call for source in sources),
        )
        known.add(call, said)
        self._order[scope, call] = None
        self.held += _weight(said)
        if scope != ANYWHERE and len(known.calls) > MAX_CALLS_PER_RUN:
            self._forget(scope, next(iter(known.calls)))
        while self.held > MAX_MARKS_HELD:
            self._forget(*next(iter(self._order)))
        return bool(tool_call_ids) or len(marks) >= MIN_MARKS

    def _forget(self, scope: str, call: str) -> None:
        del self._order[scope, call]
        known = self._scopes[scope]
        self.held -= known.forget(call)
        if not known.calls:
            del self._scopes[scope]
