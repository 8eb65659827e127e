"""Which model serves a name of the trace, what its owner calls it on Hugging Face, and in what precision."""

import re
from collections.abc import Iterable

from scepsy.llm import Llm, Served
from scepsy.models import names
from scepsy.profile import catalogue
from scepsy.profile.model import ProfileSet

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def served(llm: Llm) -> Served:
    """What a profiled LLM is.

    The hub id is the profile's own, else that of the built-in model of the same name and the same weights, else the name
    itself where it has the form of one (``owner/name``) and is not a hosted model's.
    """
    model = llm.model or llm.name
    return Served(
        llm=llm.name, model=model, hub_id=_hub_id(llm, model), quantisation=llm.precision or "bfloat16", also=llm.also
    )


def served_by(profiles: ProfileSet, llms: Iterable[str]) -> tuple[Served, ...]:
    """What serves each of the LLMs, in order. Raises ``KeyError`` for one without a profile."""
    return tuple(served(profiles.llm(llm)) for llm in llms)


def _hub_id(llm: Llm, model: str) -> str:
    if known := names.hf_name(llm):
        return known
    built_in = catalogue.llms().get(model)
    if built_in is not None and built_in.weight_bytes == llm.weight_bytes:
        return names.hf_name(built_in)
    return model if HUB_ID.fullmatch(model) and not names.is_hosted(model) else ""
