"""Which reader understands which ``model_type``. A type that is not here is refused by name; nothing is read as
something else."""

from collections.abc import Callable
from typing import Literal

from msgspec.structs import replace

from scepsy.errors import InputError
from scepsy.models.config import Config
from scepsy.models.families import dense, encoders, experts, gemma4, hybrid, latent, vision
from scepsy.models.parts import ModelLayout

Kind = Literal["generate", "embed", "rerank"]
TextReader = Callable[[Config, str, Config | None], ModelLayout]
EncoderReader = Callable[[Config, str, Kind], ModelLayout]

TEXT: dict[str, TextReader] = {
    **dict.fromkeys(dense.STYLES, dense.read),
    "falcon": dense.falcon,
    "mixtral": experts.mixtral,
    "phimoe": experts.phimoe,
    "qwen2_moe": experts.qwen2_moe,
    "qwen3_moe": experts.qwen3_moe,
    "olmoe": experts.olmoe,
    "granitemoe": experts.granitemoe,
    "granitemoeshared": experts.granitemoe,
    "minimax_m2": experts.minimax_m2,
    "minimax_m3": experts.minimax_m3,
    "mimo_v2_flash": experts.mimo_v2_flash,
    "gpt_oss": experts.gpt_oss,
    "llama4_text": experts.llama4,
    "glm4_moe": experts.glm4_moe,
    "dots1": experts.glm4_moe,
    "ernie4_5_moe": experts.ernie4_5_moe,
    "hunyuan_v1_moe": experts.hunyuan_v1_moe,
    "step3p7": experts.step3p7,
    "deepseek_v2": latent.deepseek,
    "deepseek_v3": latent.deepseek,
    "deepseek_v32": latent.deepseek,
    "kimi_k2": latent.deepseek,
    "glm_moe_dsa": latent.deepseek,
    "glm4_moe_lite": latent.deepseek,
    "deepseek_v4": latent.deepseek_v4,
    "qwen3_next": hybrid.qwen_hybrid,
    "qwen3_5_text": hybrid.qwen_hybrid,
    "qwen3_5_moe_text": hybrid.qwen_hybrid,
    "nemotron_h": hybrid.nemotron_h,
    "jamba": hybrid.jamba,
    "bamba": hybrid.granite_hybrid,
    "granitemoehybrid": hybrid.granite_hybrid,
    "falcon_h1": hybrid.falcon_h1,
    "kimi_linear": hybrid.kimi_linear,
    "gemma4_text": gemma4.gemma4,
}
"""Decoders by model_type (of the text part, where a wrapper holds it)."""

ALIASES: dict[str, str] = {
    "minimax_m3_vl": "minimax_m3",
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "llama4": "llama4_text",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
}
"""Text parts that are read like another type; a wrapper's text part without a model_type is looked up by the wrapper's."""

ARCHITECTURES: dict[str, str] = {"DeepseekV4ForCausalLM": "deepseek_v4", "DeepseekV32ForCausalLM": "deepseek_v32"}
"""Class names that decide where a file's model_type is a placeholder (``deepseek_ref``)."""

ENCODERS: dict[str, EncoderReader] = {
    "bert": encoders.bert,
    "roberta": encoders.bert,
    "xlm-roberta": encoders.bert,
    "camembert": encoders.bert,
    "mpnet": encoders.bert,
    "distilbert": encoders.distilbert,
    "modernbert": encoders.modernbert,
}


def known() -> tuple[str, ...]:
    """Every model_type that is read, sorted."""
    return tuple(sorted({*TEXT, *ALIASES, *ENCODERS, *WRAPPERS}))


VISION: dict[str, tuple[Callable[[Config, int], int], bool]] = {
    "qwen3_vl": (lambda v, hidden: vision.qwen3_vl(v), True),
    "qwen3_vl_moe": (lambda v, hidden: vision.qwen3_vl(v), True),
    "qwen3_5": (lambda v, hidden: vision.qwen3_vl(v), False),
    "qwen3_5_moe": (lambda v, hidden: vision.qwen3_vl(v), False),
    "qwen2_vl": (lambda v, hidden: vision.qwen2_vl(v), True),
    "qwen2_5_vl": (lambda v, hidden: vision.qwen2_5_vl(v), True),
    "gemma3": (vision.siglip, True),
    "gemma4": (vision.gemma4, True),
    "kimi_k25": (vision.kimi, True),
    "kimi_k3": (vision.kimi, True),
    "step3p7": (vision.step, True),
}
"""Wrappers by model_type: how many weights the vision encoder has, and whether transformers' class for text counts them."""

WRAPPERS = frozenset({*VISION, "llama4", "mistral3", "minimax_m3_vl"})
"""Types that may hold their text part in ``text_config``."""


def refusal(model_type: str, where: str) -> InputError:
    """The error for a family that is not understood, with what to give instead."""
    return InputError(
        f"{where}: model_type is {model_type!r}: this family is not understood, so its size is not guessed: give the "
        f"numbers with "
        "`scepsy model add --name … --parameters … --weight-bytes … --kv-bytes-per-token … --context …`, or measure it with "
        "`scepsy profile run`"
    )


def model_type_of(c: Config) -> str:
    """The model_type, or the one that the class name implies where a file has only a placeholder."""
    for name in c.architectures:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    found = c.text("model_type")
    if not found:
        raise c.wrong("model_type", "the family's name, e.g. llama or qwen3_moe")
    return found


def kind_of(c: Config, model_type: str) -> Kind:
    """What the model does, by its class name: sequence classifiers rerank, bare encoders embed, the rest generates."""
    names = " ".join(c.architectures)
    if "ForSequenceClassification" in names:
        return "rerank"
    if model_type in ENCODERS:
        return "embed"
    if c.architectures and all(name.endswith("Model") for name in c.architectures):
        return "embed"
    return "generate"


def layout_of(c: Config, kind: Kind | None = None) -> tuple[ModelLayout, Kind]:
    """The layout of a config, and what it does. ``kind`` overrides what the class name says. Raises ``InputError``."""
    model_type = model_type_of(c)
    does = kind or kind_of(c, model_type)
    if model_type in ENCODERS:
        if does == "generate":
            raise InputError(f"{c.where}: model_type is {model_type!r}: an encoder: it embeds or reranks, it does not generate")
        return ENCODERS[model_type](c, model_type, does), does
    text = c.inner("text_config") if model_type in WRAPPERS else None
    if text is None:
        name = ALIASES.get(model_type, model_type)
        if name not in TEXT:
            raise refusal(model_type, c.where)
        layout = replace(TEXT[name](c, name, None), family=model_type)
        return _vision(c, model_type, layout), does
    inner_type = text.text("model_type") or model_type
    name = ALIASES.get(inner_type, inner_type)
    if name not in TEXT:
        raise refusal(f"{model_type} ({inner_type})", c.where)
    layout = replace(TEXT[name](text, name, c), family=model_type)
    return _vision(c, model_type, layout), does


def _vision(c: Config, model_type: str, layout: ModelLayout) -> ModelLayout:
    """Add the vision encoder where the file describes one."""
    if model_type not in WRAPPERS:
        return layout
    described = c.inner("vision_config")
    if model_type == "mistral3" and described is not None:
        merge = c.whole("spatial_merge_size", 2)
        count = vision.pixtral(described, layout.hidden_size, merge, c.flag("multimodal_projector_bias", False))
        return vision.with_vision(layout, count, counted=True)
    if described is None and model_type == "step3p7":
        described = Config({}, f"{c.where}: vision_config")
    if described is None and model_type in ("gemma3", "gemma4") and "text_config" not in c.fields:
        return layout
    if described is None:
        return vision.without_vision(layout, "the file has no vision_config")
    if model_type not in VISION:
        return vision.without_vision(layout, "its size is not read for this family")
    weights, counted = VISION[model_type]
    return vision.with_vision(layout, weights(described, layout.hidden_size), counted=counted)
