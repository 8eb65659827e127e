"""What a fraction of a GPU's SMs costs, and what neighbours on the same GPU cost: the laws, as data with a source.

Share: a phase that takes t at a whole GPU takes ``t · (1 + k·(1/s − 1))`` at share s; k depends on the regime, because
decoding is bound by memory and barely notices missing SMs, while prefill is bound by them. Fitted from MuxServe's
published A100 grid by ``profile.fits``; the numbers live in ``scepsy/data/laws.yaml`` with their errors.

Contention: an instance that is decoding draws ``demand = weight bytes / (tp · base step seconds · peak bandwidth)`` of each
of its GPUs (less at a smaller share, since its steps are longer). Its decode steps are stretched by
``max(1 + interference · others, own + others)``: linear in what the decoding neighbours draw, as measured for one
pair, and never so little that the GPU would deliver more than its peak. Alone on its GPU, the factor is 1.

Compute: instances on one GPU together do at most ``compute_capacity`` whole-GPU seconds of prompt work per second. Prompt work
is what the step model adds for prompt tokens. Its base (launches, host time) is not counted, so that part overlaps. An
instance that computes a prompt draws ``1 / prefill_factor`` of the GPU; where the draws exceed the capacity, all take longer.
"""

from scepsy.value import Value, require, require_finite


class ShareLaw(Value, frozen=True, kw_only=True):
    """The k of each regime, and where regimes meet."""

    prefill_k: float
    """Prefill batches of at least ``prefill_tokens`` tokens."""
    prefill_small_k: float
    decode_k: float
    """Decode batches of at most ``decode_small_batch`` sequences."""
    decode_large_k: float
    """Decode batches of at least ``decode_large_batch`` sequences; linear in the batch in between."""
    prefill_tokens: int = 512
    decode_small_batch: int = 64
    decode_large_batch: int = 128
    source: str = ""

    def __post_init__(self) -> None:
        for field in ("prefill_k", "prefill_small_k", "decode_k", "decode_large_k"):
            require_finite(field, getattr(self, field))
        require(
            self.decode_large_batch > self.decode_small_batch,
            "decode_large_batch",
            self.decode_large_batch,
            f"> decode_small_batch ({self.decode_small_batch})",
        )

    def prefill_factor(self, tokens: int, share_pct: int) -> float:
        """How much longer the prefill of ``tokens`` tokens takes at ``share_pct`` than at a whole GPU (>= 1)."""
        k = self.prefill_k if tokens >= self.prefill_tokens else self.prefill_small_k
        return 1.0 + k * (100.0 / share_pct - 1.0)

    def decode_factor(self, sequences: int, share_pct: int) -> float:
        """How much longer a decode step of ``sequences`` sequences takes at ``share_pct`` than at a whole GPU (>= 1)."""
        low, high = self.decode_small_batch, self.decode_large_batch
        weight = min(max((sequences - low) / (high - low), 0.0), 1.0)
        k = self.decode_k + (self.decode_large_k - self.decode_k) * weight
        return 1.0 + k * (100.0 / share_pct - 1.0)


class ContentionLaw(Value, frozen=True, kw_only=True):
    """Memory bandwidth that instances on one GPU share."""

    interference: float
    """Stretch of a decode step per unit of peak bandwidth that decoding neighbours draw."""
    compute_capacity: float | None = 1.0
    """Prompt work that all instances of a GPU do together, whole-GPU seconds per second. None: no budget (to compare with)."""
    source: str = ""
    compute_source: str = ""

    def __post_init__(self) -> None:
        require_finite("interference", self.interference)
        if self.compute_capacity is not None:
            require_finite("compute_capacity", self.compute_capacity, exclusive=True)

    def slowdown(self, own: float, others: float) -> float:
        """Factor on a decode step of an instance drawing ``own`` of the peak while neighbours draw ``others`` (>= 1).

        >>> law = ContentionLaw(interference=0.5)
        >>> law.slowdown(0.6, 0.0), law.slowdown(0.4, 0.4), law.slowdown(0.6, 1.2)
        (1.0, 1.2, 1.7999999999999998)
        """
        return 1.0 if others <= 0.0 else max(1.0 + self.interference * others, own + others)

    def prompt_slowdown(self, own: float, others: float) -> float:
        """Mean factor on prompt work of an instance drawing ``own`` of the compute while neighbours draw ``others`` (>= 1).

        >>> law = ContentionLaw(interference=0.5)
        >>> law.prompt_slowdown(0.6, 0.3), law.prompt_slowdown(0.6, 0.6)
        (1.0, 1.2)
        """
        if others <= 0.0 or self.compute_capacity is None:
            return 1.0
        return max(1.0, (own + others) / self.compute_capacity)


class ColdStartLaw(Value, frozen=True, kw_only=True):
    """Seconds from starting an engine process to its first answer: ``base_s + s_per_billion · parameters / 1e9``."""

    base_s: float
    s_per_billion: float
    source: str = ""

    def seconds(self, parameters: float) -> float:
        """Cold-start seconds of a model of ``parameters`` weights."""
        return self.base_s + self.s_per_billion * parameters / 1e9
