"""A step model from the request timestamps of a recorded engine run.

No iteration was recorded, only when each request's first and last token came out. But given a step model, replaying the run
says which work the engine did between the two: so many iterations, prompt tokens, decoding sequences, context tokens. The
seconds between are linear in those with the step model's coefficients, so a least squares gives better ones, and replaying
again gives better counts: a few rounds converge. Requests are weighted equally per second; a Huber weight keeps single
stalls from moving the fit.

Where iterations, sequences and context grow together, the seconds say what they cost together and not which costs what. Then
a prior helps: the catalogue's step model for that LLM and GPU type, as uncertain as the catalogue's models have proved.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from scepsy.errors import InputError
from scepsy.profile.step import StepModel
from sim.recorded.enginerun import EngineRun
from sim.recorded.replay import Replay, replay

Array = npt.NDArray[np.float64]

PARAMETERS = (
    "base_s",
    "prefill_s_per_token",
    "decode_s_per_sequence",
    "context_s_per_token",
    "attention_s_per_token2",
)
PRIOR_SPREAD = (0.25, 0.4, 1.5, 0.25, 1.0)
"""Relative standard deviation of each coefficient of a catalogue model that was scaled from a measurement elsewhere: the root
mean square of log(measured / scaled) over the catalogue's 13 measured models, each scaled from the nearest other one: 0.24,
0.39, 1.56, 0.15, 1.04. Context's comes from kernel data of one vendor only, so it is widened to that of the base."""
RESIDUAL_FACTOR = 3.0
"""The noise of a row counts this many times as large as its residual, against a prior and in standard errors.

Requests that run together share iterations, so their residuals are alike and tell less than as many independent ones. Of 1,
2, 3, 5, 8 and 12 this value met the most aims on the five recorded runs that have a prior (docs/simulator.md): 18 of 20,
fitted on the decode times of a third."""
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
    """Standard error of each coefficient from the recorded seconds alone, residuals taken ``RESIDUAL_FACTOR`` times, percent
    of it; None where it is zero: not needed."""
    posterior_err_pct: dict[str, float | None] | None
    """The same with the prior's knowledge; None without a prior."""
    condition: float
    """Condition number of the scaled design. Above about 30 coefficients trade against each other; their sum is still good."""
    residual_pct: float
    """Median error of the fitted seconds."""
    requests: int


def fit_step_model(run: EngineRun, requests: int, *, first_tokens: bool = False, prior: StepModel | None = None) -> StepFit:
    """Fit on the first ``requests`` requests. Raises ``InputError`` when they are too few for five coefficients.

    ``first_tokens``: the seconds from arrival to first token count as well, as much as those from first to last. Without them
    only what runs beside decoding requests tells what a prompt costs, and an engine that was hardly loaded tells nothing.
    """
    if requests < 10:
        raise InputError(f"{run.name}: {requests} requests to fit on: must be at least 10 (raise --train)")
    belief = None if prior is None else _Prior(prior)
    best: tuple[float, Array] | None = None
    for start in _starts(run, requests):
        theta = start
        for _ in range(_ROUNDS):
            result = replay(run, _model(theta))
            off = loss(run, result, requests, first_tokens)
            if best is None or off < best[0]:
                best = (off, theta)
            theta = theta + 0.5 * (_solve(*_design(run, result, requests, theta, first_tokens), belief) - theta)
    assert best is not None  # there are starts
    work, seconds = _design(run, replay(run, _model(best[1])), requests, best[1], first_tokens)
    theta = np.where(best[1] * work.mean(axis=0) > _NEGLIGIBLE * seconds.mean(), best[1], 0.0)
    return _described(theta, work, seconds, belief)


class _Prior:
    """A step model as rows of the least squares: each coefficient is near its mean, in units of its standard deviation."""

    def __init__(self, step: StepModel) -> None:
        mean = np.array([getattr(step, name) for name in PARAMETERS])
        self.known = np.flatnonzero(mean > 0)
        self.mean = mean[self.known]
        self.spread = np.array(PRIOR_SPREAD)[self.known] * self.mean

    def rows(self, noise_s: float) -> tuple[Array, Array]:
        """Rows as weighty as rows of seconds with this standard deviation (``RESIDUAL_FACTOR`` times), and their
        right-hand side.
        """
        scale = RESIDUAL_FACTOR * noise_s / self.spread
        return np.eye(len(PARAMETERS))[self.known] * scale[:, None], self.mean * scale


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


def _solve(work: Array, seconds: Array, belief: _Prior | None) -> Array:
    scale = work.max(axis=0) + 1e-30
    weights = np.ones(len(seconds))
    theta: Array = np.zeros(5)
    spread = None
    for _ in range(15):
        root = np.sqrt(weights)
        rows, right = work * root[:, None], seconds * root
        if belief is not None and spread is not None:
            known, mean = belief.rows(spread)
            rows, right = np.vstack([rows, known]), np.concatenate([right, mean])
        theta = nnls(rows / scale, right)[0] / scale
        residual = np.abs(seconds - work @ theta)
        spread = 1.4826 * float(np.median(residual)) + 1e-12
        weights = np.minimum(1.0, _HUBER * spread / np.maximum(residual, 1e-15))
    return theta


def loss(run: EngineRun, result: Replay, requests: int, first_tokens: bool) -> float:
    """Mean error of latency and of decode time (and of the time to the first token), relative to their means."""
    chosen = slice(0, requests)
    latency = np.abs(result.last_token_s - run.last_token_s)[chosen].mean() / run.latency_s[chosen].mean()
    decode = np.abs(result.last_token_s - result.first_token_s - run.decode_s)[chosen].mean() / run.decode_s[chosen].mean()
    first = np.abs(result.first_token_s - run.first_token_s)[chosen].mean() / run.ttft_s[chosen].mean() if first_tokens else 0.0
    return float(latency + decode + first)


def _described(theta: Array, work: Array, seconds: Array, belief: _Prior | None) -> StepFit:
    active = np.flatnonzero(theta > 0)
    if not len(active):
        raise InputError("no step model fits the run: its times do not grow with its tokens: must be measured times in seconds")
    scaled = work[:, active] / np.linalg.norm(work[:, active], axis=0)
    residual = seconds - work @ theta
    noise = float(np.sqrt(residual @ residual / max(len(seconds) - len(active), 1)))
    posterior = None
    if belief is not None:
        posterior = _std_err_pct(theta, active, np.vstack([work, belief.rows(noise)[0]]), noise)
    return StepFit(
        step=_model(theta),
        std_err_pct=_std_err_pct(theta, active, work, noise),
        posterior_err_pct=posterior,
        condition=float(np.linalg.cond(scaled)),
        residual_pct=float(100.0 * np.median(np.abs(residual) / seconds)),
        requests=len(seconds),
    )


def _std_err_pct(theta: Array, active: npt.NDArray[np.intp], rows: Array, noise: float) -> dict[str, float | None]:
    """Standard errors of the coefficients that are not zero, percent of each."""
    gram = np.linalg.pinv(rows[:, active].T @ rows[:, active])
    errors = np.sqrt(np.clip(np.diag(gram), 0.0, None)) * RESIDUAL_FACTOR * noise
    found: dict[str, float | None] = dict.fromkeys(PARAMETERS)
    for place, index in enumerate(active):
        found[PARAMETERS[index]] = float(100.0 * errors[place] / theta[index])
    return found
