"""Whose output is in this input? Found by hashes of 24-byte windows, in memory, within one run; text is never kept.

Every window of an output gets a rolling hash (a polynomial modulo 2^64 with a secret base, all windows at once by prefix
sums), and one in eight, chosen by the hash itself, is remembered. An input that contains the output contains
the same windows, wherever a template put them. Outputs shorter than a few windows are compared as whole messages.
"""

import hashlib
import secrets
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scepsy.importers.recorded.record import PREFIX_BYTES, Source

Hashes = npt.NDArray[np.uint64]

WINDOW = 24
"""Bytes: long enough that common phrases rarely match, short enough for one-line answers."""

SAMPLE = 8
"""One window in so many is remembered."""

MIN_MARKS = 2
"""With fewer an output is too short to be found by its windows."""

MAX_MARKS = 64
"""Per output: the smallest hashes are kept, so that any two texts keep the same ones."""

MIN_CONTAINED = 0.6
"""Part of an output's marks that an input must hold: templates cut and strip, other texts share a few phrases at most."""

MAX_PREFIXES = 2048
MAX_RUNS = 2048
"""Runs remembered at once; the one used longest ago is forgotten first."""

MAX_CALLS_PER_RUN = 512
"""A conversation of thousands of calls is linked to its latest ones, which contain what came before."""

MAX_SAME = 8
"""Calls remembered for one and the same text."""


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
        self._grow(4096)

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
        terms = np.multiply(np.frombuffer(data, np.uint8), self._powers[:length], dtype=np.uint64)
        np.add.accumulate(terms, out=sums[1:])
        return sums

    def prefixes(self, sums: Hashes) -> tuple[int, ...]:
        """Hashes of the first 64, 128, … bytes, 52 bits each; scrambled, since they are written down."""
        hashes = sums[PREFIX_BYTES : PREFIX_BYTES * MAX_PREFIXES + 1 : PREFIX_BYTES]
        hashes = (hashes ^ (hashes >> _31)) * self._mix
        hashes ^= hashes >> _29
        hashes >>= _12
        return tuple(hashes.tolist())

    def marks(self, sums: Hashes) -> Hashes:
        """The sampled window hashes, in the order of their windows: those whose highest bits are all zero."""
        windows = sums[WINDOW:] - sums[:-WINDOW]  # nothing when the data are shorter than a window
        windows *= self._inverses[: len(windows)]
        return windows[windows < _SAMPLED]


_12, _29, _31 = (np.uint64(bits) for bits in (12, 29, 31))

_SAMPLED = np.uint64(2**64 // SAMPLE)


class _Run:
    """What one run said, by hash: which calls each mark, message and tool-call id came from.

    Tuples of strings and numbers, which the cycle collector stops looking at: a recording gateway holds many of them.
    """

    __slots__ = ("calls", "marks", "messages", "tools")

    def __init__(self) -> None:
        self.calls: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self.marks: dict[int, tuple[str, ...]] = {}
        self.messages: dict[int, tuple[str, ...]] = {}
        self.tools: dict[int, str] = {}

    def add(self, call: str, marks: tuple[int, ...]) -> None:
        self.calls[call] = marks
        for mark in marks:
            _append(self.marks, mark, call)
        if len(self.calls) > MAX_CALLS_PER_RUN:
            oldest, old_marks = self.calls.popitem(last=False)
            for mark in old_marks:
                owners = tuple(owner for owner in self.marks.get(mark, ()) if owner != oldest)
                if owners:
                    self.marks[mark] = owners
                else:
                    self.marks.pop(mark, None)

    def contained(self, mine: list[int]) -> dict[str, float]:
        """The part of each call's marks that is among ``mine``."""
        hits: dict[str, int] = {}
        for mark in self.marks.keys() & mine:
            for call in self.marks[mark]:
                hits[call] = hits.get(call, 0) + 1
        return {call: count / len(self.calls[call]) for call, count in hits.items() if len(self.calls[call]) >= MIN_MARKS}


def _append(index: dict[int, tuple[str, ...]], key: int, call: str) -> None:
    """Note one more call that said it; of many that said the same, the latest are kept."""
    owners = index.get(key)
    index[key] = (call,) if owners is None else (*owners[1 - MAX_SAME :], call)


class Seen(NamedTuple):
    """What an input showed."""

    input_bytes: int
    prefix: tuple[int, ...]
    sources: tuple[Source, ...] = ()


NOTHING_SEEN = Seen(0, ())


class Provenance:
    """What the outputs of the runs in memory look like, by hash.

    Whole messages and tool-call ids go by Python's own hash of strings, which has a secret of its own in each process and
    costs a fifteenth of a digest; no such hash is ever written down.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._windows = Windows(secret if secret is not None else secrets.token_bytes(16))
        self._runs: OrderedDict[str, _Run] = OrderedDict()

    def see_input(self, run: str, texts: list[str], tool_ids: list[str]) -> Seen:
        """What a call about to be sent contains of its run's earlier outputs, its length and its prefix hashes."""
        data = "".join(texts).encode(errors="surrogatepass")
        sums = self._windows.sums(data)
        prefixes = self._windows.prefixes(sums)
        known = self._runs.get(run)
        if known is None:
            return Seen(len(data), prefixes)
        self._runs.move_to_end(run)
        found: dict[str, Source] = {}
        for tool_id in tool_ids:
            call = known.tools.get(hash(tool_id))
            if call is not None:
                found[call] = Source(call=call, contained_pct=100, by="tool")
        if known.messages:
            for text in texts:
                for call in known.messages.get(hash(text.strip()), ()):
                    found.setdefault(call, Source(call=call, contained_pct=100, by="message"))
        if known.marks:
            for call, part in known.contained(self._windows.marks(sums).tolist()).items():
                if part >= MIN_CONTAINED:
                    found.setdefault(call, Source(call=call, contained_pct=round(100 * part)))
        return Seen(len(data), prefixes, tuple(found.values()))

    def see_output(self, run: str, call: str, texts: list[str], tool_call_ids: list[str]) -> bool:
        """Remember a call's output; whether it can be found again in later inputs."""
        known = self._runs.get(run)
        if known is None:
            known = self._runs[run] = _Run()
            if len(self._runs) > MAX_RUNS:
                self._runs.popitem(last=False)
        found = self._windows.marks(self._windows.sums("\n".join(texts).encode(errors="surrogatepass")))
        found.sort()
        marks = tuple(dict.fromkeys(found.tolist()))[:MAX_MARKS]
        known.add(call, marks)
        for text in texts:
            text = text.strip()
            if len(text) >= 4:  # a bare "yes" or "7" says nothing about where it came from
                _append(known.messages, hash(text), call)
        for tool_id in tool_call_ids:
            known.tools[hash(tool_id)] = call
        return bool(tool_call_ids) or len(marks) >= MIN_MARKS
