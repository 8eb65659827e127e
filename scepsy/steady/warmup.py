"""Where the steady state begins: MSER-5.

Source: White, "An effective truncation heuristic for bias reduction in simulation output", Simulation 69(6), 1997; White,
Cobb & Spratt, "A comparison of five steady-state truncation heuristics", WSC 2000, where MSER-5 did best.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BATCH = 5
LARGEST_PART = 0.5
"""A warm-up longer than this part of the data is none that was found: the data are too short, or have a trend."""


def warmup_length(values: Floats) -> int | None:
    """How many of the first values to leave out; None when the minimum lies in the second half: no steady state seen.

    MSER-5 takes means of 5 consecutive values and drops the d first of them that minimise ``Σ (x − mean)² / (n − d)²`` over
    what is left: the squared standard error that independent data would have.

    >>> warmup_length(np.concatenate([np.zeros(20), np.tile([9.0, 11.0], 200)]))
    20
    """
    count = len(values) // BATCH
    if count < 4:
        return None
    means = values[: count * BATCH].reshape(count, BATCH).mean(axis=1)
    # for every d: sums over means[d:], from the back
    total, squares = np.cumsum(means[::-1])[::-1], np.cumsum(means[::-1] ** 2)[::-1]
    left = np.arange(count, 0, -1)
    error = (squares - total**2 / left) / left**2
    searched = count - BATCH  # the last few means say nothing about their own spread
    best = int(np.argmin(np.maximum(error[: max(1, searched)], 0.0)))
    return best * BATCH if best <= LARGEST_PART * count else None
