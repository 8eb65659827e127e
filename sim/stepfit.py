"""A step model from the request timestamps of a recorded engine run.

No iteration was recorded, only when each request's first and last token came out. But given a step model, replaying the run
says which work the engine did between the two: so many iterations, prompt tokens, decoding sequences, context tokens. The
seconds between are linear in those with the step model's coefficients, so a least squares gives better ones, and replaying
again gives better counts: a few rounds converge. Requests are weighted equally per second; a Huber weight keeps single
stalls from moving the fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from scepsy.errors import InputError
from scepsy.profile.step import StepModel
from sim.enginerun import EngineRun
from sim.replay import Replay, replay

Array = npt.NDArray[np.float64]

PARAMETERS = (
    "base_s",
    "prefill_s_per_token",
    "decode_s_per_sequence",
    "context_s_per_token",
    "attention_s_per_token2",
)
_HUBER = 1.5
"""In robust standard deviations."""
_NEGLIGIBLE = 2e-3
"""A coefficient that explains less than this part of the seconds is not determined at all: it is set to zero."""
_ROUNDS = 16
_STARTS = (0.35, 0.65, 0.9)
"""Parts of the shortest time per output token seen that are taken for the base at first."""


@dataclass(frozen=True)
class StepFit:
    """The fitted model and how well its data determines it."""

    step: StepModel
    std_err_pct: dict[str, float | None]
    """Standard error of each coefficient, percent of it; None where it is zero: not needed."""
    condition: float
    """Condition number of the scaled design. Above about 30 coefficients trade against each other; their sum is still good."""
    residual_pct: float
    """Median error of the fitted seconds."""
    requests: int


def fit_step_model(run: EngineRun, requests: int, *, first_tokens: bool = False) -> StepFit:
    """Fit on the first ``requests`` requests. Raises ``InputError`` when they are too few for five coefficients.

    ``first_tokens``: the seconds from arrival to first token count as well, as much as those from first to last. Without them
    only what runs beside decoding requests tells what a prompt costs, and an engine that was hardly loaded tells nothing.
    """
    if requests < 10:
        raise InputError(f"{run.name}: {requests} requests to fit on: must be at least 10 (raise --train)")
    best: tuple[float, Array] | None = None
    for start in _starts(run, requests):
        theta = start
        for _ in range(_ROUNDS):
            result = replay(run, _model(theta))
            loss = _loss(run, result, requests, first_tokens)
            if best is None or loss < best[0]:
                best = (loss, theta)
            theta = theta + 0.5 * (_solve(*_design(run, result, requests, theta, first_tokens)) - theta)
    assert best is not None  # there are starts
    work, seconds = _design(run, replay(run, _model(best[1])), requests, best[1], first_tokens)
    theta = np.where(best[1] * work.mean(axis=0) > _NEGLIGIBLE * seconds.mean(), best[1], 0.0)
    return _described(theta, work, seconds)


def _starts(run: EngineRun, requests: int) -> Sequence[Array]:
    """First guesses from the shortest times seen: between tokens, and to the first token per prompt token."""
    chosen = np.flatnonzero(run.output_tokens[:requests] > 1)
    if len(chosen) < 10:
        raise InputError(f"{run.name}: {len(chosen)} requests with more than one output token to fit on: must be at least 10")
    per_token = float(np.percentile(run.decode_s[chosen] / (run.output_tokens[chosen] - 1), 10))
    per_prompt_token = float(np.percentile(run.ttft_s[:requests] / run.input_tokens[:requests], 10))
    context = float((run.input_tokens + run.output_tokens).mean()) * min(run.engine.max_num_seqs, 64)
    return [
        np.array([part * per_token, max(per_prompt_token / 2, 1e-8), 0.0, (1 - part) * per_token / context, 0.0])
        for part in _STARTS
    ]


def _model(theta: Array) -> StepModel:
    base, prefill, decode, context, attention = (float(value) for value in theta)
    return StepModel(
        base_s=base,
        prefill_s_per_token=max(prefill, 1e-9),
        decode_s_per_sequence=decode,
        context_s_per_token=context,
        attention_s_per_token2=attention,
    )


def _design(run: EngineRun, result: Replay, requests: int, theta: Array, first_tokens: bool) -> tuple[Array, Array]:
    """Work between first and last token of each request (simulated), and the seconds it took (recorded).

    With ``first_tokens`` below them the same between arrival and first token, either part over its mean seconds.
    """
    chosen = slice(0, requests)
    decode = (
        result.work_until(result.last_token_s[chosen]) - result.work_until(result.first_token_s[chosen]),
        run.decode_s[chosen],
    )
    if not first_tokens:
        return _kept(*decode)
    # When a request arrives, an iteration is under way: only the rest of it is waited for.
    prompt = result.work_until(result.first_token_s[chosen]) - _work_begun(result, theta, run.arrival_s[chosen])
    parts = [_kept(*decode), _kept(prompt, run.ttft_s[chosen])]
    scales = [float(seconds.mean()) for _, seconds in parts]
    return (
        np.vstack([work / scale for (work, _), scale in zip(parts, scales, strict=True)]),
        np.concatenate([seconds / scale for (_, seconds), scale in zip(parts, scales, strict=True)]),
    )


def _kept(work: Array, seconds: Array) -> tuple[Array, Array]:
    keep = (seconds > 0) & (work[:, 0] > 0)
    return work[keep], seconds[keep]


def _work_begun(result: Replay, theta: Array, at_s: Array) -> Array:
    """Work done by each time, of the event under way the part of its time that is over."""
    duration_s = np.maximum(result.work @ theta, 1e-12)
    under_way = np.minimum(np.searchsorted(result.work_end_s, at_s + 1e-9, side="right"), len(result.work) - 1)
    part = np.clip((at_s - result.work_end_s[under_way] + duration_s[under_way]) / duration_s[under_way], 0.0, 1.0)
    after: Array = (
        result.work_until(at_s) + np.where(result.work_end_s[under_way] > at_s, part, 0.0)[:, None] * result.work[under_way]
    )
    return after


def _solve(work: Array, seconds: Array) -> Array:
    scale = work.max(axis=0) + 1e-30
    weights = np.ones(len(seconds))
    theta: Array = np.zeros(5)
    for _ in range(15):
        root = np.sqrt(weights)
        theta = nnls(work / scale * root[:, None], seconds * root)[0] / scale
        residual = np.abs(seconds - work @ theta)
        spread = 1.4826 * float(np.median(residual)) + 1e-12
        weights = np.minimum(1.0, _HUBER * spread / np.maximum(residual, 1e-15))
    return theta


def _loss(run: EngineRun, result: Replay, requests: int, first_tokens: bool) -> float:
    """Mean error of latency and of decode time (and of the time to the first token), relative to their means."""
    chosen = slice(0, requests)
    latency = np.abs(result.last_token_s - run.last_token_s)[chosen].mean() / run.latency_s[chosen].mean()
    decode = np.abs(result.last_token_s - result.first_token_s - run.decode_s)[chosen].mean() / run.decode_s[chosen].mean()
    first = np.abs(result.first_token_s - run.first_token_s)[chosen].mean() / run.ttft_s[chosen].mean() if first_tokens else 0.0
    return float(latency + decode + first)


def _described(theta: Array, work: Array, seconds: Array) -> StepFit:
    active = np.flatnonzero(theta > 0)
    scaled = work[:, active] / np.linalg.norm(work[:, active], axis=0)
    residual = seconds - work @ theta
    freedom = max(len(seconds) - len(active), 1)
    gram = np.linalg.pinv(work[:, active].T @ work[:, active])
    errors = np.sqrt(np.clip(np.diag(gram), 0.0, None) * float(residual @ residual) / freedom)
    std_err_pct: dict[str, float | None] = dict.fromkeys(PARAMETERS)
    for place, index in enumerate(active):
        std_err_pct[PARAMETERS[index]] = float(100.0 * errors[place] / theta[index])
    return StepFit(
        step=_model(theta),
        std_err_pct=std_err_pct,
        condition=float(np.linalg.cond(scaled)),
        residual_pct=float(100.0 * np.median(np.abs(residual) / seconds)),
        requests=len(seconds),
    )
