"""What an exporter is: runs in, a file (or a folder) out, and in words what the format could not hold."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from scepsy.files.trace import TraceReader
from scepsy.workload import Run


@dataclass
class Lost:
    """What a format cannot hold, as it is found."""

    counts: Counter[str] = field(default_factory=Counter)
    """In words, with how often."""
    llms: dict[str, None] = field(default_factory=dict)
    """Names that were left out, where a format has none."""

    def said(self) -> list[str]:
        """Everything in words."""
        lines = [f"{what}: {count}" for what, count in sorted(self.counts.items())]
        if len(self.llms) > 1:
            names = ", ".join(self.llms)
            lines.append(
                f"names of LLMs are left out, so a replay sends all calls to one ({names}; --only LLM takes one's calls)"
            )
        elif self.llms:
            lines.append(f"the name of the LLM is left out ({next(iter(self.llms))})")
        return lines


Save = Callable[[Path, Iterable[Run], TraceReader, Lost], int]
"""Writes the runs atomically; returns how many calls were written. Raises ``InputError``."""


@dataclass(frozen=True)
class Exporter:
    """One format."""

    summary: str
    save: Save
    imports_as: str
    """The command that reads it back."""


def sampled_blocks(hashes: tuple[int, ...], own_tokens: int, block_tokens: int, input_tokens: int, lost: Lost) -> list[int]:
    """Prefix ids of blocks of another size: where it is a multiple, every so many-th, which stands for all before it.

    >>> sampled_blocks((1, 2, 3, 4, 5), 16, 32, 90, Lost())
    [2, 4]
    """
    if not hashes or not own_tokens:
        return []
    if block_tokens % own_tokens:
        lost.counts[f"prompts whose blocks of {own_tokens} tokens do not fit into ones of {block_tokens}, written without"] += 1
        return []
    step = block_tokens // own_tokens
    return list(hashes[step - 1 :: step])[: input_tokens // block_tokens]
