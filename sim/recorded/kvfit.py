"""The KV capacity of a recorded run that does not say it: the one that its times fit best.

Capacity follows from the memory of a GPU only to within what an engine was allowed of it. But where calls waited for KV
blocks, how many of them ran at once tells it: with any other capacity no step model makes the times of first tokens fit.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize_scalar

from scepsy.profile.step import StepModel
from sim.recorded.enginerun import NO_LIMIT, EngineRun
from sim.recorded.replay import replay
from sim.recorded.stepfit import StepFit, fit_step_model, loss

ENOUGH_FACTOR = 1.5
"""A derived capacity of so many times what the run would take without a limit is left as it is: no call waited for blocks."""
ERROR_LEFT_AT_MOST = 0.8
ERROR_CUT_AT_LEAST = 0.02
"""Accept a limit only if it cuts the error to ``ERROR_LEFT_AT_MOST`` of what it is without a limit, and by at least
``ERROR_CUT_AT_LEAST``. The error is the sum of the mean errors of latency, decode time and time to the first token, each
relative to its mean. Some limit always fits the noise a little, so a small gain proves nothing."""
_STEP = 1.4
"""Between capacities tried over the whole range, from the longest request's to what the run would take without a limit."""
_FINE = 8
"""Capacities tried between the neighbours of the best one: to some 1 %."""


def fit_run(run: EngineRun, requests: int, prior: StepModel | None = None) -> tuple[EngineRun, StepFit]:
    """``fit_step_model``, and the run with its KV capacity: as recorded, else as derived where that is ample, else fitted.

    Times to first tokens count, but for data-parallel ranks: taken together, they are not when one rank's prompt is through.
    """
    first_tokens = run.data_parallel == 1
    if run.kv_recorded:
        return run, fit_step_model(run, requests, prior=prior, first_tokens=first_tokens)
    endless = replace(run, kv_blocks=NO_LIMIT)
    fit = fit_step_model(endless, requests, prior=prior, first_tokens=first_tokens)
    taken = replay(endless, fit.step).peak_kv_blocks
    if ENOUGH_FACTOR * taken < run.kv_blocks < NO_LIMIT:
        return run, fit
    tried: dict[int, tuple[float, StepFit]] = {}

    def off(blocks: int) -> float:
        if blocks not in tried:
            limited = replace(run, kv_blocks=blocks)
            found = fit_step_model(limited, requests, prior=prior, first_tokens=first_tokens)
            # Waiting for blocks shows in first tokens, so these count here for data-parallel ranks too.
            tried[blocks] = loss(limited, replay(limited, found.step), requests, first_tokens=True), found
        return tried[blocks][0]

    least = int((run.input_tokens + run.output_tokens).max()) // run.engine.block_tokens + 1  # the longest request did run
    ample = max(least, taken)
    best = _best(off, least, ample)
    if best == ample or off(best) > min(ERROR_LEFT_AT_MOST * off(ample), off(ample) - ERROR_CUT_AT_LEAST):
        return replace(endless, notes=(*run.notes, "KV capacity fitted: no limit was felt")), fit
    note = f"KV capacity fitted: {best * run.engine.block_tokens} tokens, with which the times fit best"
    return replace(run, kv_blocks=best, notes=(*run.notes, note)), tried[best][1]


def _best(off: Callable[[int], float], low: int, high: int) -> int:
    """The integer in [low, high] where ``off`` is least: the best of a grid, then a bounded search between its neighbours."""
    count = 2 + int(np.log(high / low) / np.log(_STEP))
    grid = sorted({int(value) for value in np.geomspace(low, high, count)})
    place = int(np.argmin([off(value) for value in grid]))
    bounds = grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)]
    found = minimize_scalar(
        lambda value: off(round(value)), bounds=bounds, method="bounded", options={"maxiter": _FINE, "xatol": 1}
    )
    return min((grid[place], round(found.x)), key=off)
