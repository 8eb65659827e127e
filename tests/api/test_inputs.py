"""Inputs of a program: traces found by themselves, clusters by name, file or number."""

from pathlib import Path

import pytest

import scepsy

SAMPLE = Path(__file__).parents[2] / "docs" / "samples" / "support.otlp.jsonl.gz"


def test_a_trace_is_imported_without_naming_its_format() -> None:
    trace = scepsy.import_trace(SAMPLE)
    assert (len(trace.runs), len(trace.llms)) == (60, 5)
    assert trace == scepsy.import_trace([SAMPLE], "otel")


def test_an_unknown_format_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("nothing of the kind")
    with pytest.raises(scepsy.InputError, match=r"x\.txt"):
        scepsy.import_trace(tmp_path / "x.txt")


def test_clusters_by_number_preset_and_file(tmp_path: Path) -> None:
    from scepsy.files.cluster import save_cluster

    assert len(scepsy.load_cluster(12, "H100-80G").gpus) == 12
    preset = scepsy.load_cluster("2x8-a100-80g")
    save_cluster(tmp_path / "c.yaml", preset)
    assert scepsy.load_cluster(tmp_path / "c.yaml") == preset
    with pytest.raises(scepsy.InputError, match="must be a cluster file or a preset"):
        scepsy.load_cluster("nowhere")


def test_rates_must_name_the_workflows() -> None:
    traces = [scepsy.generate_trace(name, runs=5) for name in ("chat", "reflection")]
    with pytest.raises(scepsy.InputError, match="must name a rate for each workflow"):
        scepsy.plan(traces, rate_per_s=1.0)
    with pytest.raises(scepsy.InputError, match="must be for chat, reflection"):
        scepsy.plan(traces, rate_per_s={"chat": 1.0})
    with pytest.raises(scepsy.InputError, match="must be a finite number > 0"):
        scepsy.plan(traces[0], rate_per_s=0.0)


def test_validate_passes_a_plan_at_its_rate_and_refuses_it_far_beyond() -> None:
    trace = scepsy.generate_trace("chat", runs=20, seed=1)
    plan = scepsy.plan(trace, rate_per_s=0.5, cluster=1)
    calm = {check["name"]: check["ok"] for check in scepsy.validate(plan, trace, max_latency_s=1000, precision=0.2)}
    assert calm == {"keeps_up": True, "completed_runs": True, "max_latency_s": True}
    crowded = {c["name"]: c["ok"] for c in scepsy.validate(plan, trace, rate_per_s=500.0, precision=0.2, most_calls=20_000)}
    assert not crowded["keeps_up"]
