"""Shared KV blocks by hand: calls of known tokens at every second, with and without blocks in common."""

import numpy as np
import pandas as pd
import pytest

from experiments.kv_sharing import iterations_by, shared_blocks
from scepsy.profile.model import EngineLimits
from sim.enginerun import EngineRun

ITERATION_S = 0.01


def staggered_calls(count=20):
    """One begins every quarter of a second and decodes 500 tokens in 5 s; the fourth was preempted for 2 s on the way."""
    first = 0.25 * np.arange(count) + 1.0
    last = first + 500 * ITERATION_S
    last[3] += 2.0
    return EngineRun(
        name="made", arrival_s=first - 1.0, first_token_s=first, last_token_s=last, input_tokens=np.full(count, 160),
        output_tokens=np.full(count, 501), engine=EngineLimits(), kv_blocks=1000, model="m", gpu=None, tensor_parallel=1,
        notes=(),
    )  # fmt: skip


def test_iterations_are_counted_by_calls_that_were_never_preempted():
    at, done = iterations_by(staggered_calls())
    assert np.interp(8.0, at, done) - np.interp(2.0, at, done) == pytest.approx(6.0 / ITERATION_S, abs=0.5)


def series_of(run, less=0):
    rows = []
    for t in np.arange(2.0, 10.0) + 0.005:
        on = (run.first_token_s <= t) & (t < run.last_token_s)
        done = np.minimum((t - run.first_token_s[on]) / ITERATION_S, (t - run.last_token_s[on]) / ITERATION_S + 500)
        blocks = np.ceil((160 + np.clip(done, 0, None)) / 16).sum() - less
        rows.append((t, int(on.sum()), 0, blocks / 10))
    return pd.DataFrame(rows, columns=["t", "running", "waiting", "kv_cache_pct"])


def test_calls_that_share_nothing_and_calls_that_share_blocks():
    run = staggered_calls()
    none, some = shared_blocks(run, series_of(run)), shared_blocks(run, series_of(run, less=12))
    assert len(none) == 8
    assert none["shared"].abs().max() <= 1
    assert (some["shared"] - none["shared"]).eq(12).all()


def test_seconds_in_which_some_call_was_preempted_do_not_count():
    run = staggered_calls()
    series = series_of(run)
    series.loc[3, "running"] -= 1
    assert len(shared_blocks(run, series)) == 7
