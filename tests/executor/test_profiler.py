"""Sweeps against a stub engine, benchmark files, model folders, and the fits on data whose truth is known."""

import importlib.metadata
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from executor.cpu_meter import NOTHING, EngineWork
from executor.local_backend import machine
from executor.profiler.bench_files import PAUSE_S, read_bench, write_bench_run
from executor.profiler.model_files import read_llm
from executor.profiler.sweep import Sweep, latencies_s, read_rows, sweep
from executor.random_models import RandomModel, llm_of, write_model
from scepsy.api.engine_profiles import Fitted, fit_folder, fit_pooling, fit_shares
from scepsy.errors import InputError
from scepsy.profile.model import EngineLimits
from scepsy.profile.step import StepModel
from scepsy.version import __version__
from scepsy.workload import Call
from sim.recorded.enginerun import load_engine_run
from tests.executor.two_cores import CORE

SMALL = Sweep(requests=10, most_rates=2, step=1.5)


@pytest.mark.parametrize("kind", ["generate", "embed", "rerank"])
def test_a_written_model_is_read_back_as_the_same_llm(tmp_path, kind):
    model = RandomModel(name="x", kind=kind, layers=3, hidden_size=64, attention_heads=4, kv_heads=2)
    read, known = read_llm("x", write_model(model, tmp_path), kind), llm_of(model)
    for field in ("parameters", "weight_bytes", "kv_bytes_per_token", "context_limit", "layers", "kv_heads", "kind"):
        assert getattr(read, field) == getattr(known, field), field


def test_a_host_is_described_where_scepsy_runs_from_its_sources(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert machine().endswith(f"scepsy {__version__}")


def test_a_folder_without_a_config_is_named(tmp_path):
    with pytest.raises(InputError, match=r"config\.json: No such file"):
        read_llm("x", tmp_path, "generate")
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": "wide"}')
    with pytest.raises(InputError, match="hidden_size is 'wide'"):
        read_llm("x", tmp_path, "generate")


def test_a_sweep_keeps_every_rate_and_goes_on_where_it_stopped(stub, tmp_path):
    engine = stub(delay_s=0.05)
    calls = [Call(id="a", llm="m", input_tokens=20, output_tokens=3), Call(id="b", llm="m", input_tokens=40, output_tokens=5)]
    meta = {"model": "m", "engine_kwargs": {"max_num_seqs": 4, "max_num_batched_tokens": 64}}
    points = sweep(engine.url, calls, tmp_path, meta, 2048, SMALL)
    assert [point.name for point in points] == ["unloaded", "rate-1", "rate-2", "held-out"]
    assert points[2].rate_per_s == pytest.approx(1.5 * points[1].rate_per_s)
    assert points[0].mean_s >= 0.05
    rows = read_rows(tmp_path)
    assert len(rows) == 30, "all but the held-out run"
    assert {(row["input_toks"], row["output_toks"]) for row in rows} <= {(20, 3), (40, 5)}
    assert len(load_engine_run(tmp_path)) == 30, "what profile validate reads"
    before = len(engine.get("/stub/seen"))
    (tmp_path / "held-out" / "meta.json").unlink()
    again = sweep(engine.url, calls, tmp_path, meta, 2048, SMALL)
    assert len(engine.get("/stub/seen")) == before + 10, "only what was not complete is measured again"
    assert again[1] == points[1]


def test_a_sweep_stops_when_the_instance_saturates(stub, tmp_path):
    engine = stub(delay_s=0.05)
    calls = [Call(id="a", llm="m", input_tokens=20, output_tokens=3)]
    options = Sweep(requests=10, most_rates=8, slowdown=0.5)  # anything is too slow
    points = sweep(engine.url, calls, tmp_path, {}, 2048, options)
    assert [point.name for point in points] == ["unloaded", "rate-1", "held-out"]
    assert points[1].saturated


def write_run(folder, arrivals, tokens, latencies, meta=None):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"input_toks": int(n), "output_toks": 1, "arrival_time": at, "queued_ts": at, "scheduled_ts": at,
         "first_token_ts": at + s, "last_token_ts": at + s}
        for at, n, s in zip(arrivals.tolist(), tokens.tolist(), latencies.tolist(), strict=True)
    ]  # fmt: skip
    (folder / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "meta.json").write_text(json.dumps(meta or {"model": "rr"}))


def test_a_pooling_fit_finds_base_and_cost_per_token(tmp_path):
    rng = np.random.default_rng(3)
    tokens = rng.integers(50, 900, 60)
    latencies = 0.02 + 3e-5 * tokens
    arrivals = np.cumsum(rng.uniform(0.2, 0.4, 60))
    latencies[10] += 0.35  # one waits behind nothing, yet overlaps the next: both are left out
    write_run(tmp_path, arrivals, tokens, latencies)
    step, residual = fit_pooling(load_engine_run(tmp_path))
    assert step.base_s == pytest.approx(0.02, rel=0.02)
    assert step.prefill_s_per_token == pytest.approx(3e-5, rel=0.02)
    assert residual < 1


def test_a_fitted_folder_is_scored_on_the_held_out_run(tmp_path):
    rng = np.random.default_rng(3)
    llm = llm_of(RandomModel(name="rr", kind="rerank"))
    meta = {"model": "rr", "llm": msgspec.to_builtins(llm), "share_pct": 100,
            "engine_kwargs": {"max_num_seqs": 8, "max_num_batched_tokens": 2048, "tensor_parallel_size": 1}}  # fmt: skip
    for name, slower in (("", 1.0), ("held-out", 1.25), ("unloaded", 1.0), ("rate-1", 1.0)):
        tokens = rng.integers(50, 900, 40)
        write_run(tmp_path / name, np.arange(40) * 1.0, tokens, slower * (0.02 + 3e-5 * tokens), meta)
    fitted = fit_folder(tmp_path)
    assert fitted.held_out["latency_mean_err_pct"] == pytest.approx(100 * (1 / 1.25 - 1), abs=1.0)
    assert fitted.capacity_per_s == pytest.approx(1.0, rel=0.05)


def test_a_fitted_folder_says_what_cpu_time_the_work_took_and_how_slow_the_machine_was_when_held_out(tmp_path):
    rng = np.random.default_rng(3)
    meta = {"model": "rr", "llm": msgspec.to_builtins(llm_of(RandomModel(name="rr", kind="rerank"))), "share_pct": 100,
            "engine_kwargs": {"max_num_seqs": 8, "max_num_batched_tokens": 2048, "tensor_parallel_size": 1}}  # fmt: skip
    for name, slower in (("", 1.0), ("held-out", 1.5), ("unloaded", 1.0), ("rate-1", 1.0)):
        tokens = rng.integers(50, 900, 40)
        seconds = slower * (0.02 + 3e-5 * tokens)
        # the engine's processes take 0.9 s of CPU per second of its iterations, at either speed
        work = {"cpu_s": 0.9 * seconds.sum(), "iterations": 40, "prompt_tokens": int(tokens.sum()), "decoded_tokens": 0}
        write_run(tmp_path / name, np.arange(40) * 1.0, tokens, seconds, {**meta, "work": work})
    fit = fit_folder(tmp_path)
    assert fit.cpu_s_per_step_s == pytest.approx(0.9, rel=0.02)
    assert fit.work.iterations == 80, "unloaded and rates, not the held-out run"
    assert fit.held_out_slowdown == pytest.approx(1.5, rel=0.02)


def fitted(share, slower, work=NOTHING):
    step = StepModel(base_s=0.01 * slower, prefill_s_per_token=1e-4 * slower, decode_s_per_sequence=1e-3 * slower)
    return Fitted("m", 1, share, step, 1.0, {}, 1.0, work)


def test_a_share_law_is_refitted_from_shares(tmp_path):
    law = fit_shares([fitted(100, 1.0), fitted(50, 1.4), fitted(25, 2.2)], CORE)
    for name in ("prefill_k", "prefill_small_k", "decode_k", "decode_large_k"):
        assert getattr(law, name) == pytest.approx(0.4)
    assert fit_shares([fitted(100, 1.0)], CORE) is None


BENCH = {
    "date": "20260101-000000", "model_id": "m", "request_rate": 2.0,
    "input_lens": [100, 200, 300], "output_lens": [3, 2, 5], "ttfts": [0.1, 0.2, 0.3],
    "itls": [[0.01, 0.02], [0.03], []], "start_times": [50.0, 50.5, 51.0], "errors": ["", "", "timeout"],
}  # fmt: skip


def test_bench_results_become_one_run(tmp_path):
    for name, shift in (("a.json", 0.0), ("b.json", 1000.0)):
        (tmp_path / name).write_text(json.dumps({**BENCH, "start_times": [t + shift for t in BENCH["start_times"]]}))
    llm = llm_of(RandomModel(name="m"))
    found = write_bench_run([tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "run", llm, CORE, 1, EngineLimits())
    rows = read_rows(tmp_path / "run")
    assert rows == found.rows
    assert (len(rows), found.left_out, found.llms) == (4, {"failed requests": 2}, ("m",))
    assert latencies_s(rows).tolist() == pytest.approx([0.13, 0.23, 0.13, 0.23])
    assert rows[2]["arrival_time"] == pytest.approx(rows[1]["last_token_ts"] + PAUSE_S)


@pytest.mark.parametrize("gone", ["start_times", "ttfts", "itls"])
def test_bench_results_without_details_say_what_to_do(tmp_path, gone):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({key: value for key, value in BENCH.items() if key != gone}))
    with pytest.raises(InputError, match=r"no request has its times .*run vllm bench serve with --save-result --save-detailed"):
        read_bench(path)


@pytest.mark.parametrize("generator", ["guidellm", "aiperf"])
def test_results_of_other_load_generators_become_the_same_rows(generator):
    (path,) = (Path(__file__).parents[1] / "importers" / "fixtures" / generator).glob("sample.*")
    found = read_bench(path, generator)
    times = [(row["input_toks"], row["output_toks"], row["first_token_ts"] - row["arrival_time"]) for row in found.rows]
    seconds = [row["last_token_ts"] - row["arrival_time"] for row in found.rows]
    if generator == "guidellm":
        assert times == [(128, 9, 0.125), (256, 11, 0.25), (100, 5, 0.125), (150, 6, 0.125)]
        assert seconds == [0.5] * 4
    else:
        assert times == [(tokens, made, pytest.approx(0.05, abs=1e-6)) for tokens, made in ((500, 12), (550, 9), (700, 8))]
        assert seconds == pytest.approx([1.0, 1.0, 0.5], abs=1e-6)
    assert found.left_out == {"failed requests": 1}


def test_a_share_law_of_cores_is_not_taken_from_sweeps_that_are_minutes_apart():
    work = EngineWork(cpu_s=2.0, iterations=100, prompt_tokens=5000, decoded_tokens=300)
    assert fit_shares([fitted(100, 1.0, work), fitted(50, 2.6, work)], CORE) is None


def test_a_sweep_in_rounds_visits_every_rate_again(stub, tmp_path):
    calls = [Call(id="a", llm="m", input_tokens=20, output_tokens=3)]
    options = msgspec.structs.replace(SMALL, rounds=2)
    points = sweep(stub(delay_s=0.05).url, calls, tmp_path, {}, 2048, options)
    assert [point.name for point in points] == ["unloaded", "rate-1", "rate-2", "held-out"]
    assert len(read_rows(tmp_path)) == 2 * 30, "all but the held-out run"
    again, first = (json.loads((tmp_path / name / "meta.json").read_text()) for name in ("rate-2-round-2", "rate-2"))
    assert again["rate_per_s"] == first["rate_per_s"] == points[2].rate_per_s
    assert read_rows(tmp_path / "unloaded-round-2") is not None
