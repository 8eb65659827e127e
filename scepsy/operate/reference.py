"""What the running plan was made for: means of a workflow's numbers, how much single runs vary, and how well it is known."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scepsy.operate.features import BUSY_S, CALL_S, CALLS, INPUT, OUTPUT, TOOL_S, features_of, llms_of
from scepsy.value import Value, require_finite
from scepsy.workload import Run

Floats = npt.NDArray[np.float64]

PARALLELISM = "parallelism"


class Moments(Value, frozen=True, kw_only=True):
    """How one number varies from run to run."""

    mean: float
    std: float
    skew: float = 0.0
    kurtosis: float = 0.0
    """Excess over a normal distribution's."""


class Reference(Value, frozen=True, kw_only=True):
    """One workflow's load."""

    workflow: str
    rate_per_s: float
    arrivals: int = 0
    """Arrivals from which the rate was estimated; 0: it was given."""
    dispersion: float = 1.0
    """Variance of the number of arrivals over its mean: 1 for Poisson arrivals, more for bursts."""
    runs: int
    """Runs from which the moments come."""
    moments: dict[str, Moments]
    """By the names of ``columns``."""
    parallelism: dict[str, float]
    """Nominal seconds of calls over seconds with a call in flight, by LLM."""

    def __post_init__(self) -> None:
        require_finite("rate_per_s", self.rate_per_s)
        require_finite("dispersion", self.dispersion, exclusive=True)

    @property
    def llms(self) -> tuple[str, ...]:
        """LLMs that the workflow calls."""
        return tuple(self.parallelism)


def columns(
    values: Sequence[dict[str, float]], llms: Sequence[str], parallelism: dict[str, float]
) -> tuple[tuple[str, ...], Floats]:
    """The numbers that are tested, (names, array of shape (runs, names)), runs in the order given.

    Parallelism enters as call seconds less ``parallelism`` times busy seconds, whose mean is 0 while it is unchanged.
    """
    names = [TOOL_S]
    rows = [_column(values, TOOL_S)]
    for llm in llms:
        for name in (CALLS, INPUT, OUTPUT):
            names.append(f"{name}:{llm}")
            rows.append(_column(values, f"{name}:{llm}"))
        names.append(f"{PARALLELISM}:{llm}")
        rows.append(_column(values, f"{CALL_S}:{llm}") - parallelism.get(llm, 1.0) * _column(values, f"{BUSY_S}:{llm}"))
    return tuple(names), np.column_stack(rows)


def _column(values: Sequence[dict[str, float]], key: str) -> Floats:
    return np.array([each.get(key, 0.0) for each in values], dtype=float)


def reference_of(
    workflow: str,
    values: Sequence[dict[str, float]],
    rate_per_s: float,
    *,
    arrivals: int = 0,
    dispersion: float = 1.0,
) -> Reference:
    """Estimate from at least one run's numbers."""
    llms = llms_of(values)
    parallelism = {llm: _ratio(_column(values, f"{CALL_S}:{llm}"), _column(values, f"{BUSY_S}:{llm}")) for llm in llms}
    names, table = columns(values, llms, parallelism)
    return Reference(
        workflow=workflow,
        rate_per_s=rate_per_s,
        arrivals=arrivals,
        dispersion=dispersion,
        runs=len(values),
        moments={name: moments_of(table[:, place]) for place, name in enumerate(names)},
        parallelism=parallelism,
    )


def planned_for(workflow: str, runs: Sequence[Run], rate_per_s: float, *, dispersion: float = 1.0) -> Reference:
    """The reference that a plan made from these traced runs for this rate has."""
    return reference_of(workflow, [features_of(run) for run in runs], rate_per_s, dispersion=dispersion)


def moments_of(column: Floats) -> Moments:
    """Mean, standard deviation, skewness and excess kurtosis.

    A number that was the same in all n runs may still vary: a deviation as large as itself in one run of n would most likely
    not have been seen. So the standard deviation is at least that much.
    """
    mean, spread = float(column.mean()), float(column.std())
    least = max(abs(mean), 1e-9) / float(np.sqrt(len(column)))
    if spread <= 1e-12 * max(abs(mean), 1e-9):
        return Moments(mean=mean, std=least)
    z = (column - mean) / spread
    return Moments(mean=mean, std=max(spread, 1e-12), skew=float((z**3).mean()), kurtosis=float((z**4).mean()) - 3.0)


def _ratio(above: Floats, below: Floats) -> float:
    total = float(below.sum())
    return float(above.sum()) / total if total > 0 else 1.0
