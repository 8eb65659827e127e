"""How a plan is realised on this host."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from scepsy.errors import InputError
from scepsy.files.document import read_yaml
from scepsy.value import Value, require, require_finite

ENGINE_PYTHON = "SCEPSY_ENGINE_PYTHON"
"""Environment variable: the Python that has vLLM."""


class LocalOptions(Value, frozen=True, kw_only=True):
    """Everything about this host that is not in the plan."""

    python: str = ""
    """The Python that has vLLM; empty: ``$SCEPSY_ENGINE_PYTHON``, else ``.venv-engine`` here, else this one."""
    models: dict[str, str] = msgspec.field(default_factory=dict)
    """What to load for an LLM (a folder or a hub name); an LLM that is not here is loaded by the plan's hub id."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: gpu where the NVIDIA driver is, else cpu, with cores in the place of GPUs."""
    base_port: int = 0
    """Engines listen on this port and the following; 0: any free ports."""
    gateway_port: int = 0
    start_timeout_s: float = 600.0
    """An engine that is not healthy by then is given up."""
    stop_timeout_s: float = 30.0
    """What engines get to finish and exit before they are killed."""
    restarts: int = 5
    """An engine that dies or hangs is started again at most so often in ten minutes."""
    eject_s: float = 10.0
    """An engine whose /health has not been 200 for so long gets no new calls until it is."""
    hung_s: float = 60.0
    """After so long it is ended and started again."""
    stall_s: float = 300.0
    """So is one that has calls in hand and computed nothing for so long (vLLM's own limit for one step is 300 s)."""
    enforce_shares: bool = True
    """Refuse a plan with shares below 100 % where nothing enforces them. False: run it unenforced, and say so."""
    record: str = ""
    """Record calls to this file."""
    extra_args: tuple[str, ...] = ()
    """Added to every engine's command line."""

    def __post_init__(self) -> None:
        for field in ("base_port", "gateway_port"):
            require(0 <= getattr(self, field) <= 65535, field, getattr(self, field), "0 to 65535")
        require(self.restarts >= 0, "restarts", self.restarts, ">= 0")
        for field in ("start_timeout_s", "eject_s", "hung_s", "stall_s"):
            require_finite(field, getattr(self, field), exclusive=True)
        require_finite("stop_timeout_s", self.stop_timeout_s)


def engine_python(options: LocalOptions, environ: Mapping[str, str] = os.environ) -> str:
    """The Python that engines are started with. Raises ``InputError`` when the one that was named is not there."""
    named = options.python or environ.get(ENGINE_PYTHON, "")
    if named:
        if shutil.which(named) is None:
            raise InputError(f"python is {named!r}: no such program (set {ENGINE_PYTHON}, or run `make engine`)")
        return named
    own = Path(".venv-engine/bin/python")
    return str(own.absolute()) if own.exists() else sys.executable


def device_of(options: LocalOptions) -> Literal["cpu", "gpu"]:
    """What ``device: auto`` means here."""
    if options.device != "auto":
        return options.device
    return "gpu" if Path("/dev/nvidiactl").exists() else "cpu"


FORMAT, VERSION = "scepsy.local", 1


def load_options(path: Path) -> LocalOptions:
    """Read an options file (``format: scepsy.local``); its model folders and its record file are relative to itself.

    Raises ``InputError`` naming file, line, field and remedy.
    """
    options = read_yaml(path, LocalOptions, FORMAT, VERSION)
    folder = path.parent
    models = {llm: str((folder / m).absolute()) if (folder / m).is_dir() else m for llm, m in options.models.items()}
    record = str((folder / options.record).absolute()) if options.record else ""
    return msgspec.structs.replace(options, models=models, record=record)


def options_beside(plan_path: Path) -> LocalOptions:
    """``local.yaml`` beside a plan; the defaults where there is none."""
    path = plan_path.parent / "local.yaml"
    return load_options(path) if path.exists() else LocalOptions()
