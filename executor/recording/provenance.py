"""Whose output is in this input? Found by hashes of 24-byte windows, in memory, within one run; text is never kept.

Every window of an output gets a rolling hash (a polynomial modulo 2^64 with a secret base, all windows at once by prefix
sums), and one in eight, chosen by the hash itself, is remembered. An input that contains the output contains
the same windows, wherever a template put them. Outputs shorter than a few windows are compared as whole messages.
"""

import hashlib
import secrets
from collections import Counter, OrderedDict
from typing import Any

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
    """Rolling hashes under one secret base."""

    def __init__(self, secret: bytes) -> None:
        digest = hashlib.blake2b(secret, digest_size=16).digest()
        self._base = int.from_bytes(digest[:8], "little") | 1  # odd, so that it has an inverse modulo 2^64
        self._mix = np.uint64(int.from_bytes(digest[8:], "little") | 1)
        self._inverse = pow(self._base, -1, 1 << 64)
        self._powers: Hashes = np.ones(1, np.uint64)
        self._inverses: Hashes = np.ones(1, np.uint64)

    def _grow(self, length: int) -> None:
        if len(self._powers) < length:
            size = 1 << (length - 1).bit_length()
            for name, base in (("_powers", self._base), ("_inverses", self._inverse)):
                factors = np.full(size, base, np.uint64)
                factors[0] = 1
                setattr(self, name, np.cumprod(factors, dtype=np.uint64))

    def sums(self, data: bytes) -> Hashes:
        """``S[i] = Σ_{j < i} (data[j] + 1)·base^j mod 2^64``, for i = 0 … len(data)."""
        length = len(data)
        self._grow(length + 1)
        sums = np.zeros(length + 1, np.uint64)
        values = np.frombuffer(data, np.uint8).astype(np.uint64) + np.uint64(1)
        np.cumsum(values * self._powers[:length], dtype=np.uint64, out=sums[1:])
        return sums

    def prefixes(self, sums: Hashes) -> tuple[int, ...]:
        """Hashes of the first 64, 128, … bytes, 52 bits each."""
        ends = sums[PREFIX_BYTES : PREFIX_BYTES * MAX_PREFIXES + 1 : PREFIX_BYTES]
        return tuple((self._mixed(ends) >> np.uint64(12)).tolist())

    def marks(self, sums: Hashes) -> Hashes:
        """The sampled window hashes, sorted, each once."""
        length = len(sums) - 1
        if length < WINDOW:
            return np.empty(0, np.uint64)
        windows = (sums[WINDOW:] - sums[:-WINDOW]) * self._inverses[: length - WINDOW + 1]
        mixed = self._mixed(windows)
        return np.unique(mixed[mixed % np.uint64(SAMPLE) == 0])

    def _mixed(self, hashes: Hashes) -> Hashes:
        mixed = (hashes ^ (hashes >> np.uint64(31))) * self._mix
        return mixed ^ (mixed >> np.uint64(29))


class _Run:
    """What one run said, by hash: which calls each mark, message and tool-call id came from."""

    __slots__ = ("calls", "marks", "messages", "tools")

    def __init__(self) -> None:
        self.calls: OrderedDict[str, frozenset[int]] = OrderedDict()
        self.marks: dict[int, list[str]] = {}
        self.messages: dict[bytes, list[str]] = {}
        self.tools: dict[bytes, str] = {}

    def add(self, call: str, marks: frozenset[int]) -> None:
        self.calls[call] = marks
        for mark in marks:
            _append(self.marks, mark, call)
        if len(self.calls) > MAX_CALLS_PER_RUN:
            oldest, old_marks = self.calls.popitem(last=False)
            for mark in old_marks:
                owners = self.marks.get(mark)
                if owners is not None and oldest in owners:
                    owners.remove(oldest)
                    if not owners:
                        del self.marks[mark]

    def contained(self, mine: set[int]) -> dict[str, float]:
        """The part of each call's marks that is among ``mine``."""
        hits: Counter[str] = Counter()
        for mark in mine & self.marks.keys():
            hits.update(self.marks[mark])
        return {call: count / len(self.calls[call]) for call, count in hits.items() if len(self.calls[call]) >= MIN_MARKS}


def _append(index: dict[Any, list[str]], key: Any, call: str) -> None:
    """Note one more call that said it; of many that said the same, the latest are kept."""
    owners = index.setdefault(key, [])
    owners.append(call)
    if len(owners) > MAX_SAME:
        del owners[0]


class Provenance:
    """What the outputs of the runs in memory look like, by hash."""

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret if secret is not None else secrets.token_bytes(16)
        self._windows = Windows(self._secret)
        self._runs: OrderedDict[str, _Run] = OrderedDict()

    def _digest(self, text: str) -> bytes:
        return hashlib.blake2b(text.strip().encode(errors="surrogatepass"), key=self._secret, digest_size=12).digest()

    def see_input(self, run: str, texts: list[str], tool_ids: list[str]) -> tuple[tuple[Source, ...], tuple[int, ...]]:
        """What a call about to be sent contains of its run's earlier outputs, and its prefix hashes."""
        sums = self._windows.sums("".join(texts).encode(errors="surrogatepass"))
        prefixes = self._windows.prefixes(sums)
        known = self._runs.get(run)
        if known is None:
            return (), prefixes
        self._runs.move_to_end(run)
        found: dict[str, Source] = {}
        for tool_id in tool_ids:
            call = known.tools.get(self._digest(tool_id))
            if call is not None:
                found[call] = Source(call=call, contained_pct=100, by="tool")
        if known.messages:
            for text in texts:
                for call in known.messages.get(self._digest(text), ()):
                    found.setdefault(call, Source(call=call, contained_pct=100, by="message"))
        if known.marks:
            for call, part in known.contained(set(self._windows.marks(sums).tolist())).items():
                if part >= MIN_CONTAINED:
                    found.setdefault(call, Source(call=call, contained_pct=round(100 * part)))
        return tuple(found.values()), prefixes

    def see_output(self, run: str, call: str, texts: list[str], tool_call_ids: list[str]) -> bool:
        """Remember a call's output; whether it can be found again in later inputs."""
        known = self._runs.get(run)
        if known is None:
            known = self._runs[run] = _Run()
            if len(self._runs) > MAX_RUNS:
                self._runs.popitem(last=False)
        marks = self._windows.marks(self._windows.sums("\n".join(texts).encode(errors="surrogatepass")))
        known.add(call, frozenset(marks[:MAX_MARKS].tolist()))
        for text in texts:
            if len(text.strip()) >= 4:  # a bare "yes" or "7" says nothing about where it came from
                _append(known.messages, self._digest(text), call)
        for tool_id in tool_call_ids:
            known.tools[self._digest(tool_id)] = call
        return bool(tool_call_ids) or len(marks) >= MIN_MARKS
