"""The step model: how long one iteration of a continuous-batching engine takes, in seconds.

An iteration takes the sum of these, with the coefficients of ``StepModel``:

- ``base_s``, and for a mixture of experts ``experts_s`` times the part of the routed experts that is read. Each token
  chooses the part ``expert_part`` of them, so ``n`` tokens read ``1 - (1 - expert_part) ** n``.
- ``prefill_s_per_token`` for each prompt token
- ``attention_s_per_token2`` for each prompt token and each token of context before it, which only long prompts notice
- ``decode_s_per_sequence`` for each decoding call
- ``context_s_per_token`` for each token of context that the decoding calls read

The sum is linear in its coefficients. So a span of iterations has a closed form, and a fit is a non-negative least squares
(``profile.fits``). Source of the form: DESIGN.md, "Step model".
"""

from scepsy.value import Value, require, require_finite


class StepModel(Value, frozen=True, kw_only=True):
    """Coefficients for one (LLM, GPU type, tensor-parallel degree) at a whole GPU."""

    base_s: float
    """Cost of an iteration that does anything: weights read, kernels launched."""
    prefill_s_per_token: float
    decode_s_per_sequence: float = 0.0
    context_s_per_token: float = 0.0
    """Per iteration and token of context of the decoding sequences (KV cache read)."""
    attention_s_per_token2: float = 0.0
    """Per prefill token and token of its context."""
    experts_s: float = 0.0
    """Reading the weights of all routed experts of all layers once."""
    expert_part: float = 0.0
    """Part of a layer's routed experts that one token goes through, k/E."""

    def __post_init__(self) -> None:
        require_finite("base_s", self.base_s)
        require_finite("prefill_s_per_token", self.prefill_s_per_token)
        require_finite("decode_s_per_sequence", self.decode_s_per_sequence)
        require_finite("context_s_per_token", self.context_s_per_token)
        require_finite("attention_s_per_token2", self.attention_s_per_token2)
        require_finite("experts_s", self.experts_s)
        require_finite("expert_part", self.expert_part)
        require(self.expert_part <= 1.0, "expert_part", self.expert_part, "<= 1")
        require_finite("base_s + prefill_s_per_token", self.base_s + self.prefill_s_per_token, exclusive=True)

    def weights_s(self, tokens: float) -> float:
        """Seconds of an iteration over ``tokens`` tokens for what does not grow with them: launches, and weights that are read.

        >>> StepModel(base_s=0.01, prefill_s_per_token=1e-4, experts_s=0.02, expert_part=0.5).weights_s(2)
        0.025
        """
        if not self.experts_s:
            return self.base_s
        return float(self.base_s + self.experts_s * (1.0 - (1.0 - self.expert_part) ** tokens))

    def step_s(self, prefill_tokens: int, attention_token2: float, sequences: int, context_tokens: int) -> float:
        """Seconds of one iteration at a whole GPU.

        >>> StepModel(base_s=0.01, prefill_s_per_token=1e-4, decode_s_per_sequence=1e-3).step_s(100, 0, 2, 0)
        0.022
        """
        return (
            self.weights_s(prefill_tokens + sequences)
            + self.prefill_s_per_token * prefill_tokens
            + self.attention_s_per_token2 * attention_token2
            + self.decode_s_per_sequence * sequences
            + self.context_s_per_token * context_tokens
        )
