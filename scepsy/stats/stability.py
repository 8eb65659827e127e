"""Is each LLM's share of a run's LLM time stable? The premise of planning by aggregates, tested instead of assumed.

A share is an LLM's part of the summed call seconds of one run. The aggregate pipeline plans for mean shares, which is
sound where shares vary little from run to run even though latencies vary a lot; where shares vary too, only averages over
many runs are stable, and how many is said. Intervals are percentile bootstraps over runs (Efron and Tibshirani, 1993).
"""

import math

import numpy as np

from scepsy.rng import stream
from scepsy.stats.table import Floats, RunTable
from scepsy.value import Value

CONFIDENCE_PCT = 95.0
BATCH_RUNS = 20
STABLE_CV = 0.30
"""Chosen: a dominant share whose CV is below this with 95 % confidence counts as stable. Recorded two-LLM loops have
0.07-0.21, recorded free-form coding agents 0.5-1.0."""
SHARE_ERROR_WANTED = 0.10
"""Relative error of a mean share that a trace should be long enough for."""
SMALLEST_SHARE_WARNED_ABOUT = 0.05
"""Shares below this are not warned about."""


class ShareStability(Value, frozen=True, kw_only=True):
    """How one LLM's share varies from run to run."""

    llm: str
    mean: float
    low: float
    high: float
    """Bootstrap interval of the mean."""
    cv: float
    cv_low: float
    cv_high: float
    """Bootstrap interval of the coefficient of variation."""
    batch_cv: float | None
    """CV of the pooled share over consecutive batches of 20 runs; None with fewer than three batches."""
    runs_needed: int
    """Runs for a 95 % interval of ±10 % of the mean share: (1.96 · cv / 0.10)²."""


class RunClass(Value, frozen=True, kw_only=True):
    """Runs that call exactly these LLMs."""

    llms: tuple[str, ...]
    runs: int


class Stability(Value, frozen=True, kw_only=True):
    """The stability report of one workflow."""

    workflow: str
    runs: int
    latency_mean_s: float
    latency_cv: float
    latency_cv_low: float
    latency_cv_high: float
    shares: tuple[ShareStability, ...]
    """Largest share first."""
    ratio: float | None
    """CV of the largest share over CV of latency; None where latency does not vary."""
    classes: tuple[RunClass, ...]
    """Most frequent first."""
    stable: bool
    warnings: tuple[str, ...]
    """In words: where a plan would rest on thin ice. Empty when nothing is wrong."""


def stability(table: RunTable) -> Stability:
    """The stability report of a workflow's runs. Deterministic: the bootstrap has its own random stream."""
    latency = table.latency_s()
    seconds = table.seconds()
    totals = seconds.sum(axis=1, keepdims=True)
    shares = np.divide(seconds, totals, out=np.full_like(seconds, 1.0 / seconds.shape[1]), where=totals > 0)
    means, cvs = _bootstrap(np.column_stack([shares, latency]), table.workflow)
    report = []
    for place, llm in enumerate(table.llms):
        column = shares[:, place]
        cv = _cv(column)
        report.append(
            ShareStability(
                llm=llm,
                mean=float(column.mean()),
                low=float(means[0, place]),
                high=float(means[1, place]),
                cv=cv,
                cv_low=float(cvs[0, place]),
                cv_high=float(cvs[1, place]),
                batch_cv=_batch_cv(seconds, place),
                runs_needed=max(1, math.ceil((1.96 * cv / SHARE_ERROR_WANTED) ** 2)),
            )
        )
    report.sort(key=lambda share: (-share.mean, share.llm))
    latency_cv = _cv(latency)
    ratio = report[0].cv / latency_cv if latency_cv > 0 else None
    classes = tuple(RunClass(llms=llms, runs=runs) for llms, runs in sorted(table.classes.items(), key=lambda i: (-i[1], i[0])))
    stable = len(report) == 1 or report[0].cv_high <= STABLE_CV
    return Stability(
        workflow=table.workflow,
        runs=table.runs,
        latency_mean_s=float(latency.mean()),
        latency_cv=latency_cv,
        latency_cv_low=float(cvs[0, -1]),
        latency_cv_high=float(cvs[1, -1]),
        shares=tuple(report),
        ratio=ratio,
        classes=classes,
        stable=stable,
        warnings=tuple(_warnings(table, report, classes, latency_cv, ratio, stable)),
    )


def _warnings(
    table: RunTable,
    shares: list[ShareStability],
    classes: tuple[RunClass, ...],
    latency_cv: float,
    ratio: float | None,
    stable: bool,
) -> list[str]:
    warnings = []
    first = shares[0]
    if not stable:
        text = (
            f"The premise does not hold: the share of {first.llm} is {first.mean:.2f} on average but varies from run to run "
            f"with CV {first.cv:.2f} ({first.cv_low:.2f} to {first.cv_high:.2f}; stable: below {STABLE_CV:.2f}), against "
            f"CV {latency_cv:.2f} of latency. A plan from these shares is right for averages over many runs only"
        )
        if first.batch_cv is not None:
            text += f" (batches of {BATCH_RUNS} runs: CV {first.batch_cv:.2f})"
        warnings.append(text + ".")
    elif ratio is not None and ratio > 1.0 and first.cv > SHARE_ERROR_WANTED:
        warnings.append(
            f"The share of {first.llm} varies more from run to run (CV {first.cv:.2f}) than latency does (CV {latency_cv:.2f})."
        )
    warnings += [
        f"The mean share of {share.llm} ({share.mean:.2f}, CV {share.cv:.2f}) is not known to ±10 %: that takes "
        f"{share.runs_needed} runs, the trace has {table.runs}."
        for share in shares
        if share.mean >= SMALLEST_SHARE_WARNED_ABOUT and share.runs_needed > table.runs and len(shares) > 1
    ]
    if len(classes) > 1 and classes[0].runs < 0.95 * table.runs:
        kinds = "; ".join(
            f"{100 * c.runs / table.runs:.0f} % call {', '.join(c.llms)}" for c in classes[:4] if c.runs >= 0.01 * table.runs
        )
        warnings.append(f"Use is mixed: {len(classes)} kinds of runs ({kinds}). Means describe none of them; plan per kind.")
    if table.nominal_runs:
        part = "No run has" if table.nominal_runs == table.runs else f"{table.nominal_runs} of {table.runs} runs lack"
        warnings.append(f"{part} recorded times: shares, parallelism and latency rest on nominal service times (assumed).")
    if table.runs < BATCH_RUNS:
        warnings.append(f"Only {table.runs} runs: too few to tell whether shares are stable ({BATCH_RUNS} or more are).")
    return warnings


def _cv(values: Floats) -> float:
    mean = float(values.mean())
    return float(values.std()) / mean if mean > 0 else 0.0


def _bootstrap(columns: Floats, name: str) -> tuple[Floats, Floats]:
    """Percentile intervals of every column's mean and CV over resampled rows; two arrays of shape (2, columns)."""
    rows = len(columns)
    repeats = int(np.clip(20_000_000 // rows, 100, 2_000))
    block = max(1, 200_000 // rows)  # resamples drawn at once: bounds memory
    rng = stream(0, "bootstrap", name)
    means, cvs = [], []
    for begin in range(0, repeats, block):
        samples = columns[rng.integers(rows, size=(min(block, repeats - begin), rows))]
        mean = samples.mean(axis=1)
        means.append(mean)
        cvs.append(np.divide(samples.std(axis=1), mean, out=np.zeros_like(mean), where=mean > 0))
    tail = (100.0 - CONFIDENCE_PCT) / 2
    return np.percentile(np.vstack(means), [tail, 100 - tail], axis=0), np.percentile(
        np.vstack(cvs), [tail, 100 - tail], axis=0
    )


def _batch_cv(seconds: Floats, place: int) -> float | None:
    batches = len(seconds) // BATCH_RUNS
    if batches < 3:
        return None
    pooled = seconds[: batches * BATCH_RUNS].reshape(batches, BATCH_RUNS, -1).sum(axis=1)
    totals = pooled.sum(axis=1)
    return _cv(pooled[totals > 0, place] / totals[totals > 0])
