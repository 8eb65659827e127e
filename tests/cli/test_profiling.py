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
    assert (code, "name a model of its kind, e.g. --vendor-model meta-llama/Meta-Llama-3.1-8B" in err) == (2, True)
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
        (("hearsay", "--llm", "llama-3.1-8b"), "source is 'hearsay': must be vllm-bench, guidellm, aiperf or vendor"),
        (("vllm-bench", "--llm", "llama-3.1-8b"), "vllm-bench: give result files"),
    ],
)
def test_bad_input_is_one_line(vendor_data, tmp_path, arguments, message):
    code, _, err = run(*arguments, "-o", tmp_path / "p")
    assert code == 2
    assert message in " ".join(err.split())
    assert not (tmp_path / "p").exists()


def written(generator: str, rows: list[tuple[int, float]]) -> str:
    """Requests of six tokens, 10 ms apart, one a second, as a load generator writes them; rows are (prompt tokens, TTFT)."""
    if generator == "vllm-bench":
        count = len(rows)
        columns = {
            "input_lens": [n for n, _ in rows],
            "ttfts": [s for _, s in rows],
            "start_times": list(map(float, range(count))),
        }
        return json.dumps(columns | {"output_lens": [6] * count, "itls": [[0.01] * 5] * count, "model_id": "m", "date": "d"})
    begin_s = 1_780_000_000
    if generator == "aiperf":
        units = {"input_sequence_length": "tokens", "output_sequence_length": "tokens", "time_to_first_token": "ms"}
        records = []
        for n, (tokens, ttft_s) in enumerate(rows):
            begin_ns = (begin_s + n) * 10**9
            metadata = {
                "x_request_id": f"r{n}",
                "request_start_ns": begin_ns,
                "request_end_ns": begin_ns + round((ttft_s + 0.05) * 1e9),
            }
            values = zip(units.items(), (tokens, 6, ttft_s * 1e3), strict=True)
            metrics = {name: {"value": value, "unit": unit} for (name, unit), value in values}
            records.append({"metadata": metadata, "metrics": metrics, "error": None})
        return "".join(json.dumps(record) + "\n" for record in records)
    requests = []
    for n, (tokens, ttft_s) in enumerate(rows):
        at, first = begin_s + n, begin_s + n + ttft_s
        timings = {"request_start": at, "first_token_iteration": first, "last_token_iteration": first + 0.05}
        requests.append({"request_id": f"r{n}", "prompt_tokens": tokens, "output_tokens": 6, "info": {"timings": timings}})
    return json.dumps({"benchmarks": [{"requests": {"successful": requests, "incomplete": [], "errored": []}}]})


@pytest.mark.parametrize("generator", ["vllm-bench", "guidellm", "aiperf"])
def test_benchmark_results_become_a_profile(tmp_path, generator):
    """A step of 10 ms + 50 us per prompt token, one request at a time."""
    lengths = [100 + 37 * index % 900 for index in range(40)]
    path = tmp_path / "result.json"
    path.write_text(written(generator, [(length, 0.01 + 5e-5 * length) for length in lengths]))
    code, _, err = run(generator, path, "--llm", "llama-3.1-8b", "--gpu", "H100-80G", "-o", tmp_path / "p", "--json")
    assert code == 0, err
    step = load_profiles(tmp_path / "p" / "profiles.yaml").profiles[0].step
    assert math.isclose(step.step_s(0, 0, 1, 400), 0.01, rel_tol=0.05)
