"""Aegaeon's arithmetic: what a model switch costs, how long each batch decodes in a round, how engines are split. Pure.

Source: Aegaeon (SOSP 2025), as described in public: engines are split into prefill and decode; a decode round gives batch i a
quota such that every request keeps its time-between-tokens target on average, switches included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import Literal

Dispatch = Literal["published", "balanced", "counted"]
DISPATCHES: tuple[Dispatch, ...] = ("published", "balanced", "counted")


@dataclass(frozen=True)
class Settings:
    """The published defaults, and what we had to assume."""

    prefill_engines: int
    decode_engines: int
    max_group: int = 8
    """Prefill calls of one model grouped together."""
    max_quota_s: float = 4.0
    """QMAX"""
    tbt_target_s: float = 0.1
    least_alpha: float = 0.5
    host_bytes_per_s: float = 16e9
    """Weights and KV between host and GPU."""
    least_switch_s: float = 0.010
    host_cache_tokens: int = 4_000_000
    """Prompt tokens per LLM whose KV stays in host memory for reuse (assumed: 2 TB for a 7B model; no published figure).
    0: prompts are always computed whole, as published."""
    dispatch: Dispatch = "published"
    """published: prefill appends to a group of the same model anywhere, else to the engine with the least queued work; decode
    joins a batch of the same model anywhere, so that one engine fills up before the next has work. balanced: decode joins only
    when no decode engine is idle, and then where the fewest calls are. counted: prefill goes
    where it would be served first, the switch that it causes itself counted, so that engines which hold the model are
    seen; decode as balanced, idle engines that hold the model first. Only the first is published."""


def switch_s(weight_bytes: float, since_last_s: float | None, settings: Settings) -> float:
    """Seconds to switch to a model: its weights over the host link, less what a prefetch since the last switch has done.

    ``since_last_s`` None: not prefetched.

    >>> s = Settings(1, 1)
    >>> switch_s(16e9, None, s), switch_s(16e9, 0.75, s), switch_s(16e9, 3.0, s)
    (1.0, 0.25, 0.01)
    """
    return max(weight_bytes / settings.host_bytes_per_s - (since_last_s or 0.0), settings.least_switch_s)


def quotas_s(step_s: Sequence[float], switches_s: float, settings: Settings) -> list[float]:
    """Seconds each batch decodes in one round.

    With n_i = TBT / step_i, c the sum of distinct models' switch times: α = max(c / (min n · QMAX) + Σ 1/n_k, 0.5) and
    quota_i = c / (n_i · (α − Σ 1/n_k)): over a round of c + Σ quota seconds, batch i makes quota_i / step_i steps, which is
    its target pace divided by α. Without any switch (c = 0) the limit is taken: QMAX for the slowest, the others in proportion.

    >>> quotas_s([0.025, 0.025, 0.025], 3.0, Settings(1, 1))   # n = 4, α = max(3/16 + 3/4, 0.5): QMAX each
    [4.0, 4.0, 4.0]
    >>> [round(q, 6) for q in quotas_s([0.01, 0.01], 1.0, Settings(1, 1))]   # n = 10, α = 0.5: 1 / (10 · 0.3)
    [0.333333, 0.333333]
    """
    n = [settings.tbt_target_s / step for step in step_s]
    need = fsum(1.0 / each for each in n)
    if switches_s <= 0.0:
        return [settings.max_quota_s * min(n) / each for each in n]
    alpha = max(switches_s / (min(n) * settings.max_quota_s) + need, settings.least_alpha)
    return [switches_s / (each * (alpha - need)) for each in n]


MOST_SPLITS = 15
"""Every split is swept up to so many, beyond that those in sixteenths."""


def splits(gpus: int) -> tuple[tuple[int, int], ...]:
    """Prefill : decode splits to sweep: every one (the paper sweeps 1:3, 2:6, 3:5 and 4:4 of 8).

    >>> splits(4)
    ((1, 3), (2, 2), (3, 1))
    >>> len(splits(16)), len(splits(128))
    (15, 15)
    """
    parts: Sequence[int] = range(1, gpus)
    if len(parts) > MOST_SPLITS:
        parts = sorted({round(gpus * sixteenths / 16) for sixteenths in range(1, 16)})
    return tuple((part, gpus - part) for part in parts)
