"""How long iterations take, in ticks: one table for all instances of a kind, filled as batch sizes occur."""

from collections.abc import Callable
from typing import TypeVar

from scepsy.profile.share import ShareLaw
from scepsy.profile.step import StepModel
from sim.engine.clock import TICKS_PER_S

Key = TypeVar("Key")
Value = TypeVar("Value")


class Table(dict[Key, Value]):
    """Values of a pure function, computed when first asked for."""

    def __init__(self, function: Callable[[Key], Value]) -> None:
        self._function = function

    def __missing__(self, key: Key) -> Value:
        value = self[key] = self._function(key)
        return value


class Costs:
    """Step model and share law of one (step model, law, share).

    The terms of the step model for decoding, the weights included (``StepModel.weights_s``), are multiplied by the law's decode
    factor and by the slow-down. The terms for prompts are multiplied by its prefill factor. Without decoding sequences the
    weights count with the prompts. A pure decode iteration is rounded in two parts, one without context and one per token of
    context, so that a sum over iterations is exact.
    """

    __slots__ = ("_decode_factors", "_law", "_prefill_factors", "_share_pct", "_slowed", "_step", "decode")

    def __init__(self, step: StepModel, law: ShareLaw, share_pct: int) -> None:
        self._step = step
        self._law = law
        self._share_pct = share_pct
        self.decode: Table[int, tuple[int, int]] = Table(lambda sequences: self._decode(sequences, 1.0))
        """Ticks of a decode iteration by its sequences, nobody slowing it: (without context, per token of context)."""
        self._slowed: Table[tuple[int, float], tuple[int, int]] = Table(lambda key: self._decode(*key))
        self._decode_factors: Table[int, float] = Table(lambda sequences: law.decode_factor(sequences, share_pct))
        self._prefill_factors: Table[int, float] = Table(lambda tokens: law.prefill_factor(tokens, share_pct))

    def slowed(self, sequences: int, slow: float) -> tuple[int, int]:
        """The same beside others who slow it by the factor ``slow``."""
        return self._slowed[sequences, slow]

    def _decode(self, sequences: int, slow: float) -> tuple[int, int]:
        step = self._step
        factor = self._decode_factors[sequences] * slow
        fixed = max(1, round(factor * (step.weights_s(sequences) + step.decode_s_per_sequence * sequences) * TICKS_PER_S))
        return fixed, round(factor * step.context_s_per_token * TICKS_PER_S)

    def mixed(self, tokens: int, area: float, sequences: int, context: int, slow: float) -> int:
        """Ticks of an iteration with ``tokens`` prompt tokens (``area``: Σ of the tokens before each) beside decoding ones."""
        step = self._step
        prefill = step.prefill_s_per_token * tokens + step.attention_s_per_token2 * area
        if not sequences:
            return max(1, round(self._prefill_factors[tokens] * (step.weights_s(tokens) + prefill) * TICKS_PER_S))
        decode = (
            step.weights_s(tokens + sequences) + step.decode_s_per_sequence * sequences + step.context_s_per_token * context
        )
        total = self._decode_factors[sequences] * slow * decode + self._prefill_factors[tokens] * prefill
        return max(1, round(total * TICKS_PER_S))

    def work(self, tokens: int, area: float, capacity: float | None) -> int:
        """Ticks that a whole GPU's compute needs for the prompt tokens alone; 0 without a budget (``capacity`` None)."""
        if capacity is None:
            return 0
        step = self._step
        prefill = step.prefill_s_per_token * tokens + step.attention_s_per_token2 * area
        return round(prefill / capacity * TICKS_PER_S)


_TABLES: dict[tuple[StepModel, ShareLaw, int], Costs] = {}


def costs_of(step: StepModel, law: ShareLaw, share_pct: int) -> Costs:
    """The table of one kind of instance: a pure function's memory, so sharing it between simulations changes nothing."""
    key = (step, law, share_pct)
    if key not in _TABLES:
        if len(_TABLES) >= 256:
            _TABLES.clear()
        _TABLES[key] = Costs(step, law, share_pct)
    return _TABLES[key]
