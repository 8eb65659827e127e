"""Token counts as providers report them, settled into all prompt tokens and all generated tokens."""

from dataclasses import dataclass

from scepsy.importers.tally import Tally

MOST_HIDDEN = 1_000_000
"""Assumed: a total that is further off than this says nothing about hidden reasoning."""


@dataclass(frozen=True)
class RecordedUsage:
    """What a record says of one call; None where it says nothing."""

    given: int | None = None
    """Input tokens, with or without cached ones."""
    made: int | None = None
    """Output tokens, with or without reasoning."""
    total: int | None = None
    cached: int = 0
    """Input tokens read from a prompt cache."""
    stored: int = 0
    """Input tokens written to a prompt cache, where counted apart."""
    reasoning: int = 0
    apart: bool = False
    """Whether the format says that ``given`` is without cached tokens."""


def settled(usage: RecordedUsage, tally: Tally) -> RecordedUsage:
    """The same with ``given`` including cached tokens and ``made`` including hidden reasoning, which the tally says.

    Input is without cached tokens where the total shows it, or where it is less than they are. Output is without reasoning
    where the total exceeds input and output, or where it is less than the reasoning.

    >>> settled(RecordedUsage(given=5, made=845, total=2023), Tally()).made
    2018
    >>> settled(RecordedUsage(given=10, made=7, cached=90, total=107), Tally()).given
    100
    """
    given, made, total = usage.given, usage.made, usage.total
    apart = usage.cached + usage.stored
    if given is not None and apart:
        shown = total is not None and total != given + (made or 0) and total >= given + (made or 0) + apart
        if shown or usage.apart or apart > given:
            given += apart
            tally.facts["calls whose input was counted without cached tokens, which were added"] += 1
    if given is not None and made is not None:
        hidden = total - given - made if total is not None else 0
        if 0 < hidden <= MOST_HIDDEN:
            made += hidden
            tally.facts["calls whose hidden reasoning (total − input − output) was counted as output"] += 1
        elif usage.reasoning > made:
            made += usage.reasoning
            tally.facts["calls whose output was counted without reasoning, which was added"] += 1
    return RecordedUsage(
        given=given, made=made, total=total, cached=usage.cached, stored=usage.stored, reasoning=usage.reasoning
    )
