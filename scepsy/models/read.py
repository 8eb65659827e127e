"""A config (and the files beside it) as an ``Llm``: the layout by the family's reader, bytes by the quantisation."""

import json
from collections import defaultdict
from collections.abc import Mapping
from math import fsum
from pathlib import Path
from typing import Any

import msgspec

from scepsy.errors import InputError
from scepsy.llm import Experts, KvLayers, Llm
from scepsy.models.config import Config, is_number, read_json
from scepsy.models.parts import ModelLayout
from scepsy.models.quantisation import Quantisation, Weigher, dtype_of, quantisation_of
from scepsy.models.registry import Kind, layout_of

KV_BYTES: dict[str, float] = {
    "bfloat16": 2.0,
    "float16": 2.0,
    "fp8": 1.0,
    "fp8_e4m3": 1.0,
    "fp8_e5m2": 1.0,
    "nvfp4": 0.5 + 1.0 / 16,
}
"""Bytes of one number in the cache, by vLLM's name of the KV dtype."""

SIZE_DIFFERENCE_SAID = 0.03
"""Sizes from two sources may differ by this part before it is said."""

MOST_PARAMETERS = 1e15


def llm_of_config(
    name: str,
    fields: Mapping[str, Any],
    where: str,
    *,
    kind: Kind | None = None,
    modelopt: Mapping[str, Any] | None = None,
    kv_dtype: str = "auto",
    source: str = "",
) -> Llm:
    """The Llm that a ``config.json`` describes, served as ``name``.

    ``kind`` overrides what the class name says. ``modelopt``: the folder's ``hf_quant_config.json``. ``kv_dtype`` ``auto``:
    what the checkpoint asks for, as vLLM does. Raises ``InputError`` naming the field, or the family that is not
    understood.
    """
    c = Config(fields, where)
    layout, does = layout_of(c, kind)
    text = c.inner("text_config") or c
    dtype, plain = dtype_of(c, text)
    found = quantisation_of(c, text, modelopt, where)
    weigher = Weigher(found, plain)
    weight_bytes = fsum(weigher.bytes_of(part) for part in layout.parts)
    routed = fsum(weigher.bytes_of(part) for part in layout.of("routed"))
    head = next((part for part in layout.parts if part.name == "lm_head"), None)
    parameters = layout.parameters_of("text", "shared", "routed") + (
        layout.parameters_of("vision") if layout.counts_vision else 0
    )
    if does != "generate" and head is not None:
        parameters, weight_bytes = parameters - head.parameters, weight_bytes - weigher.bytes_of(head)
    if does == "rerank" and not layout.encoder:
        score = layout.hidden_size * text.whole("num_labels", 1)
        parameters, weight_bytes = parameters + score, weight_bytes + score * plain
    if not 0 < parameters < MOST_PARAMETERS:
        raise InputError(f"{where}: the sizes give {float(parameters):g} parameters: must be between 1 and {MOST_PARAMETERS:g}")
    kv_name, kv_groups = _caches(layout, does, kv_dtype, found, dtype)
    return Llm(
        name=name,
        parameters=float(parameters),
        weight_bytes=round(weight_bytes),
        kv_bytes_per_token=-(-fsum(group.bytes_per_token for group in kv_groups) // 1).__int__(),
        context_limit=_context(text, layout.context_tokens),
        kind=does,
        kv_heads=layout.kv_heads,
        attention_heads=layout.attention_heads,
        layers=layout.layers,
        hidden_size=layout.hidden_size,
        head_size=0 if layout.head_size * layout.attention_heads == layout.hidden_size else layout.head_size,
        source=source or f"config.json of {Path(where).parent.name or where}",
        family=layout.family,
        active_parameters=float(_active(layout, does)) if layout.routed_experts else 0.0,
        precision=found.name if found else dtype,
        kv_dtype=kv_name,
        kv_layers=kv_groups if _uneven(layout) else (),
        state_bytes_per_sequence=layout.state_bytes_per_sequence if does == "generate" else 0,
        experts=_experts(layout, routed),
        notes=layout.notes + (found.notes if found else ()),
    )


def _active(layout: ModelLayout, does: Kind) -> float:
    """Weights that one token goes through: all but the routed experts that it does not choose, and the vision encoder."""
    chosen = layout.experts_per_token / layout.routed_experts
    return layout.parameters_of("text", "shared") + layout.parameters_of("routed") * chosen


def _experts(layout: ModelLayout, routed_bytes: float) -> Experts | None:
    if not layout.routed_experts or not layout.expert_layers:
        return None
    return Experts(
        routed=layout.routed_experts,
        per_token=layout.experts_per_token,
        shared=layout.shared_experts,
        layers=layout.expert_layers,
        parameters=float(layout.parameters_of("routed")),
        weight_bytes=round(routed_bytes),
    )


def _uneven(layout: ModelLayout) -> bool:
    """Whether layers differ in what they keep, so that the kinds must be told apart."""
    return any(cache.kind != "full" for cache in layout.caches) or len(layout.caches) != layout.layers


def _caches(
    layout: ModelLayout, does: Kind, asked: str, found: Quantisation | None, dtype: str
) -> tuple[str, tuple[KvLayers, ...]]:
    """(KV dtype, caches by kind of layer)."""
    name = asked if asked != "auto" else (found.kv_dtype if found and found.kv_dtype else dtype)
    if name not in KV_BYTES:
        name = "bfloat16" if name in ("float8_e4m3fn",) and asked == "auto" else name
    if name not in KV_BYTES:
        raise InputError(f"--kv-cache-dtype is {name!r}: must be auto or one of {', '.join(KV_BYTES)}")
    if does != "generate":
        return name, ()
    groups: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for cache in layout.caches:
        size = KV_BYTES[name] if cache.element_bytes is None else cache.element_bytes
        groups[cache.kind, cache.window_tokens, cache.read_tokens].append(cache.numbers * size)
    return name, tuple(
        KvLayers(kind=kind, layers=len(sizes), bytes_per_token=fsum(sizes), window_tokens=window, read_tokens=read)
        for (kind, window, read), sizes in groups.items()
    )


def _context(text: Config, positions: int) -> int:
    """The longest context: ``max_position_embeddings``, or what YaRN stretches the original length to, whichever is longer."""
    rope = text.inner("rope_scaling") or text.inner("rope_parameters")
    if rope is None or rope.fields.get("rope_type", rope.fields.get("type")) != "yarn":
        return positions
    factor, original = rope.fields.get("factor"), rope.fields.get("original_max_position_embeddings")
    if original is None or factor is None:
        return positions
    if not is_number(factor) or not 1 <= factor <= 10_000:
        raise rope.wrong("factor", "a number from 1 to 10000")
    return max(positions, int(rope.whole("original_max_position_embeddings") * factor))


def read_model(name: str, path: Path, *, kind: Kind | None = None, kv_dtype: str = "auto") -> Llm:
    """The model in a folder (or the folder of a ``config.json``), served as ``name``.

    Weight bytes come from ``model.safetensors.index.json`` where it lies beside the config, else from our own reading of
    the config; where both are there and differ by more than 3 %, the model's notes say so. Raises ``InputError``.
    """
    file = path / "config.json" if path.is_dir() else path
    fields = read_json(file)
    beside = file.parent / "hf_quant_config.json"
    modelopt = read_json(beside) if beside.exists() else None
    llm = llm_of_config(
        name, fields, str(file), kind=kind, modelopt=modelopt, kv_dtype=kv_dtype, source=f"config.json of {label_of(path)}"
    )
    stored = stored_bytes(file.parent)
    if stored is None:
        return llm
    size, what = stored
    notes = llm.notes
    if abs(size - llm.weight_bytes) > SIZE_DIFFERENCE_SAID * size:
        notes = (
            *notes,
            f"{what} says {size / 1e9:.2f} GB of weights, our reading of config.json {llm.weight_bytes / 1e9:.2f} GB "
            f"({100 * (llm.weight_bytes / size - 1):+.1f} %): the file may hold parts that are not served",
        )
    scaled = llm.experts
    if scaled is not None and size != llm.weight_bytes:
        ratio = size / llm.weight_bytes
        scaled = msgspec.structs.replace(scaled, weight_bytes=max(1, round(scaled.weight_bytes * min(ratio, 1.0))))
    return msgspec.structs.replace(
        llm, weight_bytes=size, experts=scaled, notes=notes, source=f"{what} and config.json of {label_of(path)}"
    )


def label_of(path: Path) -> str:
    """What a model's path is called in sources: the folder's name."""
    folder = path if path.is_dir() else path.parent
    return folder.resolve().name or str(path)


def stored_bytes(folder: Path) -> tuple[int, str] | None:
    """(bytes, what says so) of the weights that lie in a folder; None where the folder does not hold them."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        metadata = Config(read_json(index), str(index)).inner("metadata")
        size = metadata.fields.get("total_size") if metadata is not None else None
        if isinstance(size, float) and is_number(size) and size.is_integer():
            size = int(size)
        if isinstance(size, bool) or not isinstance(size, int) or not 0 < size < 10**15:
            raise InputError(f"{index}: metadata.total_size is {size!r}: must be a number of bytes from 1 to 10^15")
        return size, index.name
    single = folder / "model.safetensors"
    if single.exists():
        return _header_bytes(single), single.name
    return None


def _header_bytes(path: Path) -> int:
    """Bytes of all tensors in a safetensors file, from its header (8 bytes of length, then JSON). Raises ``InputError``."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= 100 * 2**20:
                raise InputError(f"{path}: header of {length} bytes: must be a safetensors file")
            header = json.loads(file.read(length))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: must be readable") from error
    except ValueError as error:
        raise InputError(f"{path}: header is not JSON ({error}): must be a safetensors file") from error
    try:
        return max(int(item["data_offsets"][1]) for key, item in header.items() if key != "__metadata__")
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{path}: header has no data_offsets ({error!r}): must be a safetensors file") from error
