"""Rendering without a cluster, and what engines ask for by their model's size."""

import json
from pathlib import Path

import msgspec
import pytest
import yaml
from typer.testing import CliRunner

from executor.manifests import RenderOptions, render
from executor.manifests.example import MARK, example_options, example_plan, mark
from executor.manifests.options import Resources
from executor.manifests.sizing import needs_of
from scepsy.cli import app
from scepsy.errors import InputError
from scepsy.files.plan import save_plan
from scepsy.files.profiles import save_profiles
from scepsy.plans import Plan
from scepsy.profile import catalogue
from tests.builders import plans


def without_uuids() -> Plan:
    plan = plans.two_nodes()
    nodes = tuple(msgspec.structs.replace(node, gpu_uuids=()) for node in plan.cluster.nodes)
    return msgspec.structs.replace(plan, cluster=msgspec.structs.replace(plan.cluster, nodes=nodes))


def test_made_up_devices_are_distinct_and_every_object_is_marked() -> None:
    plan, profiles = without_uuids(), plans.profiles()
    with pytest.raises(InputError, match="gpu_uuids is empty"):
        render(plan, profiles, RenderOptions(gateway_image="x"))
    made_up = example_plan(plan)
    uuids = [uuid for node in made_up.cluster.nodes for uuid in node.gpu_uuids]
    assert len(set(uuids)) == len(uuids) == len(plan.cluster.gpus)
    made = render(made_up, profiles, example_options(plan, profiles, RenderOptions()))
    mark(made.objects)
    objects = list(made.objects)
    assert all("made-up" in each["metadata"]["annotations"][MARK] for each in objects)
    assert {each["kind"] for each in objects} >= {"Deployment", "ResourceClaim", "Service", "ConfigMap"}


def test_real_uuids_are_not_shown_as_an_example() -> None:
    plan = plans.two_nodes()
    real = {uuid for node in plan.cluster.nodes for uuid in node.gpu_uuids}
    assert not real & {uuid for node in example_plan(plan).cluster.nodes for uuid in node.gpu_uuids}


def test_on_the_command_line_it_is_marked_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_profiles(tmp_path / "p.yaml", plans.profiles())
    save_plan(tmp_path / "x.plan.yaml", msgspec.structs.replace(without_uuids(), profiles="p.yaml"))
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(app, ["render", "x.plan.yaml", "--gateway-image", "x"])
    assert refused.exit_code == 2
    shown = CliRunner().invoke(app, ["render", "x.plan.yaml", "--example-cluster"])
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith("# EXAMPLE: made-up")
    assert "made-up" in shown.stderr
    assert all(MARK in each["metadata"]["annotations"] for each in yaml.safe_load_all(shown.stdout) if each)
    as_json = json.loads(CliRunner().invoke(app, ["render", "x.plan.yaml", "--example-cluster", "--json"]).stdout)
    assert all(MARK in each["metadata"]["annotations"] for each in as_json["items"])


def test_a_72b_gets_memory_scratch_and_time_and_what_is_given_stands() -> None:
    options = RenderOptions()
    large = catalogue.built_in_profile(catalogue.llm("qwen2.5-72b"), catalogue.gpu_type("A100-80G"), 4)
    weights = large.llm.weight_bytes / 2**30
    needs = needs_of(large, "Qwen/Qwen2.5-72B-Instruct", options)
    assert int(needs.scratch.removesuffix("Gi")) > weights, "room for the download"
    assert int(needs.resources.memory.removesuffix("Gi")) >= 4 * 2 + 2
    assert needs.start_timeout_s * 50e6 > large.llm.weight_bytes, "it may download at 50 MB/s"
    assert needs.resources.cpu == "4"
    on_volume = needs_of(large, "/models/qwen", options)
    assert on_volume.scratch == "5Gi"
    assert on_volume.start_timeout_s < needs.start_timeout_s
    small = catalogue.built_in_profile(catalogue.llm("llama-3.2-1b"), catalogue.gpu_type("A100-80G"), 1)
    assert needs_of(small, "x/y", options).start_timeout_s == 600
    assert needs_of(small, "x/y", RenderOptions(cache_claim="c")).scratch == ""
    own = RenderOptions(engine_resources=Resources(cpu="3", memory="9Gi"), scratch="1Ti", start_timeout_s=42)
    given = needs_of(large, "x/y", own)
    assert (given.resources, given.scratch, given.start_timeout_s) == (Resources(cpu="3", memory="9Gi"), "1Ti", 42)
    with pytest.raises(ValueError, match="start_timeout_s is 5"):
        RenderOptions(start_timeout_s=5)
