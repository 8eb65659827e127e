"""Whether calls of a recorded engine run shared KV blocks: ``python -m experiments.checks.kv_sharing RUN_DIR``.

A run folder does not say what its prompts have in common. But its ``timeseries.csv`` says how many blocks were in use every
second, and its requests say how many tokens the running calls had at least: those that they ended with, less one for each
iteration since. Iterations are counted by the calls themselves, since each gets one token per iteration while it runs. Only
seconds count in which as many calls ran as were between their first and last token, so that none was preempted (unless
another's prompt was under way just then). Fewer blocks than those tokens need means shared ones. Single seconds are off by
dozens, the median says something where it is well above zero.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer

from scepsy.errors import InputError
from sim.recorded.enginerun import EngineRun, load_engine_run

Array = npt.NDArray[np.float64]

TICK_S = 0.05
"""Two or three iterations of the runs looked at: fine enough to count them, coarse enough to be quick."""
_FAST = 0.8
"""The quantile of calls' rates that is taken for the iterations' at first: most slower ones were preempted."""
_ROUNDS = 30
"""30 more move no count of the RTX 4090 run by more than 11 iterations."""
_OFFSETS_S = np.arange(-1.0, 1.0, 0.01)
"""Tried for when the log began; bench tools start it within a second of the first arrival."""
_PREEMPTED = 6, 0.01
"""A call that got so many tokens less than iterations passed, and this part of its output, had been preempted."""


def iterations_by(run: EngineRun) -> tuple[Array, Array]:
    """Ticks of time and the iterations done by them, from the calls that got a token in each.

    At first the rate of an iteration is that of the faster calls; calls that seem preempted by it are left out, the
    others scale the rates while they ran to their tokens, and again.
    """
    at = np.arange(0.0, run.last_token_s.max() + TICK_S, TICK_S)
    later, spans = run.output_tokens - 1, np.maximum(run.decode_s, 1e-9)
    on = (run.first_token_s[:, None] <= at) & (at < run.last_token_s[:, None])
    speeds = np.where(on, (later / spans)[:, None], np.nan)
    some = on.any(axis=0)
    rate = np.zeros(len(at))
    rate[some] = np.nanquantile(speeds[:, some], _FAST, axis=0)
    for _ in range(_ROUNDS):
        done = np.cumsum(rate) * TICK_S
        passed = np.interp(run.last_token_s, at, done) - np.interp(run.first_token_s, at, done)
        whole = passed - later < np.maximum(_PREEMPTED[0], _PREEMPTED[1] * later)
        counts = (on & whole[:, None]).sum(axis=0)
        factors = (np.where(whole, later / np.maximum(passed, 1e-9), 0.0)[:, None] * on).sum(axis=0)
        rate = np.where(counts > 0, rate * factors / np.maximum(counts, 1), rate)
    return at, np.cumsum(rate) * TICK_S


def offset_s(run: EngineRun, series: pd.DataFrame) -> float:
    """When the series began, in seconds after the first arrival: where its calls in flight are those of the requests."""
    recorded = (series["running"] + series["waiting"]).to_numpy()
    at = series["t"].to_numpy(dtype=float)
    arrivals, ends = np.sort(run.arrival_s), np.sort(run.last_token_s)

    def wrong(offset: float) -> int:
        in_flight = np.searchsorted(arrivals, at + offset, side="right") - np.searchsorted(ends, at + offset, side="right")
        return int(np.abs(in_flight - recorded).sum())

    errors = np.array([wrong(offset) for offset in _OFFSETS_S])
    return float(np.median(_OFFSETS_S[errors == errors.min()]))


def shared_blocks(run: EngineRun, series: pd.DataFrame) -> pd.DataFrame:
    """Rows ``t``, ``running``, ``waiting``, ``recorded`` and (at least) ``needed`` blocks, ``shared``: needed less recorded.

    ``series``: columns ``t`` (s), ``running``, ``waiting``, ``kv_cache_pct``. Raises ``InputError`` where KV use was not
    recorded, or can in no second be told from preemption.
    """
    missing = {"t", "running", "waiting", "kv_cache_pct"} - set(series.columns)
    if missing or not run.kv_recorded or not series["kv_cache_pct"].any():
        raise InputError(
            f"{run.name}: KV use or capacity was not recorded: must be a run whose meta.json and timeseries.csv have them"
        )
    at, done = iterations_by(run)
    ends = np.interp(run.last_token_s, at, done)
    begin = offset_s(run, series)
    rows = []
    for t, running, waiting, pct in series[["t", "running", "waiting", "kv_cache_pct"]].itertuples(index=False):
        now = t + begin
        on = np.flatnonzero((run.first_token_s <= now) & (now < run.last_token_s))
        if len(on) == 0 or len(on) != running:
            continue
        since_start = np.interp(now, at, done) - np.interp(run.first_token_s[on], at, done)
        before_end = run.output_tokens[on] - 1 - (ends[on] - np.interp(now, at, done))
        tokens = run.input_tokens[on] + np.clip(np.minimum(since_start, before_end), 0, None)
        needed = np.ceil(tokens / run.engine.block_tokens).sum()
        rows.append((t, int(running), int(waiting), round(pct / 100 * run.kv_blocks), int(needed)))
    if not rows:
        raise InputError(f"{run.name}: in no second as many calls ran as were decoding: nothing can be said")
    found = pd.DataFrame(rows, columns=["t", "running", "waiting", "recorded", "needed"])
    return found.assign(shared=found["needed"] - found["recorded"])


def main(run_dir: Annotated[Path, typer.Argument(help="Folder with requests.jsonl, meta.json and timeseries.csv.")]) -> None:
    """Print how many blocks running calls shared at least, by the second."""
    path = run_dir / "timeseries.csv"
    try:
        found = shared_blocks(load_engine_run(run_dir), pd.read_csv(path))
    except OSError as error:
        raise SystemExit(f"{path}: {error.strerror}: must be a run folder with the KV use of every second") from None
    except InputError as error:
        raise SystemExit(str(error)) from None
    print(found.to_string(index=False))
    print(f"median {found['shared'].median():.0f} of {found['recorded'].median():.0f} blocks")


if __name__ == "__main__":
    typer.run(main)
