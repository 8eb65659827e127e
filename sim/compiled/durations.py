"""How long iterations take, as in ``sim.engine.costs``."""

import numpy as np

from sim.compiled.layout import (
    CAPACITY,
    I_ATTENTION,
    I_BASE,
    I_BATCH_RANGE,
    I_CONTEXT_COST,
    I_DECODE,
    I_DECODE_K,
    I_DECODE_LARGE_K,
    I_EXTRA,
    I_LOW_BATCH,
    I_PREFILL,
    I_PREFILL_FACTOR,
    I_PREFILL_SMALL_FACTOR,
    I_PREFILL_TOKENS,
    I_WEIGHTS,
)
from sim.compiled.memory import get, getf, jit

TICKS_PER_S = 1e15


@jit
def _decode_factor(m: int, i: int, sequences: int) -> float:
    """``ShareLaw.decode_factor``."""
    weight = min(max((sequences - getf(m, i + I_LOW_BATCH)) / getf(m, i + I_BATCH_RANGE), 0.0), 1.0)
    k = getf(m, i + I_DECODE_K)
    k = k + (getf(m, i + I_DECODE_LARGE_K) - k) * weight
    return 1.0 + k * getf(m, i + I_EXTRA)


@jit
def _weights_s(m: int, i: int, tokens: int) -> float:
    """``StepModel.weights_s``: of a mixture of experts it stands in a table."""
    table = get(m, i + I_WEIGHTS)
    return getf(table, tokens) if table else getf(m, i + I_BASE)


@jit
def decode_ticks(m: int, i: int, sequences: int, slow: float) -> tuple[int, int]:
    """``Costs.slowed``: ticks of a decode iteration without context, and per token of context."""
    factor = _decode_factor(m, i, sequences) * slow
    fixed = np.rint(factor * (_weights_s(m, i, sequences) + getf(m, i + I_DECODE) * sequences) * TICKS_PER_S)
    return max(1, int(fixed)), int(np.rint(factor * getf(m, i + I_CONTEXT_COST) * TICKS_PER_S))


@jit
def mixed_ticks(m: int, i: int, tokens: int, area: float, sequences: int, context: int, slow: float) -> int:
    """``Costs.mixed``."""
    prefill = getf(m, i + I_PREFILL) * tokens + getf(m, i + I_ATTENTION) * area
    if tokens >= get(m, i + I_PREFILL_TOKENS):
        factor = getf(m, i + I_PREFILL_FACTOR)
    else:
        factor = getf(m, i + I_PREFILL_SMALL_FACTOR)
    if sequences == 0:
        return max(1, int(np.rint(factor * (_weights_s(m, i, tokens) + prefill) * TICKS_PER_S)))
    decode = _weights_s(m, i, tokens + sequences) + getf(m, i + I_DECODE) * sequences + getf(m, i + I_CONTEXT_COST) * context
    total = _decode_factor(m, i, sequences) * slow * decode + factor * prefill
    return max(1, int(np.rint(total * TICKS_PER_S)))


@jit
def prompt_work(m: int, i: int, tokens: int, area: float) -> int:
    """``Costs.work``."""
    capacity = getf(m, CAPACITY)
    if capacity == 0.0:
        return 0
    prefill = getf(m, i + I_PREFILL) * tokens + getf(m, i + I_ATTENTION) * area
    return int(np.rint(prefill / capacity * TICKS_PER_S))
