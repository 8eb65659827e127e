"""Closed loops against the vendor's measured table: the loop by hand, and a few rows of the table itself."""

import json

import pytest
from typer.testing import CliRunner

from scepsy.cli.profile import app
from scepsy.errors import InputError
from scepsy.profile.step import StepModel
from sim.recorded import silicon
from sim.recorded.silicon import Row, closed_loop, silicon_rows, validate_silicon

STEP = StepModel(base_s=0.010, prefill_s_per_token=0.001, decode_s_per_sequence=0.001)


def row(**fields):
    known = {"tensor_parallel": 1, "concurrency": 1, "input_tokens": 5, "output_tokens": 3, "ttft_s": 1.0, "tpot_s": 1.0}
    return Row(**known | fields)


def test_one_user_asks_again_at_once():
    # 10 + 5 ms for the prompt, two decode iterations of 11 ms, for each of the calls
    assert closed_loop(row(), STEP, 100, calls=4, spread=0.0) == pytest.approx((0.015, 0.011), rel=1e-12)


def test_users_of_equal_lengths_stay_in_step():
    # both prompts in one iteration: 10 + 2·5; then two iterations of 10 + 2; and both ask again together
    assert closed_loop(row(concurrency=2), STEP, 100, calls=3, spread=0.0) == pytest.approx((0.020, 0.012), rel=1e-12)


def test_users_of_unequal_lengths_drift_apart():
    several = row(concurrency=4, input_tokens=50, output_tokens=100)
    together = closed_loop(several, STEP, 1000, spread=0.0)
    apart = closed_loop(several, STEP, 1000, spread=0.1)
    assert apart[0] < 0.7 * together[0]
    assert apart == closed_loop(several, STEP, 1000, spread=0.1)


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setattr(silicon, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs aiconfigurator-core: pip install"):
        silicon_rows()


def test_runs_or_the_table():
    assert CliRunner().invoke(app, ["validate"]).exit_code == 2
    assert CliRunner().invoke(app, ["validate", "somewhere", "--silicon"]).exit_code == 2


def test_a_few_rows_of_the_table():
    pytest.importorskip("aiconfigurator_core", reason="needs aiconfigurator-core (extra 'vendor')")
    kernels, alone, held_out, own = validate_silicon(every=6)["scores"]
    assert held_out["rows"] == 10
    assert own["rows"] == 5
    assert held_out["ttft_mean_abs_err_pct"] < min(35.0, alone["ttft_mean_abs_err_pct"], kernels["ttft_mean_abs_err_pct"])
    assert held_out["tpot_mean_abs_err_pct"] < min(12.0, alone["tpot_mean_abs_err_pct"], kernels["tpot_mean_abs_err_pct"])


def test_the_command():
    pytest.importorskip("aiconfigurator_core", reason="needs aiconfigurator-core (extra 'vendor')")
    done = CliRunner().invoke(app, ["validate", "--silicon", "--every", "15", "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["rows_used"] == 6
    assert document["vllm_rows"] > 1000
