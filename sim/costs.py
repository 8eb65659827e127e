"""How long iterations take, in ticks: one table for all instances of a kind, filled as batch sizes occur."""

from scepsy.profile.share import ShareLaw
from scepsy.profile.step import StepModel
from sim.clock import TICKS_PER_S


class Costs:
    """Step model and share law of one (step model, law, share).

    ``duration = f_dec·slow·(base + c·B + d·C) + f_pre·(b·P + e·X)``; without decoding sequences ``f_pre·(base + b·P +
    e·X)``. A pure decode iteration is rounded in two parts, without context and per token of context, so that a sum over
    iterations is exact.
    """

    __slots__ = ("_decode", "_decode_factors", "_law", "_prefill_factors", "_share_pct", "_step")

    def __init__(self, step: StepModel, law: ShareLaw, share_pct: int) -> None:
        self._step = step
        self._law = law
        self._share_pct = share_pct
        self._decode: dict[tuple[int, float], tuple[int, int]] = {}
        self._decode_factors: dict[int, float] = {}
        self._prefill_factors: dict[int, float] = {}

    def decode(self, sequences: int, slow: float) -> tuple[int, int]:
        """Ticks of a decode iteration of ``sequences``: (without context, per token of context)."""
        cost = self._decode.get((sequences, slow))
        if cost is None:
            step = self._step
            factor = self._decode_factor(sequences) * slow
            fixed = max(1, round(factor * (step.base_s + step.decode_s_per_sequence * sequences) * TICKS_PER_S))
            cost = self._decode[sequences, slow] = (fixed, round(factor * step.context_s_per_token * TICKS_PER_S))
        return cost

    def mixed(self, tokens: int, area: float, sequences: int, context: int, slow: float) -> int:
        """Ticks of an iteration with ``tokens`` prompt tokens (``area``: Σ of the tokens before each) beside decoding ones."""
        step = self._step
        prefill = step.prefill_s_per_token * tokens + step.attention_s_per_token2 * area
        if not sequences:
            return max(1, round(self._prefill_factor(tokens) * (step.base_s + prefill) * TICKS_PER_S))
        decode = step.base_s + step.decode_s_per_sequence * sequences + step.context_s_per_token * context
        total = self._decode_factor(sequences) * slow * decode + self._prefill_factor(tokens) * prefill
        return max(1, round(total * TICKS_PER_S))

    def _decode_factor(self, sequences: int) -> float:
        factor = self._decode_factors.get(sequences)
        if factor is None:
            factor = self._decode_factors[sequences] = self._law.decode_factor(sequences, self._share_pct)
        return factor

    def _prefill_factor(self, tokens: int) -> float:
        factor = self._prefill_factors.get(tokens)
        if factor is None:
            factor = self._prefill_factors[tokens] = self._law.prefill_factor(tokens, self._share_pct)
        return factor


_TABLES: dict[tuple[StepModel, ShareLaw, int], Costs] = {}


def costs_of(step: StepModel, law: ShareLaw, share_pct: int) -> Costs:
    """The table of one kind of instance: a pure function's memory, so sharing it between simulations changes nothing."""
    key = (step, law, share_pct)
    if key not in _TABLES:
        if len(_TABLES) >= 256:
            _TABLES.clear()
        _TABLES[key] = Costs(step, law, share_pct)
    return _TABLES[key]
