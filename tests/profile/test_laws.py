"""The laws against hand-computed values and against the measurements they were fitted from."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scepsy.errors import InputError
from scepsy.profile import catalogue
from scepsy.profile.fits import (
    DegreeSample,
    ShareSample,
    StepSamples,
    aegaeon_samples,
    fit_share_law,
    fit_step,
    fit_tensor_parallel_law,
    held_out_share_errors,
    muxserve_samples,
)
from scepsy.profile.model import kv_capacity_tokens
from scepsy.profile.share import ContentionLaw, ShareLaw
from scepsy.profile.step import StepModel
from scepsy.profile.tensor_parallel import TensorParallelLaw, at_degree

LAW = ShareLaw(prefill_k=0.7, prefill_small_k=0.3, decode_k=0.2, decode_large_k=0.6)


def test_share_law_by_regime() -> None:
    assert LAW.prefill_factor(512, 50) == pytest.approx(1.7)
    assert LAW.prefill_factor(511, 50) == pytest.approx(1.3)
    assert LAW.decode_factor(64, 50) == pytest.approx(1.2)
    assert LAW.decode_factor(96, 50) == pytest.approx(1.4)
    assert LAW.decode_factor(128, 25) == pytest.approx(2.8)


@given(st.integers(1, 100), st.integers(1, 4096), st.integers(1, 512))
def test_a_share_never_speeds_up_and_a_whole_gpu_changes_nothing(share: int, tokens: int, sequences: int) -> None:
    assert LAW.prefill_factor(tokens, share) >= 1.0
    assert LAW.decode_factor(sequences, share) >= 1.0
    assert LAW.prefill_factor(tokens, 100) == LAW.decode_factor(sequences, 100) == 1.0


@given(st.floats(0, 1), st.floats(0, 3))
def test_contention_never_delivers_more_than_the_peak(own: float, others: float) -> None:
    slowdown = ContentionLaw(interference=0.5).slowdown(own, others)
    assert slowdown >= 1.0
    assert (own + others) / slowdown <= 1.0 + 1e-12 or others == 0.0


def test_step_fit_recovers_its_own_model() -> None:
    truth = StepModel(
        base_s=0.01, prefill_s_per_token=4e-5, decode_s_per_sequence=5e-5, context_s_per_token=8e-8, attention_s_per_token2=3e-9
    )
    rng = np.random.default_rng(0)
    prefill, sequences = rng.integers(0, 2048, 200).astype(float), rng.integers(0, 128, 200).astype(float)
    context, attention = sequences * rng.integers(64, 2048, 200), prefill**2 / 2
    seconds = np.array([truth.step_s(*row) for row in zip(prefill, attention, sequences, context, strict=True)])
    fitted, errors = fit_step(StepSamples(prefill, attention, sequences, context, seconds))
    assert errors.p95_pct < 1e-6
    for field in truth.__struct_fields__:
        assert getattr(fitted, field) == pytest.approx(getattr(truth, field), rel=1e-6)


def test_share_fit_recovers_its_own_law_and_holds_out_models() -> None:
    samples = [
        ShareSample(model, phase, size, share, factor(size, share))
        for model in ("a", "b")
        for share in (30, 50, 80)
        for phase, factor, sizes in (("prefill", LAW.prefill_factor, (64, 2048)), ("decode", LAW.decode_factor, (8, 128)))
        for size in sizes
    ]
    law, errors = fit_share_law(samples)
    assert (law.prefill_k, law.prefill_small_k) == pytest.approx((0.7, 0.3))
    assert (law.decode_k, law.decode_large_k) == pytest.approx((0.2, 0.6))
    assert max(error.p95_pct for error in held_out_share_errors(samples).values()) < 1e-9
    assert errors["decode_k"].points == 6


def test_tensor_parallel_fit_recovers_its_own_law() -> None:
    law = TensorParallelLaw(overhead_s_per_layer=5e-5, prefill_serial=0.2, decode_serial=0.5)
    whole = StepModel(base_s=0.012, prefill_s_per_token=5e-5, decode_s_per_sequence=1e-4)
    model = catalogue.llm("llama-3.1-8b")
    samples = [DegreeSample("x", model.layers, t, at_degree(whole, model, t, law)) for t in (1, 2, 4, 8)]
    fitted, errors = fit_tensor_parallel_law(samples)
    assert fitted.overhead_s_per_layer == pytest.approx(5e-5, rel=1e-6)
    assert (fitted.prefill_serial, fitted.decode_serial) == pytest.approx((0.2, 0.5))
    assert errors.p95_pct < 1e-6


def test_kv_heads_bound_what_tensor_parallelism_divides() -> None:
    model = catalogue.llm("qwen2.5-7b")  # 4 KV heads
    law = TensorParallelLaw(overhead_s_per_layer=0.0, prefill_serial=0.0, decode_serial=0.0)
    step = StepModel(base_s=0.01, prefill_s_per_token=1e-5, context_s_per_token=4e-8)
    assert at_degree(step, model, 7, law).context_s_per_token == pytest.approx(1e-8)
    assert at_degree(step, model, 1, law) == step


def test_kv_capacity_by_hand() -> None:
    profile = catalogue.built_in_profile(catalogue.llm("llama-2-13b"), catalogue.gpu_type("A100-80G"), 1)
    free = int(85899345920 * 0.92 * 0.5) - 26040000000 - 1024**3
    assert kv_capacity_tokens(profile, 50) == int(free / 819200) // 16 * 16
    assert kv_capacity_tokens(profile, 30) == -1


def test_a_measured_pair_keeps_its_measurement_and_others_say_they_are_scaled() -> None:
    gpu = catalogue.gpu_type("A100-80G")
    measured = catalogue.built_in_profile(catalogue.llm("qwen2.5-7b"), gpu, 1)
    reference = next(r for r in catalogue.references() if (r.llm.name, r.gpu.name) == ("qwen2.5-7b", "A100-80G"))
    assert measured.step.base_s == pytest.approx(reference.step.base_s)
    assert measured.step.prefill_s_per_token == pytest.approx(reference.step.prefill_s_per_token)
    assert measured.residual_pct == reference.residual_pct
    scaled = catalogue.built_in_profile(catalogue.llm("llama-3.2-1b"), gpu, 1)
    assert scaled.source.startswith("scaled:")
    assert scaled.residual_pct is None


def test_roofline_against_a_pair_it_was_not_given() -> None:
    """Hold each 7B-to-13B measurement out: the nearest other one on the same GPU must predict base and prefill within 35 %."""
    from scepsy.profile.roofline import nearest, scale

    laws = catalogue.laws()
    sized = [r for r in catalogue.references() if 6e9 < r.llm.parameters < 1.5e10 and r.source.startswith("fitted")]
    errors = []
    for reference in sized:
        others = [r for r in sized if r is not reference]
        step = scale(
            nearest(reference.llm, reference.gpu, others), reference.llm, reference.gpu, laws.tensor_parallel, laws.efficiencies
        )
        errors += [
            abs(step.base_s / reference.step.base_s - 1),
            abs(step.prefill_s_per_token / reference.step.prefill_s_per_token - 1),
        ]
    assert float(np.median(errors)) < 0.15
    assert max(errors) < 0.5


def test_every_catalogue_model_is_consistent() -> None:
    assert len(catalogue.llms()) >= 80
    for model in catalogue.llms().values():
        assert model.source
        sixteen_bits = model.precision in ("", "bfloat16", "float16")
        if sixteen_bits and not any("vision" in note for note in model.notes):
            assert model.weight_bytes == pytest.approx(2 * model.parameters, rel=0.01)
        elif not sixteen_bits:
            assert model.parameters / 2 < model.weight_bytes < 2 * model.parameters
        if model.kv_bytes_per_token and not model.kv_layers and model.kv_dtype != "fp8":
            head = model.attention_size / model.attention_heads
            assert model.kv_bytes_per_token == 2 * model.layers * model.kv_heads * head * 2


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(InputError, match=r"'llama-2-14b' \(nearest: llama-2-13b.*not known: must be a name of"):
        catalogue.llm("llama-2-14b")
    with pytest.raises(InputError, match="2x8-h100"):
        catalogue.cluster_preset("3x3")


def test_profiles_carry_the_name_of_the_trace() -> None:
    profiles = catalogue.builtin_profiles({"agent:x": "llama-3.1-8b"}, ["H100-80G"], degrees=(1, 2))
    assert [(p.llm.name, p.tensor_parallel) for p in profiles.profiles] == [("agent:x", 1), ("agent:x", 2)]


@pytest.mark.data
def test_committed_share_law_is_what_the_grid_gives(scepsy_data: Path) -> None:
    grid = json.loads((scepsy_data / "calibration/muxserve_sm_share.json").read_text())
    law, _ = fit_share_law(muxserve_samples(grid))
    committed = catalogue.laws().share_law
    for field in ("prefill_k", "prefill_small_k", "decode_k", "decode_large_k"):
        assert getattr(committed, field) == pytest.approx(getattr(law, field), abs=6e-4)
    held_out = held_out_share_errors(muxserve_samples(grid))
    assert held_out["prefill_k"].median_pct < 3
    assert held_out["decode_k"].median_pct < 3


@pytest.mark.data
def test_committed_steps_are_what_the_tables_give(scepsy_data: Path) -> None:
    tables = json.loads((scepsy_data / "calibration/aegaeon_step_times.json").read_text())
    fitted = [r for r in catalogue.references() if r.source.startswith("fitted")]
    assert fitted
    for reference in fitted:
        step, errors = fit_step(aegaeon_samples(tables[reference.source.rsplit(" ", 1)[1]]))
        assert errors.median_pct == pytest.approx(reference.residual_pct, abs=0.06)
        for field, value in msgspec.structs.asdict(reference.step).items():
            assert value == pytest.approx(getattr(step, field), rel=1e-3)
