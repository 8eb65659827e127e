"""Shared KV blocks by hand: calls of known tokens at every second, with and without blocks in common."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments.checks.kv_sharing import iterations_by, offset_s, shared_blocks
from scepsy.errors import InputError
from scepsy.profile.model import EngineLimits
from sim.recorded.enginerun import EngineRun

ITERATION_S = 0.01


def staggered_calls(count=20):
    """One begins some four times a second and decodes 500 tokens in 5 s; the fourth was preempted for 2 s on the way."""
    first = 0.25 * np.arange(count) + 0.1 * np.sin(np.arange(count)) + 1.0
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


def series_of(run, less=0, began_s=0.0):
    """What the engine would have logged, its log having begun ``began_s`` after the first arrival."""
    rows = []
    for t in np.arange(2.0, 10.0, 0.1) + 0.005:
        on = (run.first_token_s <= t) & (t < run.last_token_s)
        done = np.minimum((t - run.first_token_s[on]) / ITERATION_S, (t - run.last_token_s[on]) / ITERATION_S + 500)
        blocks = np.ceil((160 + np.clip(done, 0, None)) / 16).sum() - less
        waiting = int(((run.arrival_s <= t) & (t < run.first_token_s)).sum())
        rows.append((t - began_s, int(on.sum()), waiting, blocks / 10))
    return pd.DataFrame(rows, columns=["t", "running", "waiting", "kv_cache_pct"])


def test_calls_that_share_nothing_and_calls_that_share_blocks():
    run = staggered_calls()
    none, some = shared_blocks(run, series_of(run)), shared_blocks(run, series_of(run, less=12))
    assert len(none) > 70
    assert none["shared"].abs().median() <= 2
    assert (some["shared"] - none["shared"]).eq(12).all()


def test_a_log_that_began_before_the_first_arrival_is_read_at_its_own_times():
    run = staggered_calls()
    series = series_of(run, less=12, began_s=-0.3)
    assert offset_s(run, series) == pytest.approx(-0.3, abs=0.03)
    assert shared_blocks(run, series)["shared"].median() == pytest.approx(12, abs=3)


def test_runs_that_do_not_say_their_kv_use_are_refused():
    run = staggered_calls()
    for spoiled, series in (
        (replace(run, kv_recorded=False), series_of(run)),
        (run, series_of(run).assign(kv_cache_pct=0.0)),
        (run, series_of(run).drop(columns="waiting")),
    ):
        with pytest.raises(InputError, match="was not recorded"):
            shared_blocks(spoiled, series)
    with pytest.raises(InputError, match="nothing can be said"):
        shared_blocks(run, series_of(run).assign(running=99))


def test_seconds_in_which_some_call_was_preempted_do_not_count():
    run = staggered_calls()
    series = series_of(run)
    before = len(shared_blocks(run, series))
    series.loc[3, "running"] -= 1
    assert len(shared_blocks(run, series)) == before - 1
