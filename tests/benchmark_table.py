"""What benchmarks measured, as Markdown: pytest-benchmark prints seconds only, and the docs speak of calls, MiB and gaps."""

from collections.abc import Iterable
from typing import Any


def lines_of(benchmarks: Iterable[Any]) -> list[str]:
    """One row per benchmark that ran: its best round, and what it says of itself (``extra_info``)."""
    rows = [f"| {one.name} | {seconds(one.stats.min)} | {said(one.extra_info)} |" for one in benchmarks if one.stats.rounds]
    return ["| benchmark | best round | what it says |", "|---|---|---|", *rows] if rows else []


def seconds(value: float) -> str:
    """Seconds in a unit that suits them.

    >>> seconds(12.34), seconds(0.0123), seconds(4.5e-6)
    ('12.3 s', '12.3 ms', '4.5 µs')
    """
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def said(extra: dict[str, Any]) -> str:
    """Names and values, units as they stand in the names."""
    return ", ".join(f"{name} {_number(value)}" for name, value in extra.items())


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
