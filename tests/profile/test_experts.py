"""Mixtures of experts, windows and precision in step models, the roofline and its check."""

import numpy as np
import pytest

from scepsy.models.names import find
from scepsy.profile import catalogue
from scepsy.profile.check import by_family, check_references
from scepsy.profile.fits import StepSamples, fit_step
from scepsy.profile.model import EngineLimits, kv_capacity_tokens, smallest_degree
from scepsy.profile.roofline import compute_rate, nearest, scale
from scepsy.profile.step import StepModel


def test_a_batch_reads_only_the_experts_that_it_touches():
    step = StepModel(base_s=0.004, prefill_s_per_token=1e-5, experts_s=0.016, expert_part=8 / 128)
    assert step.step_s(0, 0, 1, 0) == pytest.approx(0.004 + 0.016 * 8 / 128)
    assert step.step_s(0, 0, 1000, 0) == pytest.approx(0.020)
    assert step.weights_s(3) < step.weights_s(4) < 0.020


def test_the_fit_finds_the_experts_term_again():
    truth = StepModel(
        base_s=0.004,
        prefill_s_per_token=2e-5,
        decode_s_per_sequence=3e-5,
        context_s_per_token=2e-8,
        experts_s=0.016,
        expert_part=0.0625,
    )
    decode = [(0.0, 0.0, batch, batch * context) for batch in (1, 2, 4, 8, 16, 32, 64, 128) for context in (128, 1024, 4096)]
    prefill = [(prompt, prompt * prompt / 2, 0.0, 0.0) for prompt in (64, 256, 1024, 4096)]
    rows = np.array([(*row, truth.step_s(*row)) for row in decode + prefill])
    step, errors = fit_step(StepSamples(*rows.T), expert_part=0.0625)
    assert step.experts_s == pytest.approx(0.016, rel=0.01)
    assert errors.median_pct < 0.1
    dense, worse = fit_step(StepSamples(*rows.T))
    assert dense.experts_s == 0.0
    assert worse.median_pct > 5 * errors.median_pct


def test_prefill_of_a_mixture_costs_its_active_weights():
    h100, laws = catalogue.gpu_type("H100-80G"), catalogue.laws()
    mixture, dense = catalogue.llm("qwen3-vl-30b-a3b-instruct"), catalogue.llm("qwen2.5-32b-instruct")
    steps = [
        scale(nearest(llm, h100, catalogue.references()), llm, h100, laws.tensor_parallel, laws.efficiencies)
        for llm in (mixture, dense)
    ]
    assert steps[0].prefill_s_per_token < steps[1].prefill_s_per_token / 2
    assert steps[0].experts_s > steps[0].base_s
    assert steps[1].experts_s == 0.0


def test_dense_models_are_scaled_from_dense_ones():
    for name in ("llama-3.1-8b", "qwen3-32b"):
        for gpu in catalogue.gpu_types().values():
            assert nearest(catalogue.llm(name), gpu, catalogue.references()).llm.experts is None


def test_rates_by_precision():
    h100, a100, b200 = (catalogue.gpu_type(name) for name in ("H100-80G", "A100-80G", "B200"))
    fp8, fp4 = catalogue.llm("qwen3-30b-a3b-fp8"), catalogue.llm("qwen3-235b-a22b-nvfp4")
    assert compute_rate(fp8, h100) == h100.fp8_flops_per_s == 1.979e15
    assert compute_rate(fp8, a100) == a100.flops_per_s
    assert compute_rate(fp4, b200) == b200.fp4_flops_per_s
    assert compute_rate(fp4, h100) == h100.flops_per_s


def test_latent_attention_keeps_its_cache_on_every_gpu():
    llm = catalogue.llm("deepseek-v3")
    assert llm.kv_bytes_per_token_per_gpu(8) == llm.kv_bytes_per_token_per_gpu(1) == 70272


def test_windows_and_states_shape_the_memory_of_a_sequence():
    gpt, qwen = catalogue.llm("gpt-oss-120b"), catalogue.llm("qwen3.5-35b-a3b")
    assert gpt.sequence_bytes(4096) == 36864 * (4096 + 128)
    assert qwen.sequence_bytes(1000) == 20480 * 1000 + qwen.state_bytes_per_sequence
    short = catalogue.builtin_profiles({"a": "qwen3.5-35b-a3b"}, ["H200-141G"], (1,), contexts={"a": 500}).profiles[0]
    long = catalogue.builtin_profiles({"a": "qwen3.5-35b-a3b"}, ["H200-141G"], (1,), contexts={"a": 50_000}).profiles[0]
    assert kv_capacity_tokens(long, 100) > 3 * kv_capacity_tokens(short, 100)


@pytest.mark.parametrize(
    ("model", "gpu", "degree"),
    [("gpt-oss-120b", "H100-80G", 1), ("gpt-oss-120b", "L40S", 2), ("qwen3-30b-a3b", "A100-80G", 1), ("deepseek-v3",
    "H100-80G", 16),
     ("llama-4-maverick-17b-128e-instruct-fp8", "H100-80G", 8), ("llama-3.1-8b", "T4", 2)],
)  # fmt: skip
def test_the_fewest_gpus(model, gpu, degree):
    llm, kind = catalogue.llm(model), catalogue.gpu_type(gpu)
    assert smallest_degree(llm, kind) == degree
    limits = EngineLimits()
    assert llm.weight_bytes / degree < kind.memory_bytes * limits.memory_utilization
    assert (
        degree == 1
        or llm.weight_bytes / (degree // 2) > kind.memory_bytes * limits.memory_utilization - 3 * limits.activation_bytes
    )


def test_the_check_states_an_error_for_every_family_with_step_times():
    laws = catalogue.laws()
    found = {
        row.family: row for row in by_family(check_references(catalogue.references(), laws.tensor_parallel, laws.efficiencies))
    }
    assert {"dense", "qwen3_moe", "gpt_oss", "deepseek_v3", "minimax_m2", "nemotron_h", "all"} <= set(found)
    assert found["all"].decode_pct < 20
    assert found["all"].prefill_pct < 25
    assert found["gpt_oss"].decode_pct < 15


def test_gpu_types_say_what_they_rest_on():
    for gpu in catalogue.gpu_types().values():
        assert gpu.source
        assert gpu.price
        assert gpu.kind in ("measured", "vendor data", "scaled")
    assert {"V100-32G", "T4", "L4", "A10", "A10G", "L40S", "A100-40G", "RTX-4090", "RTX-PRO-6000", "H100-NVL", "H100-PCIe",
            "H200-141G", "B200", "B300", "GB200", "MI300X", "MI325X"} <= set(catalogue.gpu_types())  # fmt: skip


def test_every_name_on_hugging_face_finds_its_own_row():
    for llm in catalogue.llms().values():
        if llm.hf_name:
            assert find(llm.hf_name, catalogue.llms()) == llm
