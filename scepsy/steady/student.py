"""Student's t and χ² by ``scipy.special``: the same digits as ``scipy.stats``, which takes seconds to import."""

from scipy.special import gammaincinv, stdtr, stdtrit


def t_quantile(probability: float, degrees: float) -> float:
    """What a t-distributed value exceeds with 1 − ``probability``.

    >>> round(t_quantile(0.975, 19), 3)
    2.093
    """
    return float(stdtrit(degrees, probability))


def t_tail(t: float, degrees: float) -> float:
    """The probability that a t-distributed value exceeds ``t``."""
    return float(stdtr(degrees, -t))


def chi2_quantile(probability: float, degrees: float) -> float:
    """What a χ²-distributed value exceeds with 1 − ``probability``."""
    return 2.0 * float(gammaincinv(degrees / 2, probability))
