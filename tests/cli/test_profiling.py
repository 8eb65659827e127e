"""``scepsy profile import`` as a user runs it: what is written, printed and answered to bad input."""

import json
import math

import pytest
from typer.testing import CliRunner

from scepsy.cli import app
from scepsy.files.profiles import load_profiles


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["profile", "import", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def vendor_data():
    pytest.importorskip("aiconfigurator_core", reason="needs aiconfigurator-core (extra 'vendor')")


def test_the_example_of_the_help_works(vendor_data, tmp_path):
    code, out, err = run("vendor", "--llm", "llama-3.1-8b", "--gpu", "B200", "--tp", "1,2", "-o", tmp_path)
    assert code == 0, err
    assert f"wrote {tmp_path / 'profiles.yaml'}" in out.replace("\n", "")
    profiles = load_profiles(tmp_path / "profiles.yaml")
    one, two = (profiles.of("llama-3.1-8b", "B200", degree) for degree in (1, 2))
    assert one.source.startswith("vendor: aiconfigurator-core")
    assert one.cpu_s_per_step_s is None
    # A decode step of one sequence reads all weights: at least their bytes over the bandwidth, and not five times that.
    least_s = one.llm.weight_bytes / one.gpu.bandwidth_bytes_per_s
    assert least_s < one.step.step_s(0, 0, 1, 128) < 5 * least_s
    assert two.step.step_s(0, 0, 1, 128) < one.step.step_s(0, 0, 1, 128)


def test_a_model_that_the_data_names_differently_is_told_how_to_be_named(vendor_data, tmp_path):
    code, _, err = run("vendor", "--llm", "prm-8b", "--gpu", "H100-80G", "-o", tmp_path / "p")
    assert (code, "pass one, e.g. --vendor-model meta-llama/Meta-Llama-3.1-8B" in err) == (2, True)
    assert not (tmp_path / "p").exists(), "nothing is left of a command that failed"
    named = ("--vendor-model", "meta-llama/Meta-Llama-3.1-8B")
    code, out, _ = run("vendor", "--llm", "prm-8b", "--gpu", "H100-80G", *named, "-o", tmp_path / "p", "--json")
    assert code == 0
    assert json.loads(out)["measured"][0]["llm"] == "prm-8b"
    code, _, err = run("vendor", "--llm", "prm-8b", "--llm", "prm-7b", *named, "-o", tmp_path / "p")
    assert (code, "must be given with one --llm" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vendor",), "--llm is missing"),
        (("vendor", "--llm", "llama-3.1-8b", "--gpu", "RTX-4090"), "GPU type 'RTX-4090' has no vendor data: one of A100-80G"),
        (("vendor", "--llm", "llama-3.1-8b", "--tp", "0"), "--tp is '0': must be whole numbers from 1"),
        (("hearsay", "--llm", "llama-3.1-8b"), "source is 'hearsay': must be vllm-bench or vendor"),
        (("vllm-bench", "--llm", "llama-3.1-8b"), "vllm-bench: give result files"),
    ],
)
def test_bad_input_is_one_line(vendor_data, tmp_path, arguments, message):
    code, _, err = run(*arguments, "-o", tmp_path / "p")
    assert code == 2
    assert message in " ".join(err.split())
    assert not (tmp_path / "p").exists()


def test_benchmark_results_become_a_profile(tmp_path):
    """A step of 10 ms + 50 us per prompt token, one request at a time."""
    count = 40
    lengths = [100 + 37 * index % 900 for index in range(count)]
    ttfts = [0.01 + 5e-5 * length for length in lengths]
    result = {
        "input_lens": lengths, "output_lens": [6] * count, "ttfts": ttfts, "itls": [[0.01] * 5] * count,
        "start_times": [float(index) for index in range(count)], "errors": [""] * count, "model_id": "m", "date": "d",
    }  # fmt: skip
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    code, _, err = run("vllm-bench", path, "--llm", "llama-3.1-8b", "--gpu", "H100-80G", "-o", tmp_path / "p", "--json")
    assert code == 0, err
    step = load_profiles(tmp_path / "p" / "profiles.yaml").profiles[0].step
    assert math.isclose(step.step_s(0, 0, 1, 400), 0.01, rel_tol=0.05)
