"""Validation against recorded engine runs: a made-up engine is recovered exactly, real ones closely, bad folders refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from scepsy.errors import InputError
from scepsy.profile.model import EngineLimits
from scepsy.profile.step import StepModel
from sim.recorded.enginerun import NO_LIMIT, EngineRun, catalogue_llm, catalogue_step, load_engine_run
from sim.recorded.kvfit import fit_run
from sim.recorded.replay import replay
from sim.recorded.stepfit import PARAMETERS, PRIOR_SPREAD, _Prior, fit_step_model
from sim.recorded.validate import validate_runs

TRUE = StepModel(base_s=0.012, prefill_s_per_token=4e-5, decode_s_per_sequence=5e-5, context_s_per_token=8e-8)


def engine_run(count=150, rate=6.0, blocks=1 << 20, step=TRUE, seed=1):
    rng = np.random.default_rng(seed)
    run = EngineRun(
        name="made",
        arrival_s=np.cumsum(rng.exponential(1 / rate, count)) - 0.1,
        first_token_s=np.zeros(count),
        last_token_s=np.zeros(count),
        input_tokens=rng.integers(50, 2500, count),
        output_tokens=rng.integers(20, 600, count),
        engine=EngineLimits(max_num_seqs=128, max_num_batched_tokens=2048),
        kv_blocks=blocks,
        model="meta-llama/Llama-3.1-8B",
        gpu=None,
        tensor_parallel=1,
        notes=(),
    )
    result = replay(run, step)
    return EngineRun(**{**run.__dict__, "first_token_s": result.first_token_s, "last_token_s": result.last_token_s})


def folder(path, run, meta=None, lines=None):
    path.mkdir(exist_ok=True)
    rows = [
        {
            "request_id": f"r{n}",
            "input_toks": int(run.input_tokens[n]),
            "output_toks": int(run.output_tokens[n]),
            "arrival_time": 1e9 + float(run.arrival_s[n]),
            "queued_ts": 500 + float(run.arrival_s[n]) + 0.001,
            "scheduled_ts": 500 + float(run.arrival_s[n]) + 0.001,
            "first_token_ts": 500.001 + float(run.first_token_s[n]),
            "last_token_ts": 500.001 + float(run.last_token_s[n]),
        }
        for n in range(len(run))
    ]
    (path / "requests.jsonl").write_text("\n".join(lines or [json.dumps(row) for row in rows]) + "\n")
    known = {"model": run.model, "engine_kwargs": {"max_num_seqs": 128, "max_num_batched_tokens": 2048}}
    (path / "meta.json").write_text(json.dumps(known | (meta or {"kv_cache": {"num_gpu_blocks": run.kv_blocks + 1}})))
    return path


def test_a_made_up_engine_is_recovered():
    run = engine_run()
    fit = fit_step_model(run, 50)
    for name in ("base_s", "prefill_s_per_token", "context_s_per_token"):
        assert getattr(fit.step, name) == pytest.approx(getattr(TRUE, name), rel=0.03)
        assert fit.std_err_pct[name] < 5
    assert fit.residual_pct < 0.1
    result = replay(run, fit.step)
    assert result.last_token_s == pytest.approx(run.last_token_s, rel=0.01)


def test_an_engine_that_was_hardly_loaded_tells_its_prompt_costs_by_first_tokens():
    """Requests of few tokens that seldom meet: next to nothing runs beside a decoding request."""
    made = engine_run()
    run = EngineRun(**{**made.__dict__, "arrival_s": 0.7 * np.arange(150.0), "output_tokens": made.output_tokens % 7 + 2})
    result = replay(run, TRUE)
    run = EngineRun(**{**run.__dict__, "first_token_s": result.first_token_s, "last_token_s": result.last_token_s})
    fit = fit_step_model(run, 150, first_tokens=True)
    assert fit.step.prefill_s_per_token == pytest.approx(TRUE.prefill_s_per_token, rel=0.03)
    assert fit_step_model(run, 150).step.prefill_s_per_token < 0.1 * TRUE.prefill_s_per_token
    busy = fit_step_model(made, 100, first_tokens=True)  # the two costs of decoding trade against each other here
    for work in ((0, 0, 1, 500), (0, 0, 30, 30_000), (1000, 0, 20, 20_000)):
        assert busy.step.step_s(*work) == pytest.approx(TRUE.step_s(*work), rel=0.03)
    latency_s = replay(made, busy.step).last_token_s - made.arrival_s
    assert latency_s.mean() == pytest.approx(made.latency_s.mean(), rel=0.01)


def test_a_prior_says_which_coefficient_costs_where_the_seconds_do_not():
    """KV always full: the costs of iterations and of context trade. A prior that is off by a tenth tells them apart."""
    run = engine_run(count=200, rate=20.0, blocks=400)
    rough = StepModel(base_s=0.0132, prefill_s_per_token=4.4e-5, decode_s_per_sequence=5.5e-5, context_s_per_token=7.2e-8)
    alone, helped = fit_step_model(run, 66), fit_step_model(run, 66, prior=rough)
    assert alone.posterior_err_pct is None
    for name in PARAMETERS[:4]:
        assert helped.posterior_err_pct[name] <= 100 * PRIOR_SPREAD[PARAMETERS.index(name)] * 1.5
        assert abs(getattr(helped.step, name) / getattr(TRUE, name) - 1) < 0.25, name
    latency = (replay(run, helped.step).last_token_s - run.arrival_s)[66:].mean()
    assert latency == pytest.approx(run.latency_s[66:].mean(), rel=0.02)


def test_nine_like_requests_count_as_one_against_a_prior():
    """Least squares with nine copies of a row, and with one against a prior that is not told of likeness."""
    prior = StepModel(base_s=0.01, prefill_s_per_token=1e-4, decode_s_per_sequence=1e-4, context_s_per_token=1e-7)
    rows, right = _Prior(prior).rows(0.05)
    row, seconds = np.array([[100.0, 500.0, 900.0, 5e5, 0.0]]), np.array([2.0])
    alone = np.linalg.lstsq(np.vstack([row, rows / 3]), np.concatenate([seconds, right / 3]))[0]
    nine = np.linalg.lstsq(np.vstack([np.repeat(row, 9, axis=0), rows]), np.concatenate([np.repeat(seconds, 9), right]))[0]
    assert nine == pytest.approx(alone, rel=1e-6)
    assert rows[0, 0] * prior.base_s * PRIOR_SPREAD[0] == pytest.approx(3 * 0.05)


def test_seconds_that_are_certain_overrule_a_prior_that_is_wrong():
    run = engine_run()
    wrong = StepModel(base_s=0.02, prefill_s_per_token=8e-5, context_s_per_token=1.6e-7)
    fit = fit_step_model(run, 50, prior=wrong)
    for name in ("base_s", "prefill_s_per_token", "context_s_per_token"):
        assert getattr(fit.step, name) == pytest.approx(getattr(TRUE, name), rel=0.05)


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"vllm_version": "0.19.0", "hardware": {"device_name": "NVIDIA GeForce RTX 4090"}}, True),
        ({"vllm_version": "0.13.1", "hardware": {"device_name": "NVIDIA GeForce RTX 4090"}}, False),
        ({"vllm_version": "0.32.0", "hardware": {"device_name": "some CPU"}}, False),
        ({"hardware": {"device_name": "NVIDIA GeForce RTX 4090"}}, False),
        ({"resolved_config": {"scheduler_config": {"async_scheduling": True}}}, True),
        ({"vllm_version": "0.19.0", "engine_kwargs": {"async_scheduling": False}, "device_name": "RTX 4090"}, False),
    ],
)
def test_how_a_recorded_engine_schedules(tmp_path, meta, expected):
    assert load_engine_run(folder(tmp_path / "a", engine_run(count=20), meta=meta)).engine.async_scheduling is expected


def test_only_a_known_model_on_a_known_gpu_has_a_prior():
    run = engine_run(count=20)
    assert catalogue_step(run) is None
    known = EngineRun(**{**run.__dict__, "gpu": "RTX-4090"})
    assert catalogue_step(known).base_s > 0
    assert catalogue_step(EngineRun(**{**known.__dict__, "plain_weights": False})) is None
    assert catalogue_step(EngineRun(**{**known.__dict__, "model": "who/knows"})) is None
    assert catalogue_step(EngineRun(**{**known.__dict__, "tensor_parallel": 3})) is None


def test_a_kv_bound_engine_is_predicted_though_its_coefficients_trade_against_each_other():
    run = engine_run(blocks=900)
    assert replay(run, TRUE).preemptions > 20
    fit = fit_step_model(run, 50)
    result = replay(run, fit.step)
    latency = (result.last_token_s - run.arrival_s)[50:].mean()
    assert latency == pytest.approx(run.latency_s[50:].mean(), rel=0.01)
    assert fit.condition > 30


def test_the_document_of_profile_validate(tmp_path):
    run = engine_run()
    document = validate_runs([folder(tmp_path / "a", run)], train=0.4)
    (row,) = document["runs"]
    assert row["name"] == "a"
    assert row["source"] == "fit"
    assert (row["trained_on"], row["requests"]) == (60, 90)
    for name in ("latency_mean", "latency_p95", "tpot_mean", "ttft_mean"):
        assert abs(row[f"{name}_err_pct"]) < 1.0


def test_capacity_comes_from_memory_when_it_was_not_recorded(tmp_path):
    run = engine_run(count=20)
    hardware = {"hardware": {"device_name": "NVIDIA GeForce RTX 4090"}}
    read = load_engine_run(folder(tmp_path / "a", run, meta=hardware))
    # 22.7 GB of 25.25 GB at 90 % (here 92 %) − 16.06 GB of weights − activations, 128 KiB per token
    assert read.gpu == "RTX-4090"
    assert read.kv_blocks * 16 == pytest.approx(45_000, rel=0.05)
    assert "derived from a RTX-4090's memory" in read.notes[0]
    unknown = load_engine_run(folder(tmp_path / "b", run, meta={"model": "who/knows"}))
    assert "no limit unless fitted" in unknown.notes[0]
    assert (read.kv_recorded, unknown.kv_recorded) == (False, False)
    older = load_engine_run(folder(tmp_path / "c", run, meta=hardware | {"vllm_version": "0.19.0"}))
    assert older.engine.memory_utilization == 0.9
    assert older.kv_blocks * 16 == pytest.approx(41_000, rel=0.01)


def test_first_tokens_of_ranks_taken_together_do_not_count():
    run = replace(engine_run(count=80), first_token_s=engine_run(count=80).first_token_s + 0.3)
    run = replace(run, last_token_s=run.last_token_s + 0.3)
    assert fit_run(replace(run, data_parallel=2), 40)[1] == fit_step_model(run, 40)
    assert fit_run(run, 40)[1] == fit_step_model(run, 40, first_tokens=True)


def test_degrees_stand_where_the_engine_resolved_them(tmp_path):
    meta = {"resolved_config": {"parallel_config": {"data_parallel_size": 2, "tensor_parallel_size": 4}}}
    read = load_engine_run(folder(tmp_path / "a", engine_run(count=20), meta=meta))
    assert (read.data_parallel, read.tensor_parallel) == (2, 4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data_parallel_size", "auto"), ("data_parallel_size", [2]), ("tensor_parallel_size", 0), ("max_num_seqs", "auto"),
        ("num_gpu_blocks", "many"), ("num_gpu_blocks", 1), ("block_size", -16), ("gpu_memory_utilization", 1.5),
    ],
)  # fmt: skip
def test_settings_that_are_no_numbers_are_refused(tmp_path, name, value):
    path = folder(tmp_path / "a", engine_run(count=20), meta={"engine_kwargs": {name: value}})
    with pytest.raises(InputError, match=rf"meta.json: {name} is .*: must be a number >= "):
        load_engine_run(path)


def test_data_parallel_ranks_are_one_engine_with_the_limits_of_all(tmp_path):
    run = engine_run(count=20)
    kwargs = {"data_parallel_size": 2, "max_num_seqs": 100, "max_num_batched_tokens": 1024}
    alike = {"hardware": {"device_name": "NVIDIA GeForce RTX 4090"}, "engine_kwargs": kwargs}
    read = load_engine_run(folder(tmp_path / "a", run, meta=alike | {"kv_cache": {"num_gpu_blocks": 5000}}))
    assert (read.engine.max_num_seqs, read.engine.max_num_batched_tokens) == (200, 2048)
    assert read.kv_blocks == 4998, "the sum over the ranks, without a null block of each"
    assert any("2 data-parallel ranks" in note for note in read.notes)
    assert catalogue_step(read) is None, "the catalogue's step model is of one rank"
    derived = load_engine_run(folder(tmp_path / "b", run, meta=alike))
    alone = load_engine_run(folder(tmp_path / "c", run, meta=alike | {"engine_kwargs": kwargs | {"data_parallel_size": 1}}))
    assert derived.kv_blocks == 2 * alone.kv_blocks


@pytest.mark.parametrize("blocks", [450, 700])
def test_a_capacity_that_was_not_recorded_is_found_where_calls_waited_for_it(blocks):
    run = replace(engine_run(rate=20.0, blocks=blocks), kv_blocks=blocks * 2 // 3, kv_recorded=False)
    found, fit = fit_run(run, 60)
    assert found.kv_blocks == pytest.approx(blocks, rel=0.03)
    assert "KV capacity fitted" in found.notes[-1]
    latency = (replay(found, fit.step).last_token_s - run.arrival_s)[60:].mean()
    assert latency == pytest.approx(run.latency_s[60:].mean(), rel=0.02)


def test_a_capacity_that_nobody_felt_is_no_limit():
    unknown = replace(engine_run(count=80), kv_blocks=1 << 32, kv_recorded=False)
    found, fit = fit_run(unknown, 40)
    assert found.kv_blocks == NO_LIMIT
    assert fit == fit_step_model(unknown, 40, first_tokens=True)
    assert "no limit was felt" in found.notes[-1]
    ample = replace(unknown, kv_blocks=1 << 20)
    assert fit_run(ample, 40)[0] is ample
    too_small = replace(unknown, kv_blocks=10)
    assert fit_run(too_small, 40)[0].kv_blocks == found.kv_blocks, "derived from memory, but the longest request did run"
    recorded = replace(engine_run(count=80), kv_blocks=300)
    assert fit_run(recorded, 40)[0] is recorded


def test_model_names():
    assert catalogue_llm("meta-llama/Llama-3.1-8B").name == "llama-3.1-8b"
    assert catalogue_llm("meta-llama/Llama-3.1-8B-Instruct").name == "llama-3.1-8b"
    assert catalogue_llm("who/knows") is None


def test_requests_without_an_end_are_left_out(tmp_path):
    run = engine_run(count=20)
    path = folder(tmp_path / "a", run)
    lines = (path / "requests.jsonl").read_text().splitlines()
    broken = json.loads(lines[3]) | {"last_token_ts": None}
    folder(path, run, lines=[*lines[:3], json.dumps(broken), *lines[4:]])
    read = load_engine_run(path)
    assert len(read) == 19
    assert "1 requests without an end left out" in read.notes


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lines: [*lines[:2], "{", *lines[3:]], "requests.jsonl line 3"),
        (lambda lines: [line.replace('"input_toks"', '"in"') for line in lines], "requests.jsonl line 1: KeyError"),
        (lambda lines: lines[:5], "5 finished requests: must be at least 10"),
        (lambda lines: [lines[0].replace('"last_token_ts": 5', '"last_token_ts": 1'), *lines[1:]], "go backwards"),
        (lambda lines: [lines[0].replace('"queued_ts": 500', '"queued_ts": -500'), *lines[1:]], "finite numbers"),
    ],
)
def test_bad_requests_are_refused(tmp_path, spoil, message):
    path = folder(tmp_path / "a", engine_run(count=20))
    lines = (path / "requests.jsonl").read_text().splitlines()
    (path / "requests.jsonl").write_text("\n".join(spoil(lines)))
    with pytest.raises(InputError, match=message):
        load_engine_run(path)


def test_bad_folders_and_options_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"requests.jsonl: No such file"):
        validate_runs([tmp_path])
    path = folder(tmp_path / "a", engine_run(count=20))
    with pytest.raises(InputError, match=r"--train is 1.5"):
        validate_runs([path], train=1.5)
    with pytest.raises(InputError, match="raise --train"):
        validate_runs([path], train=0.2)
    with pytest.raises(InputError, match="lower --train"):
        validate_runs([path], train=0.9)
    (path / "meta.json").write_text("[]")
    with pytest.raises(InputError, match=r"meta.json: is a list: must be an object"):
        validate_runs([path])


@pytest.mark.data
def test_real_engines(scepsy_data):
    folders = sorted((scepsy_data / "vllm_runs").iterdir())
    rows = {row["name"]: row for row in validate_runs(folders)["runs"]}
    easy, bound = rows["RTXPRO6000_llama31_8b"], rows["RTX4090_llama31_8b"]
    for name, limit in (("latency_mean", 1.0), ("latency_p95", 2.0), ("tpot_mean", 1.0), ("ttft_mean", 3.0)):
        assert abs(easy[f"{name}_err_pct"]) <= limit, name
    # the KV-bound run misses the aim of 1 % on mean latency: the coefficients trade against each other (docs/simulator.md)
    for name, limit in (("latency_mean", 1.8), ("latency_p95", 2.0), ("tpot_mean", 1.0), ("ttft_mean", 3.0)):
        assert abs(bound[f"{name}_err_pct"]) <= limit, name


def test_the_command(tmp_path):
    from typer.testing import CliRunner

    from scepsy.cli.profile import app

    path = folder(tmp_path / "a", engine_run(count=60))
    done = CliRunner().invoke(app, ["validate", str(path), "--train", "0.5", "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["runs"]
    assert set(row) >= {"name", "source", "requests", "latency_mean_err_pct", "ttft_mean_err_pct", "condition"}
    assert CliRunner().invoke(app, ["validate", str(tmp_path / "none")]).exit_code == 2
