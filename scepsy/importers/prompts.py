"""Which prompts begin alike, as block ids, where a recording has no ids of its own.

A growing history says it by lengths (``Histories``), recorded texts say it by themselves (``Texts``). Only ids leave here,
never text.
"""

from collections.abc import Iterable
from hashlib import blake2b

from scepsy.importers.fields import BYTES_PER_TOKEN

HISTORY_BLOCK_TOKENS = 128
"""Chosen: prompts of coding agents have 10,000 to 200,000 tokens, so whole blocks lose at most 1 % of what is shared."""

TEXT_BLOCK_TOKENS = 16

APPEND_ONLY = (
    "prompts of a thread that grow are taken to begin with the whole prompt before "
    f"(blocks of {HISTORY_BLOCK_TOKENS} tokens, inferred)"
)


class Histories:
    """Block ids for threads whose prompts are known by their lengths.

    A prompt that is at least as long as the one before it in its thread begins with all of it (histories are appended to);
    a shorter one (a compacted or cut history) begins with as much of it as was read from the provider's cache.
    """

    def __init__(self, block_tokens: int = HISTORY_BLOCK_TOKENS, first: int = 1) -> None:
        self.block_tokens = block_tokens
        self._next = first
        self._last: dict[str, tuple[int, tuple[int, ...]]] = {}

    def blocks(self, thread: str, input_tokens: int, cached_tokens: int = 0) -> tuple[int, ...]:
        """Ids of the next prompt's whole blocks.

        >>> histories = Histories(10)
        >>> histories.blocks("a", 25), histories.blocks("a", 41), histories.blocks("a", 30, cached_tokens=10)
        ((1, 2), (1, 2, 3, 4), (1, 5, 6))
        """
        before_tokens, before = self._last.get(thread, (0, ()))
        shared_tokens = before_tokens if input_tokens >= before_tokens else min(cached_tokens, input_tokens)
        kept = before[: shared_tokens // self.block_tokens]
        fresh = input_tokens // self.block_tokens - len(kept)
        blocks = (*kept, *range(self._next, self._next + fresh))
        self._next += max(0, fresh)
        self._last[thread] = input_tokens, blocks
        return blocks

    def begin(self, thread: str, blocks: tuple[int, ...], input_tokens: int) -> tuple[int, ...]:
        """Begin a thread with a prompt whose ids are known (they must lie below ``first``)."""
        self._last[thread] = input_tokens, blocks
        return blocks


class Texts:
    """Block ids for prompts whose text is recorded: equal beginnings, equal ids."""

    def __init__(self, block_tokens: int = TEXT_BLOCK_TOKENS) -> None:
        self.block_tokens = block_tokens
        self._ids: dict[bytes, int] = {}

    def blocks(self, texts: Iterable[str], input_tokens: int) -> tuple[int, ...]:
        """Ids of the whole blocks of a prompt, given in parts (role, content, …); no more of them than its tokens fill.

        >>> texts = Texts(1)
        >>> texts.blocks(["good mor", "ning"], 3), texts.blocks(["good evening"], 3), texts.blocks(["good morning"], 2)
        ((1, 2, 3), (1, 4, 5), (1, 2))
        """
        data = b"".join(text.encode("utf-8", "replace") for text in texts)
        size = self.block_tokens * BYTES_PER_TOKEN
        count = min(len(data) // size, input_tokens // self.block_tokens)
        chain = blake2b(digest_size=12)
        found = []
        for place in range(count):
            chain.update(data[place * size : (place + 1) * size])
            found.append(self._ids.setdefault(chain.copy().digest(), len(self._ids) + 1))
        return tuple(found)


def resized(
    ids: tuple[int, ...], own_tokens: int, block_tokens: int, known: dict[tuple[int, ...], int]
) -> tuple[int, ...] | None:
    """Block ids of ``own_tokens`` as ids of ``block_tokens``, where one divides the other; else None.

    ``known`` numbers joined blocks; one mapping for all prompts of a trace.

    >>> resized((7, 9), 128, 64, {}), resized((7, 9, 8), 64, 128, {}), resized((7,), 48, 64, {})
    ((14, 15, 18, 19), (1,), None)
    """
    if own_tokens == block_tokens:
        return ids
    if own_tokens % block_tokens == 0:
        parts = own_tokens // block_tokens
        return tuple(block * parts + part for block in ids for part in range(parts))
    if block_tokens % own_tokens == 0:
        joined = block_tokens // own_tokens
        whole = (ids[at : at + joined] for at in range(0, len(ids) - joined + 1, joined))
        return tuple(known.setdefault(group, len(known) + 1) for group in whole)
    return None
