"""The one rule for what is kept between runs: a key of the inputs, the settings, and the sources the result depends on."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from scepsy.files.sources import sources_hash

log = logging.getLogger("scepsy")

_unusable: set[Path] = set()


def cache_dir() -> Path:
    """Where curves and rows are kept: ``$XDG_CACHE_HOME/scepsy`` or ``~/.cache/scepsy``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scepsy"


def usable_cache(folder: Path) -> Path | None:
    """The folder, made where it is missing; None, and a word about it once, when it cannot be written: a cache is optional."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
    except OSError as error:
        if folder not in _unusable:
            _unusable.add(folder)
            log.warning(
                "scepsy: note: %s: the cache cannot be written (%s): what is profiled is not kept (set XDG_CACHE_HOME)",
                folder,
                error.strerror or error,
            )
        return folder if folder.is_dir() else None
    return folder


def settings_of(module: ModuleType) -> dict[str, str]:
    """Every constant of a module as it stands now, by name, as text: a constant changed at run time gives another key."""
    return {name: repr(value) for name, value in sorted(vars(module).items()) if name.lstrip("_").isupper()}


def cache_key(inputs: Iterable[Any], modules: Iterable[ModuleType]) -> str:
    """Thirty-two hex digits that name a result: what went in, the constants of ``modules``, and all sources they depend on.

    ``inputs`` are values that msgspec encodes. They are encoded one by one, so that a long trace can be given run by run.
    """
    made_by = tuple(modules)
    digest = hashlib.sha256(sources_hash(*(module.__name__ for module in made_by)).encode())
    for module in made_by:
        digest.update(msgspec.json.encode(settings_of(module)))
    for value in inputs:
        encoded = msgspec.json.encode(value)
        digest.update(f"{len(encoded)}\0".encode())
        digest.update(encoded)
    return digest.hexdigest()[:32]
