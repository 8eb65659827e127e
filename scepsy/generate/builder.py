"""Builds one run call by call, and gives equal prompt prefixes equal block ids."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from scepsy.workload import Call, CallKind, Run

BLOCK_TOKENS = 64
"""Tokens per prefix block (the block size of public prefix traces)."""


class Segment(NamedTuple):
    """A piece of prompt text: equal names are equal texts."""

    name: str
    tokens: int
    shared: bool = False
    """Whether other runs use the same text (system prompts, instructions, schemas)."""


Prompt = tuple[Segment, ...]


class BlockIds:
    """Numbers the distinct prompt prefixes, block by block, in order of first use: equal ids, equal prefixes."""

    def __init__(self) -> None:
        self._shared: dict[tuple[object, ...], int] = {}
        self._own: dict[tuple[object, ...], int] = {}
        self._next = 0

    def forget_run(self) -> None:
        """Drop what no later run can share, so that memory stays bounded."""
        self._own.clear()

    def of(self, prompt: Prompt) -> tuple[int, ...]:
        """Ids of the prompt's whole blocks."""
        ids: list[int] = []
        before = -1
        pieces: list[tuple[str, int, int]] = []
        room, shared = BLOCK_TOKENS, True
        for segment in prompt:
            offset = 0
            while offset < segment.tokens:
                length = min(room, segment.tokens - offset)
                pieces.append((segment.name, offset, length))
                shared = shared and segment.shared
                offset += length
                room -= length
                if room == 0:
                    before = self._number((before, *pieces), shared)
                    ids.append(before)
                    pieces, room = [], BLOCK_TOKENS
        return tuple(ids)

    def _number(self, key: tuple[object, ...], shared: bool) -> int:
        table = self._shared if shared else self._own
        if key not in table:
            table[key] = self._next
            self._next += 1
        return table[key]


class RunBuilder:
    """One run under construction."""

    def __init__(
        self, run: str, rng: np.random.Generator, llms: Mapping[str, str], kinds: Mapping[str, CallKind], blocks: BlockIds
    ) -> None:
        self.rng = rng
        self._run = run
        self._llms = llms
        self._kinds = kinds
        self._blocks = blocks
        self._calls: list[Call] = []

    def text(self, name: str, tokens: int) -> Segment:
        """A text of this run alone."""
        return Segment(f"{self._run}/{name}", max(1, int(tokens)))

    def call(
        self, name: str, role: str, prompt: Prompt, output_tokens: int = 0, after: Sequence[str] = (), gap_s: float = 0.0
    ) -> Segment:
        """Add one call after the named ones; returns its answer, to be put into later prompts."""
        self._calls.append(
            Call(
                id=name,
                llm=self._llms[role],
                kind=self._kinds[role],
                input_tokens=sum(segment.tokens for segment in prompt),
                output_tokens=int(output_tokens),
                parents=tuple(after),
                gap_s=round(gap_s, 4),
                prefix_hashes=self._blocks.of(prompt),
            )
        )
        return self.text(f"{name}>", output_tokens)

    def finish(self, run_id: str, workflow: str) -> Run:
        """The run."""
        self._blocks.forget_run()
        return Run(id=run_id, workflow=workflow, calls=tuple(self._calls))


def instructions(name: str, tokens: int) -> Segment:
    """A text that every run of the workflow begins with."""
    return Segment(name, tokens, shared=True)


def lognormal(rng: np.random.Generator, median: float, sigma: float, low: int, high: int) -> int:
    """Draw a whole number from a log-normal, redrawn until it lies in [low, high].

    Redrawing keeps the shape inside the limits; clipping would pile mass on them.
    """
    while True:
        value = round(float(rng.lognormal(np.log(median), sigma)))
        if low <= value <= high:
            return value


def lognormal_s(rng: np.random.Generator, median_s: float, sigma: float) -> float:
    """Draw seconds from a log-normal."""
    return float(rng.lognormal(np.log(median_s), sigma))


def integer(rng: np.random.Generator, low: int, high: int) -> int:
    """Draw a whole number uniformly from [low, high]."""
    return int(rng.integers(low, high + 1))
