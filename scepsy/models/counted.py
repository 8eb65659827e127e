"""Exact parameter counts from ``transformers`` on the meta device: no weights are needed (extra ``models``, never used
on its own)."""

import importlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from scepsy.errors import InputError
from scepsy.models.config import read_json

LEFT_OUT = ("quantization_config", "auto_map", "compression_config")
"""Fields that would make transformers look for kernels or for code of the repository's own."""


def count_parameters(config_file: Path) -> int:
    """Parameters of the class that transformers makes of a config. Raises ``InputError`` where it does not know the
    architecture."""
    fields = {key: value for key, value in read_json(config_file).items() if key not in LEFT_OUT}
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        torch, transformers = (importlib.import_module(name) for name in ("torch", "transformers"))
    except ImportError:
        raise InputError("exact counts need transformers and torch: pip install 'scepsy[models]'") from None
    try:
        with tempfile.TemporaryDirectory() as folder, torch.device("meta"):
            Path(folder, "config.json").write_text(json.dumps(fields), encoding="utf-8")
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            return sum(weight.numel() for weight in _model(transformers, config).parameters())
    except Exception as error:  # the library's own errors are of no common type
        first = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise InputError(f"{config_file}: transformers {transformers.__version__} cannot build it: {first}") from error


def _model(transformers: Any, config: Any) -> Any:
    """The class for text generation where there is one, else the one for images and text, else the bare model."""
    for kind in ("AutoModelForCausalLM", "AutoModelForImageTextToText"):
        try:
            return getattr(transformers, kind).from_config(config)
        except ValueError:
            continue
    return transformers.AutoModel.from_config(config)
