"""The two formulas that every part of the engine needs: blocks of tokens, and the length of a span. Whole numbers, exact."""


def blocks_of(tokens: int, block_tokens: int) -> int:
    """KV blocks of ``block_tokens`` tokens that hold ``tokens``: the quotient, rounded up.

    >>> blocks_of(0, 16), blocks_of(16, 16), blocks_of(17, 16)
    (0, 1, 2)
    """
    return -(-tokens // block_tokens)


def span_ticks(steps: int, first: int, growth: int) -> int:
    """Ticks of ``steps`` decode iterations. The first takes ``first``, each later one ``growth`` more than the one before.

    >>> span_ticks(3, 10, 2)  # 10 + 12 + 14
    36
    """
    return steps * first + growth * (steps * (steps - 1) // 2)
