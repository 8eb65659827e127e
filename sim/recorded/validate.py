"""Simulated against recorded: how far a replay of a real engine run is from what the engine did."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scepsy.errors import InputError
from scepsy.profile.fits import fit_step
from scepsy.profile.step import StepModel
from scepsy.profile.vendor import MODELS, VENDOR_SYSTEMS, engine_handle, vendor_samples
from scepsy.progress import Progress, no_progress
from sim.recorded.enginerun import EngineRun, catalogue_llm, catalogue_step, load_engine_run
from sim.recorded.kvfit import fit_run
from sim.recorded.replay import Replay, replay
from sim.recorded.stepfit import PARAMETERS, StepFit

Array = npt.NDArray[np.float64]


ERRORS = ("latency_mean_err_pct", "latency_p95_err_pct", "tpot_mean_err_pct", "ttft_mean_err_pct")


@dataclass(frozen=True)
class Replayed:
    """A recorded run and its replay."""

    run: EngineRun
    result: Replay
    fitted: int
    """So many requests, the first ones, were fitted on; 0: the step model came from elsewhere."""


def validate_runs(
    folders: Sequence[str | Path],
    *,
    train: float = 0.33,
    vendor: bool = False,
    progress: Progress = no_progress,
    keep: Callable[[Replayed], None] = lambda _: None,
) -> dict[str, Any]:
    """The JSON document of ``scepsy profile validate``: signed errors in percent, on the scored part only.

    Without ``vendor`` a step model is fitted on the first ``train`` of each run's requests and scored on the rest; with it,
    the step model comes from vendor kernel data alone and every request is scored. ``keep`` is given every replay. Raises
    ``InputError`` for a folder that cannot be read or a share that leaves too few requests on either side.
    """
    if not vendor and not 0 < train < 1:
        raise InputError(f"--train is {train}: must be between 0 and 1")
    rows = []
    for folder in folders:
        run = load_engine_run(folder)
        rows.append(_vendor_row(run, keep) if vendor else _fitted_row(run, train, keep))
        progress(1)
    if vendor and all(row["latency_mean_err_pct"] is None for row in rows):
        raise InputError("; ".join(f"{row['name']}: {row['notes'][-1]}" for row in rows))
    return {"runs": rows}


def _fitted_row(run: EngineRun, train: float, keep: Callable[[Replayed], None]) -> dict[str, Any]:
    count = round(train * len(run))
    if len(run) - count < 10:
        raise InputError(f"{run.name}: {len(run) - count} requests left to score: must be at least 10 (lower --train)")
    prior = catalogue_step(run)
    run, fit = fit_run(run, count, prior)
    result = replay(run, fit.step)
    keep(Replayed(run, result, count))
    return {
        "name": run.name,
        "source": "fit",
        "requests": len(run) - count,
        **errors(run, result, slice(count, None)),
        "trained_on": count,
        "prior": "catalogue" if prior is not None else None,
        **_fit_quality(fit),
        "preemptions": result.preemptions,
        "notes": list(run.notes),
    }


def _fit_quality(fit: StepFit) -> dict[str, Any]:
    posterior = fit.posterior_err_pct or {}
    return {
        "parameters": {
            name: {
                "value": getattr(fit.step, name),
                "std_err_pct": fit.std_err_pct[name],
                "std_err_with_prior_pct": posterior.get(name),
            }
            for name in PARAMETERS
        },
        "condition": fit.condition,
        "fit_residual_pct": fit.residual_pct,
    }


def _vendor_row(run: EngineRun, keep: Callable[[Replayed], None]) -> dict[str, Any]:
    known = {"name": run.name, "source": "vendor", "requests": len(run)}
    try:
        step, residual_pct = vendor_step(run)
    except InputError as error:
        return known | dict.fromkeys(ERRORS) | {"notes": [*run.notes, str(error)]}
    result = replay(run, step)
    keep(Replayed(run, result, 0))
    return {
        **known,
        **errors(run, result, slice(None)),
        "parameters": {name: {"value": getattr(step, name), "std_err_pct": None} for name in PARAMETERS},
        "fit_residual_pct": residual_pct,
        "preemptions": result.preemptions,
        "notes": list(run.notes),
    }


def vendor_step(run: EngineRun) -> tuple[StepModel, float]:
    """A step model from vendor kernel data for the run's model and GPU. Raises ``InputError`` when there is none."""
    system = VENDOR_SYSTEMS.get(run.gpu or "")
    if system is None:
        raise InputError(f"no vendor kernel data for GPU {run.gpu or 'unknown'}: one of {', '.join(VENDOR_SYSTEMS)}")
    if run.data_parallel > 1:
        raise InputError(f"vendor kernel data is of one rank, not of {run.data_parallel} in step")
    llm = catalogue_llm(run.model)
    names = [run.model] if llm is None else [run.model, vendor_name(llm.name)]
    for number, name in enumerate(names):
        try:
            step, fitted = fit_step(vendor_samples(engine_handle(name, system, run.tensor_parallel)))
            return step, fitted.median_pct
        except InputError:
            if number == len(names) - 1:
                raise
    raise InputError(f"no vendor kernel data for {run.model}")


def vendor_name(llm: str) -> str:
    """The vendor data's name of a catalogue LLM; the name itself when it has none of its own."""
    return MODELS.get(llm, llm)


def errors(run: EngineRun, result: Replay, scored: slice) -> dict[str, float]:
    """Signed errors in percent of the simulated against the recorded, over the scored requests."""
    latency = (result.last_token_s - run.arrival_s)[scored]
    ttft = (result.first_token_s - run.arrival_s)[scored]
    values = (
        _error(latency.mean(), run.latency_s[scored].mean()),
        _error(np.percentile(latency, 95), np.percentile(run.latency_s[scored], 95)),
        _error(_tpot(result.last_token_s - result.first_token_s, run, scored), _tpot(run.decode_s, run, scored)),
        _error(ttft.mean(), run.ttft_s[scored].mean()),
    )
    return dict(zip(ERRORS, values, strict=True))


def _tpot(decode_s: Array, run: EngineRun, scored: slice) -> float:
    later = run.output_tokens[scored] - 1
    several = later > 0
    return float((decode_s[scored][several] / later[several]).mean()) if several.any() else float("nan")


def _error(found: Any, wanted: Any) -> float:
    return float(100.0 * (float(found) / float(wanted) - 1.0))
