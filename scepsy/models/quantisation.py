"""Bytes per weight: how a checkpoint says what it stores in fewer bits, and what stays as it was.

Each scheme is a number of bytes per weight, scales included:

- fp8: 1 byte; per block one 4-byte scale for each block (DeepSeek: 128 × 128); per tensor or channel the scales do not count;
- int4 (AWQ, GPTQ, compressed-tensors): half a byte, and per group of weights one 2-byte scale and, where zero points
are kept, half a byte;
- MXFP4: half a byte and one byte per 32 weights (OCP Microscaling Formats 1.0);
- NVFP4: half a byte and one byte per 16 weights (NVIDIA's NVFP4; the one 4-byte scale per tensor does not count);
- int8 (W8A8): 1 byte.
"""

import fnmatch
import functools
import re
from collections.abc import Mapping
from typing import Any

from scepsy.errors import InputError
from scepsy.models.config import Config
from scepsy.models.parts import Part
from scepsy.value import Value

DTYPES = {"bfloat16": 2.0, "float16": 2.0, "float32": 4.0, "float8_e4m3fn": 1.0}

PREFIX = re.compile(r"^(?:(?:model|language_model|backbone|transformer|text_model)\.)+")


class Quantisation(Value, frozen=True, kw_only=True):
    """What a checkpoint stores in fewer bits."""

    name: str
    """For people: "fp8 in blocks of 128x128"."""
    default_bytes: float | None
    """Bytes per weight of every linear layer that is not listed; None: only listed ones are quantised."""
    ignored: tuple[str, ...] = ()
    """Patterns of layers that stay as they are."""
    listed: tuple[tuple[str, float], ...] = ()
    """(pattern, bytes per weight): layers with a precision of their own."""
    routed_bytes: float | None = None
    """Bytes per weight of routed experts, where they differ."""
    head: bool = False
    """Whether the output matrix is quantised too."""
    kv_dtype: str = ""
    """The KV cache's dtype that the checkpoint asks for; empty: the model's."""
    notes: tuple[str, ...] = ()


def nvfp4(group: int = 16) -> float:
    """Bytes per weight of NVFP4."""
    return 0.5 + 1.0 / group


def int_bytes(bits: int, group: int, *, zero_points: bool) -> float:
    """Bytes per weight of grouped integers with 2-byte scales; ``group`` <= 0: one scale per channel, which does not count."""
    if group <= 0:
        return bits / 8
    return bits / 8 + 2.0 / group + (bits / 8 / group if zero_points else 0.0)


def bare(name: str) -> str:
    """A pattern or name without the prefixes that wrappers add, so that all files name the same layer alike."""
    return PREFIX.sub("", name)


@functools.lru_cache(maxsize=20_000)
def _pattern(text: str) -> "re.Pattern[str] | None":
    """A compiled pattern for regular expressions and wildcards; None for plain names."""
    if text.startswith("re:"):
        try:
            return re.compile(text[3:])
        except re.error:
            raise InputError(f"quantization_config: ignore has {text!r}: must be a regular expression after re:") from None
    if "*" in text or "?" in text:
        return re.compile(fnmatch.translate(bare(text)) + r"|" + fnmatch.translate(bare(text) + ".*"))
    return None


class Matcher:
    """Whether a layer's name is among patterns: whole names, names of what holds it, a component, wildcards, ``re:``
    expressions."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        plain = [bare(text) for text in patterns if _pattern(text) is None]
        self.names = frozenset(name for name in plain if "." in name)
        self.words = frozenset(name for name in plain if "." not in name)
        self.patterns = [found for text in patterns if (found := _pattern(text)) is not None]

    def __call__(self, name: str) -> bool:
        """Whether ``name`` (without prefix) matches."""
        pieces = name.split(".")
        if self.words and not self.words.isdisjoint(pieces):
            return True
        if self.names and any(".".join(pieces[:end]) in self.names for end in range(1, len(pieces) + 1)):
            return True
        full = (name, f"model.{name}", f"model.language_model.{name}", f"language_model.model.{name}")
        return any(pattern.match(text) for pattern in self.patterns for text in full)


def dtype_of(c: Config, text: Config) -> tuple[str, float]:
    """(name, bytes) of the dtype that unquantised weights have. Raises ``InputError`` for an unknown one."""
    for config in (text, c):
        for field in ("dtype", "torch_dtype"):
            if config.has(field):
                name = config.text(field).removeprefix("torch.")
                if name == "auto":
                    continue
                if name not in DTYPES:
                    raise config.wrong(field, f"one of {', '.join(DTYPES)}")
                # Engines convert float32 checkpoints to 16 bits when they load them (vLLM's --dtype auto).
                return ("bfloat16", 2.0) if name == "float32" else (name, DTYPES[name])
    return "bfloat16", 2.0


def quantisation_of(c: Config, text: Config, modelopt: Mapping[str, Any] | None, where: str) -> Quantisation | None:
    """What the config's ``quantization_config`` (or the folder's ``hf_quant_config.json``) says; None: nothing is quantised."""
    found = c.inner("quantization_config") or text.inner("quantization_config") or c.inner("compression_config")
    if found is None:
        if modelopt is None:
            return None
        inner = Config(modelopt, where).inner("quantization")
        if inner is None:
            raise InputError(f"{where}: quantization is missing: must be the object that ModelOpt writes")
        return _modelopt(inner)
    method = found.text("quant_method") or ("modelopt" if found.has("quant_algo") else "")
    if found.has("quant_algo"):
        method = "modelopt"
    if method not in METHODS:
        shown = method or "missing"
        raise InputError(
            f"{found.where}: quant_method is {shown!r}: must be one of {', '.join(METHODS)}: give the weights' bytes with "
            "`scepsy model add --weight-bytes …` instead"
        )
    return METHODS[method](found, text)


def _names(c: Config, *fields: str) -> tuple[str, ...]:
    for field in fields:
        found = c.items(field)
        if found is not None:
            if not all(isinstance(item, str) for item in found):
                raise c.wrong(field, "a list of names")
            return tuple(found)
    return ()


def _fp8(c: Config, text: Config) -> Quantisation:
    block = c.wholes("weight_block_size")
    if block is not None and (len(block) != 2 or min(block) < 1):
        raise c.wrong("weight_block_size", "two whole numbers >= 1")
    size = 1.0 + (4.0 / (block[0] * block[1]) if block else 0.0)
    name = f"fp8 in blocks of {block[0]}x{block[1]}" if block else "fp8"
    routed = None
    if text.text("expert_dtype") == "fp4":
        routed = 0.5 + 1.0 / 32
        name += ", routed experts in 4 bits with a scale per 32 (expert_dtype fp4)"
    return Quantisation(
        name=name, default_bytes=size, ignored=_names(c, "modules_to_not_convert", "ignored_layers"), routed_bytes=routed
    )


def _int4(c: Config, text: Config) -> Quantisation:
    method, bits = c.text("quant_method"), c.first("bits", "w_bit", default=4)
    if bits not in (2, 3, 4, 8):
        raise c.wrong("bits", "2, 3, 4 or 8")
    field = "group_size" if c.has("group_size") else "q_group_size"
    group = -1 if c.fields.get(field) == -1 else c.whole(field, 128)
    size = int_bytes(bits, group, zero_points=True)
    return Quantisation(
        name=f"int{bits} ({method}), groups of {group}",
        default_bytes=size,
        ignored=_names(c, "modules_to_not_convert", "modules_in_block_to_quantize_excluded"),
        head=c.flag("lm_head", False),
    )


def _mxfp4(c: Config, text: Config) -> Quantisation:
    return Quantisation(
        name="MXFP4 (routed experts)",
        default_bytes=None,
        routed_bytes=0.5 + 1.0 / 32,
        ignored=_names(c, "modules_to_not_convert"),
    )


def _bitsandbytes(c: Config, text: Config) -> Quantisation:
    skipped = _names(c, "llm_int8_skip_modules")
    if c.flag("load_in_4bit", False):
        double = c.flag("bnb_4bit_use_double_quant", False)
        return Quantisation(name="4 bits (bitsandbytes)", default_bytes=0.5 + (1 / 64 if double else 4 / 64), ignored=skipped)
    return Quantisation(name="int8 (bitsandbytes)", default_bytes=1.0, ignored=skipped)


ALGORITHMS: dict[str, tuple[str, float]] = {
    "FP8": ("fp8 per tensor", 1.0),
    "FP8_PER_CHANNEL_PER_TOKEN": ("fp8 per channel", 1.0),
    "FP8_PB_WO": ("fp8 in blocks of 128x128", 1.0 + 4.0 / 128**2),
    "FP8_PB": ("fp8 in blocks of 128x128", 1.0 + 4.0 / 128**2),
    "NVFP4": ("NVFP4", nvfp4()),
    "W4A16_NVFP4": ("NVFP4 weights", nvfp4()),
    "NVFP4_AWQ": ("NVFP4", nvfp4()),
    "W4A8_NVFP4_FP8": ("NVFP4 weights", nvfp4()),
    "MXFP4": ("MXFP4", 0.5 + 1.0 / 32),
    "W4A8_MXFP4_FP8": ("MXFP4 weights", 0.5 + 1.0 / 32),
    "MXFP8": ("MXFP8", 1.0 + 1.0 / 32),
    "W4A16_AWQ": ("int4 (AWQ), groups of 128", int_bytes(4, 128, zero_points=False)),
    "W4A8_AWQ": ("int4 (AWQ), groups of 128", int_bytes(4, 128, zero_points=False)),
    "W8A8_SQ_PER_CHANNEL": ("int8", 1.0),
}
"""ModelOpt's names."""


def _algorithm(c: Config, field: str, name: str) -> tuple[str, float]:
    if name not in ALGORITHMS:
        raise InputError(f"{c.where}: {field} is {name!r}: must be one of {', '.join(ALGORITHMS)} or MIXED_PRECISION")
    return ALGORITHMS[name]


def _kv(c: Config) -> str:
    """The KV cache's dtype that a ModelOpt or compressed-tensors file asks for."""
    value = c.fields.get("kv_cache_scheme")
    if value is None:
        value = c.fields.get("kv_cache_quant_algo")
    if value is None:
        return ""
    if isinstance(value, dict) and value.get("num_bits") == 8:
        return "fp8"
    if isinstance(value, str) and value.upper() in ("FP8", "NVFP4", "NONE"):
        return {"FP8": "fp8", "NVFP4": "nvfp4", "NONE": ""}[value.upper()]
    raise c.wrong("kv_cache_scheme" if c.has("kv_cache_scheme") else "kv_cache_quant_algo", "FP8, NVFP4 or 8 bits")


def _modelopt(c: Config, text: Config | None = None) -> Quantisation:
    algorithm = c.text("quant_algo")
    ignored = _names(c, "ignore", "exclude_modules")
    kv = _kv(c)
    listed = _listed(c)
    if algorithm == "MIXED_PRECISION":
        if not listed:
            raise c.wrong("quantized_layers", "an object with the precision of each layer, since quant_algo is MIXED_PRECISION")
        names = sorted({_algorithm(c, "quant_algo", item)[0] for item in _listed_names(c)})
        # DeepSeek V4's NVFP4 files keep the rest in the checkpoint's own blocks of FP8.
        block = c.wholes("weight_block_size")
        rest = 1.0 + 4.0 / (block[0] * block[1]) if block and len(block) == 2 and min(block) > 0 else None
        if rest is not None:
            ignored = ()
            names.append("the rest fp8 in blocks")
        return Quantisation(
            name=" and ".join(names), default_bytes=rest, ignored=ignored, listed=listed, head=True, kv_dtype=kv
        )
    name, size = _algorithm(c, "quant_algo", algorithm)
    notes = (
        ()
        if ignored
        else ("the file does not list what stays unquantised: all linear layers but the output matrix are assumed",)
    )
    return Quantisation(name=name, default_bytes=size, ignored=ignored, listed=listed, kv_dtype=kv, notes=notes)


def _layers(c: Config) -> Mapping[str, Any]:
    found = c.inner("quantized_layers")
    return {} if found is None else found.fields


def _listed_names(c: Config) -> list[str]:
    return [str(item.get("quant_algo")) if isinstance(item, dict) else "missing" for item in _layers(c).values()]


def _listed(c: Config) -> tuple[tuple[str, float], ...]:
    """The layers with a precision of their own."""
    names = _listed_names(c)
    return tuple(
        (layer, _algorithm(c, f"quantized_layers[{layer}]", name)[1]) for layer, name in zip(_layers(c), names, strict=True)
    )


def _compressed(c: Config, text: Config) -> Quantisation:
    groups = c.inner("config_groups")
    if groups is None or not groups.fields:
        raise c.wrong("config_groups", "an object with at least one group")
    ignored, listed, names = _names(c, "ignore"), [], []
    default = None
    for name in groups.fields:
        group = groups.inner(name)
        weights = group.inner("weights") if group is not None else None
        if group is None or weights is None:
            raise groups.wrong(name, "a group with weights")
        label, size = _group_bytes(weights, group.text("format") or c.text("format"))
        names.append(label)
        targets = _names(group, "targets")
        if "Linear" in targets or not targets:
            default = size
        else:
            listed += [(target, size) for target in targets]
    return Quantisation(
        name=" and ".join(dict.fromkeys(names)) + " (compressed-tensors)",
        default_bytes=default,
        ignored=ignored,
        listed=tuple(listed),
        head=default is not None,
        kv_dtype=_kv(c),
    )


def _group_bytes(weights: Config, form: str) -> tuple[str, float]:
    """(label, bytes per weight) of one group of a compressed-tensors file."""
    bits, kind = weights.whole("num_bits"), weights.text("type", "int")
    if bits not in (2, 3, 4, 6, 8) or kind not in ("int", "float"):
        raise weights.wrong("num_bits", "2, 3, 4, 6 or 8 bits of type int or float")
    group = weights.whole("group_size", 0, minimum=-1)
    if kind == "float" and bits == 4:
        return ("MXFP4", 0.5 + 1.0 / 32) if "mxfp4" in form or group == 32 else ("NVFP4", nvfp4(group if group > 0 else 16))
    if kind == "float":
        block = weights.wholes("block_structure") if isinstance(weights.fields.get("block_structure"), list) else None
        return f"fp{bits}", bits / 8 + (4.0 / (block[0] * block[1]) if block and len(block) == 2 and min(block) > 0 else 0.0)
    return f"int{bits}", int_bytes(bits, group, zero_points=not weights.flag("symmetric", True))


METHODS = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "awq": _int4,
    "awq_marlin": _int4,
    "gptq": _int4,
    "gptq_marlin": _int4,
    "auto-round": _int4,
    "intel/auto-round": _int4,
    "compressed-tensors": _compressed,
    "mxfp4": _mxfp4,
    "bitsandbytes": _bitsandbytes,
}
"""Readers by ``quant_method``."""


class Weigher:
    """Bytes of parts under a quantisation."""

    def __init__(self, found: Quantisation | None, plain_bytes: float) -> None:
        self.found, self.plain = found, plain_bytes
        self._ignored = Matcher(found.ignored) if found else None
        sizes = sorted({size for _, size in found.listed}) if found else []
        self._listed = [(Matcher(tuple(p for p, s in found.listed if s == size)), size) for size in sizes] if found else []

    def bytes_per_weight(self, part: Part) -> float:
        """Bytes of one weight of ``part``."""
        found = self.found
        if found is None or not part.linear or self._ignored is None:
            return self.plain
        for matches, size in self._listed:
            if matches(part.name):
                return size
        if self._ignored(part.name) or (part.name == "lm_head" and not found.head):
            return self.plain
        if part.role == "routed" and found.routed_bytes is not None:
            return found.routed_bytes
        if found.default_bytes is None or (part.name == "lm_head" and found.listed):
            return self.plain
        return found.default_bytes

    def bytes_of(self, part: Part) -> float:
        """Bytes of all copies; biases stay unquantised."""
        per = self.bytes_per_weight(part)
        return part.copies * (part.rows * part.cols * per + part.bias * self.plain)
