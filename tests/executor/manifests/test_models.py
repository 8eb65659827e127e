"""What engines load: the plan's hub id, unless the deploy file says otherwise; nothing is guessed."""

import json
from typing import Any

import msgspec
import pytest

from executor.manifests import Rendered, RenderOptions, read_plan_config_map, render
from scepsy.errors import InputError
from scepsy.llm import Served
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from tests.builders import plans

PROFILES, OPTIONS = plans.profiles(), plans.OPTIONS


def planned(**hub_ids: str) -> Plan:
    """Two LLMs named as traffic names them, each with the model that serves it."""
    plan = plans.one_node()
    models = tuple(
        Served(llm=a.llm, model=f"own-{a.llm}", hub_id=hub_ids.get(a.llm, f"test/{a.llm}"), quantisation="fp8")
        for a in plan.allocations
    )
    return msgspec.structs.replace(plan, models=models)


def without_names(profiles: ProfileSet = PROFILES) -> ProfileSet:
    """The same profiles, whose LLMs have no name on Hugging Face."""
    kept = (msgspec.structs.replace(p, llm=msgspec.structs.replace(p.llm, hf_name="")) for p in profiles.profiles)
    return msgspec.structs.replace(profiles, profiles=tuple(kept))


def loaded(made: Rendered) -> dict[str, Any]:
    """What each LLM's engines load, and under which name they serve it."""
    found = {}
    for each in made.engines:
        args = each.deployment["spec"]["template"]["spec"]["containers"][0]["args"]
        found[each.llm] = (args[args.index("--model") + 1], args[args.index("--served-model-name") + 1])
    return found


def test_engines_load_the_hub_id_of_the_plan_and_serve_the_name_of_the_traffic() -> None:
    plan = planned(embedder="BAAI/bge-m3")
    found = loaded(render(plan, PROFILES, OPTIONS))
    assert found["embedder"] == ("BAAI/bge-m3", "embedder")
    assert all(model == f"test/{llm}" for llm, (model, _) in found.items() if llm != "embedder")


def test_a_deploy_file_may_name_another_model() -> None:
    chosen = msgspec.structs.replace(OPTIONS, models={"embedder": "/models/mine"})
    assert loaded(render(planned(), PROFILES, chosen))["embedder"] == ("/models/mine", "embedder")


def test_a_plan_of_before_takes_the_hub_id_of_its_profiles() -> None:
    assert loaded(render(plans.one_node(), PROFILES, OPTIONS))["embedder"] == ("test/embedder", "embedder")


def test_a_model_without_a_hub_id_is_refused_before_anything_is_made() -> None:
    with pytest.raises(
        InputError, match=r"LLM 'embedder': model 'own-embedder' has no known name .* --as 'embedder=OWNER/NAME'"
    ):
        render(planned(embedder=""), PROFILES, OPTIONS)
    with pytest.raises(InputError, match=r"its model is not known.* --as"):
        render(plans.one_node(), without_names(), OPTIONS)


@pytest.mark.parametrize("field", ["models", "engine_args"])
def test_an_entry_without_an_llm_is_refused(field: str) -> None:
    chosen = msgspec.convert(
        {**msgspec.to_builtins(OPTIONS), field: {"embeder": "x" if field == "models" else []}}, RenderOptions
    )
    with pytest.raises(InputError, match=rf"{field} has an entry 'embeder', which is no LLM of the plan: .*embedder"):
        render(planned(), PROFILES, chosen)


def test_the_gateway_image_is_asked_for() -> None:
    with pytest.raises(InputError, match=r"gateway_image is empty: .*--gateway-image IMAGE"):
        render(planned(), PROFILES, RenderOptions())


def test_a_swapped_model_is_another_engine_and_another_plan() -> None:
    before, after = render(planned(), PROFILES, OPTIONS), render(planned(embedder="BAAI/bge-m3"), PROFILES, OPTIONS)
    assert before.plan_hash != after.plan_hash
    changed = {e.llm for e in after.engines} - {e.llm for e in after.engines if e.name in {o.name for o in before.engines}}
    assert changed == {"embedder"}


def test_a_record_of_an_earlier_version_is_read_as_it_was_deployed() -> None:
    data = dict(render(plans.one_node(), PROFILES, OPTIONS).plan["data"])
    options = json.loads(data["options.json"])
    del options["models"], options["gateway_image"]  # what was the default was left out
    plan, profiles, back = read_plan_config_map({**data, "options.json": json.dumps(options)})
    assert back.gateway_image == "scepsy/gateway:0.1.0"
    assert loaded(render(plan, profiles, back))["embedder"] == ("embedder", "embedder")
