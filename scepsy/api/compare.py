"""A plan's comparison: what was predicted, what a simulation shows, what engines on this host did.

``scepsy compare`` runs it on a plan; ``python -m experiments.checks.end_to_end`` the whole way, from models to the table.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np

from executor.local.deployment import apply, delete
from executor.local.options import LocalOptions, device_of
from executor.local_backend import replay_deployed
from scepsy.api.forecast import forecast
from scepsy.api.prepare import Load, prepare
from scepsy.api.rows import AT_SPEED, predicted_row, row_of, simulated, slowdowns, slowed, workload_of
from scepsy.errors import InputError
from scepsy.files.records import load_records, save_records
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.progress import Notify, no_notice
from scepsy.records import Records
from scepsy.workload import Trace

WARN_OTHERS_CORES = 0.15
"""More work of others than this on the host while measuring is worth a warning (a system at rest uses a few hundredths)."""


@dataclass(frozen=True)
class Comparison:
    """What is compared."""

    plan: Plan
    traces: Mapping[str, Trace]
    """By workflow, as the plan's targets name them."""
    profiles: ProfileSet
    runs: int = 100
    seeds: tuple[int, ...] = (0,)
    loads: tuple[float, ...] = (1.0,)
    """Parts of the target rate."""
    predictor: str = "critical-path"


def compare_plan(
    question: Comparison,
    *,
    options: LocalOptions | None = None,
    records: Sequence[Path] = (),
    output: Path | None = None,
    notify: Notify = no_notice,
) -> list[dict[str, Any]]:
    """Rows for every load, seed, workflow and source. With ``options`` the plan is deployed here and measured.

    ``records``: measurements of an earlier comparison, matched by the load and seed in their meta. ``output``: keeps measured
    records. Raises what predicting, simulating and measuring raise.
    """
    measured = by_conditions(records)
    if options is not None:
        measured |= measure_all(question, options, output, notify)
    return rows_of(question, measured, kept=options is None)


Conditions = tuple[float, int]
"""Load and seed of a measurement."""


def conditions(load: float, seed: int) -> Conditions:
    """The load as it is written down, to six digits.

    >>> conditions(1 / 3, 1)
    (0.333333, 1)
    """
    return float(f"{load:g}"), seed


def by_conditions(paths: Sequence[Path]) -> dict[Conditions, Records]:
    """Measured records by load and seed, of files and of all in folders. Raises ``InputError`` for records that no comparison
    measured, and for two of one load and seed."""
    found: dict[Conditions, tuple[Path, Records]] = {}
    for path in [one for given in paths for one in (sorted(given.glob("*.runs.parquet")) if given.is_dir() else [given])]:
        records = load_records(path)
        try:
            at = conditions(float(records.meta["load"]), int(records.meta["seed"]))
        except (KeyError, ValueError) as error:
            raise InputError(
                f"{path}: meta lacks load or seed: must be records that `scepsy compare --measure -o` kept"
            ) from error
        if at in found:
            raise InputError(
                f"{path}: load {at[0]:g} with seed {at[1]} was measured in {found[at][0]} too: must be one of them"
            )
        found[at] = path, records
    return {at: records for at, (_, records) in found.items()}


def as_measured(
    question: Comparison, paths: Sequence[Path], loads: Sequence[float] = (), seeds: Sequence[int] = ()
) -> Comparison:
    """The question that these records answer: their loads, seeds and number of runs; with ``loads`` or ``seeds`` those alone.

    Raises ``InputError`` where there are none, or their numbers of runs differ.
    """
    wanted = {conditions(load, 0)[0] for load in loads}
    measured = {
        at: records
        for at, records in by_conditions(paths).items()
        if (not wanted or at[0] in wanted) and (not seeds or at[1] in seeds)
    }
    if not measured:
        raise InputError(f"{', '.join(map(str, paths))}: no measurement of that load and seed: must be what `scepsy compare "
                         "--measure -o` kept (*.runs.parquet)")  # fmt: skip
    runs = {records.runs.num_rows for records in measured.values()}
    if len(runs) != 1:
        raise InputError(
            f"records have {', '.join(map(str, sorted(runs)))} runs: must all have the same number (give --load or --seed)"
        )
    return replace(
        question,
        runs=runs.pop(),
        loads=tuple(loads) or tuple(sorted({load for load, _ in measured})),
        seeds=tuple(seeds) or tuple(sorted({seed for _, seed in measured})),
    )


def check_same(measured: Records, simulated: Records, load: float, seed: int) -> None:
    """Raise ``InputError`` where the measured runs are not those that the plan's targets issue: another number or rate."""
    issued = measured.runs.num_rows
    if issued != simulated.runs.num_rows:
        raise InputError(
            f"{issued} runs were measured at load {load:g} with seed {seed}: must be --runs ({simulated.runs.num_rows})"
        )
    spans = [float(np.ptp(records.runs.column("arrival_s").to_numpy())) for records in (measured, simulated)]
    if abs(spans[0] - spans[1]) > max(1.0, 0.05 * spans[1]):
        raise InputError(
            f"at load {load:g} with seed {seed} runs were issued for {spans[0]:.1f} s, by the plan they are for "
            f"{spans[1]:.1f} s: must be a measurement at the plan's rates (measure again, or give the plan it was made with)"
        )


def rows_of(question: Comparison, measured: Mapping[Conditions, Records], *, kept: bool = True) -> list[dict[str, Any]]:
    """Predicted, simulated and, by load and seed, measured. Raises ``InputError`` when some but not all are measured."""
    rows = []
    for load in question.loads:
        predictions = predict(question, load)
        for seed in question.seeds:
            slow: dict[str, float] = {}
            workload = workload_of(question.plan, question.traces, runs=question.runs, seed=seed, scale=load)
            sources: list[tuple[str, Records]] = [("simulated", simulated(question.plan, workload, question.profiles))]
            if (found := measured.get(conditions(load, seed))) is not None:
                if kept:
                    check_same(found, sources[0][1], load, seed)
                slow = slowdowns(found, question.plan, question.profiles)
                if slow:
                    slower = slowed(question.profiles, slow)
                    sources.append((AT_SPEED, simulated(question.plan, workload, slower)))
                sources.append(("measured", found))
            elif measured:
                known = ", ".join(f"{at:g} with seed {number}" for at, number in sorted(measured))
                raise InputError(f"no measurement at load {load:g} with seed {seed}: there are those at {known}")
            for target in question.plan.targets:
                rate = load * (target.arrivals.rate_per_s or 0.0)
                rows.append(predicted_row(question.plan, target.workflow, rate, seed, predictions[target.workflow]))
                for source, shown in sources:
                    row = row_of(shown, question.plan, target.workflow, rate, seed, source)
                    if source in (AT_SPEED, "measured") and slow:
                        row["slowdown"] = fsum(slow.values()) / len(slow)
                    if source == "measured" and "others_cores" in shown.meta:
                        row["others_cores"] = float(shown.meta["others_cores"])
                    rows.append(row)
    return rows


def predict(question: Comparison, load: float) -> dict[str, dict[str, Any]]:
    """What the predictor says of every workflow at ``load`` times the target rates."""
    loads = tuple(
        Load(
            trace=question.traces[target.workflow],
            arrivals=target.arrivals.at_rate(load * (target.arrivals.rate_per_s or 0.0)),
            path=target.trace,
        )
        for target in question.plan.targets
    )
    problem = prepare(loads, question.plan.cluster, question.profiles)
    return {document["workflow"]: document for document in forecast(question.plan, problem, question.predictor)}


def measure_all(
    question: Comparison, options: LocalOptions, output: Path | None, notify: Notify
) -> dict[tuple[float, int], Records]:
    """Deploy once, replay every (load, seed), tear down; records in ``output`` are not measured again."""
    found: dict[tuple[float, int], Records] = {}
    todo = []
    # Loads in turn: a slow minute of the machine then falls on all of them.
    for seed in question.seeds:
        for load in question.loads:
            path = output / f"load{load:g}-seed{seed}" if output is not None else None
            if path is not None and Path(f"{path}.runs.parquet").exists():
                found[conditions(load, seed)] = load_records(path)
            else:
                todo.append((load, seed, path))
    if not todo:
        return found
    folder = (output or Path.cwd()) / "engines"
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    try:
        state = apply(question.plan, question.profiles, options, folder, notify)
        assert state.gateway is not None
        url = state.gateway.url
        warm_up = workload_of(question.plan, question.traces, runs=5, seed=2**31, scale=min(question.loads))
        replay_deployed(question.plan, warm_up, url, question.profiles, folder)
        on_cores = device_of(options) == "cpu"
        for load, seed, path in todo:
            workload = workload_of(question.plan, question.traces, runs=question.runs, seed=seed, scale=load)
            records = replay_deployed(question.plan, workload, url, question.profiles, folder, on_cores=on_cores)
            slow = slowdowns(records, question.plan, question.profiles)
            meta = {**records.meta, "load": f"{load:g}", **({"slowdown": json.dumps(slow)} if slow else {})}
            records = Records(runs=records.runs, calls=records.calls, meta=meta)
            if path is not None:
                save_records(path, records)
            found[conditions(load, seed)] = records
            told = ", ".join(f"{llm} {factor:.2f}x" for llm, factor in slow.items())
            notify(f"measured load {load:g}, seed {seed}: {records.runs.num_rows} runs" + (f"; slower: {told}" if told else ""))
            others = float(meta.get("others_cores", 0.0))
            if others > WARN_OTHERS_CORES:
                notify(f"other processes kept {others:.2f} cores busy meanwhile: measure again when this host is idle")
    finally:
        delete(folder, options.stop_timeout_s)
    return found
