"""Whose output is in this input? Found by hashes of 24-byte windows, in memory, within one run; text is never kept.

Every window of an output gets a rolling hash (a polynomial modulo 2^64 with a secret base, all windows at once by prefix
sums), and a quarter of them, chosen by the hash itself, are remembered. An input that contains the output contains
the same windows, wherever a template put them. Outputs shorter than a few windows are compared as whole messages.
"""

import hashlib
import secrets
from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from scepsy.importers.recorded.record import PREFIX_BYTES, Source

Hashes = npt.NDArray[np.uint64]

WINDOW = 24
"""Bytes: long enough that common phrases rarely match, short enough for one-line answers."""

SAMPLE = 4
"""One window in so many is remembered."""

MAX_MARKS = 256
"""Per output: the smallest hashes are kept, so that any two texts keep the same ones."""

MIN_CONTAINED = 0.6
"""Part of an output's marks that an input must hold: templates cut and strip, other texts share a few phrases at most."""

MAX_PREFIXES = 2048
MAX_RUNS = 4096
"""Runs remembered at once; the one used longest ago is forgotten first."""

MAX_CALLS_PER_RUN = 1024


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
    __slots__ = ("calls", "messages", "tools")

    def __init__(self) -> None:
        self.calls: OrderedDict[str, Hashes] = OrderedDict()
        self.messages: dict[bytes, list[str]] = {}
        self.tools: dict[bytes, str] = {}


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
        for text in texts:
            for call in known.messages.get(self._digest(text), ()):
                found.setdefault(call, Source(call=call, contained_pct=100, by="message"))
        if any(len(marks) for marks in known.calls.values()):
            mine = self._windows.marks(sums)
            for call, marks in known.calls.items():
                if len(marks) >= 2 and call not in found:
                    contained = float(np.isin(marks, mine, assume_unique=True).mean())
                    if contained >= MIN_CONTAINED:
                        found[call] = Source(call=call, contained_pct=round(100 * contained))
        return tuple(found.values()), prefixes

    def see_output(self, run: str, call: str, texts: list[str], tool_call_ids: list[str]) -> bool:
        """Remember a call's output; whether it can be found again in later inputs."""
        known = self._runs.get(run)
        if known is None:
            known = self._runs[run] = _Run()
            if len(self._runs) > MAX_RUNS:
                self._runs.popitem(last=False)
        marks = self._windows.marks(self._windows.sums("\n".join(texts).encode(errors="surrogatepass")))
        known.calls[call] = marks[:MAX_MARKS]
        if len(known.calls) > MAX_CALLS_PER_RUN:
            known.calls.popitem(last=False)
        for text in texts:
            if len(text.strip()) >= 4:  # a bare "yes" or "7" says nothing about where it came from
                known.messages.setdefault(self._digest(text), []).append(call)
        for tool_id in tool_call_ids:
            known.tools[self._digest(tool_id)] = call
        return bool(tool_call_ids) or len(marks) >= 2
