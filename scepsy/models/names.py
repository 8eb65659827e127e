"""Finding a model by what people call it: a short name, its name on Hugging Face, a folder, or a model of the user's
own catalogue."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from scepsy.errors import InputError
from scepsy.llm import Llm
from scepsy.models.read import read_model

SUFFIXES = re.compile(r"-(?:instruct|it|chat|hf|base|thinking|2507|2512|v0\.[0-9]|preview|latest)$")
PREFIXES = re.compile(r"^(?:meta-)")
HOSTED = re.compile(
    r"(?:^|[/:_-])(?:gpt-(?!oss|j|neo|2\b)|o[134](?:-|$)|chatgpt|claude|gemini|grok|command-[ar]|text-embedding-|davinci|nova-|sonar|opus|sonnet|haiku)",
    re.IGNORECASE,
)
"""Names of models that only their owners serve (no weights to plan for)."""


def user_folder() -> Path:
    """The user's own catalogue: ``$SCEPSY_MODELS``, else ``$XDG_CONFIG_HOME/scepsy/models``, else
    ``~/.config/scepsy/models``."""
    if found := os.environ.get("SCEPSY_MODELS"):
        return Path(found)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "scepsy" / "models"


def file_of(name: str) -> str:
    """The file name of a model in the user's catalogue: slashes as two dashes, as Hugging Face's cache has them."""
    return name.replace("/", "--") + ".json"


def user_models() -> dict[str, Llm]:
    """Every model of the user's catalogue by name. Raises ``InputError`` naming a file that is not one."""
    folder, found = user_folder(), {}
    if folder.is_dir():
        for path in sorted(folder.glob("*.json")):
            try:
                llm = msgspec.json.decode(path.read_bytes(), type=Llm)
            except (msgspec.MsgspecError, OSError, ValueError) as error:
                raise InputError(f"{path}: {error}: must be a model as `scepsy model add` writes it, or removed") from error
            found[llm.name] = llm
    return found


def plain_name(name: str) -> str:
    """A name without owner, ``Meta-`` and what tells tunings of one size apart.

    >>> plain_name("meta-llama/Meta-Llama-3.1-8B-Instruct"), plain_name("google/gemma-3-27b-it")
    ('llama-3.1-8b', 'gemma-3-27b')
    """
    name = PREFIXES.sub("", name.rpartition("/")[2].lower())
    while (shorter := SUFFIXES.sub("", name)) != name:
        name = shorter
    return name


def find(name: str, built_in: Mapping[str, Llm]) -> Llm | None:
    """The model called ``name``; None when nothing is. A user's own model comes before a built-in one of the same name."""
    own = user_models()
    for table in (own, built_in):
        if name in table:
            return table[name]
    low = name.lower()
    for table in (own, built_in):
        for llm in table.values():
            if low in (llm.name.lower(), hf_name(llm).lower()):
                return llm
    if is_path(name):
        return read_model(Path(name).resolve().name if Path(name).is_dir() else Path(name).resolve().parent.name, Path(name))
    alike = [llm for llm in built_in.values() if plain_name(hf_name(llm) or llm.name) == plain_name(name)]
    alike = [llm for llm in alike if llm.weight_bytes == alike[0].weight_bytes]
    return alike[0] if alike else None


def hf_name(llm: Llm) -> str:
    """A model's name on Hugging Face, or nothing."""
    return llm.hf_name or (llm.source if re.fullmatch(r"[\w.-]+/[\w.-]+", llm.source) else "")


def is_path(name: str) -> bool:
    """Whether a name is a model folder or a config file on this machine."""
    path = Path(name)
    try:
        return (path.is_dir() and (path / "config.json").exists()) or (path.suffix == ".json" and path.is_file())
    except OSError:
        return False


def nearest(name: str, built_in: Mapping[str, Llm], count: int = 3) -> list[str]:
    """The known names that are most like ``name``."""
    names = {llm.name.lower(): llm.name for llm in [*built_in.values(), *user_models().values()]}
    names |= {hf_name(llm).lower(): hf_name(llm) for llm in built_in.values() if hf_name(llm)}
    plain = plain_name(name)
    found = sorted((known for known in names if plain and plain in known), key=len)
    found += difflib.get_close_matches(name.lower(), names, n=count * 2, cutoff=0.5)
    found += difflib.get_close_matches(plain, names, n=count, cutoff=0.5)
    return list(dict.fromkeys(names[item] for item in found))[:count]


def unknown(names: Sequence[str], built_in: Mapping[str, Llm]) -> InputError:
    """The error that models are not known: all of them at once, each with the nearest known names."""
    parts = []
    for name in names:
        close = nearest(name, built_in)
        parts.append(f"{name!r}" + (f" (nearest: {', '.join(close)})" if close else ""))
    return InputError(
        f"model {', '.join(parts)} not known: must be a name of `scepsy model list`, a folder with config.json, or added with "
        "`scepsy model add`"
    )


def is_hosted(name: str) -> bool:
    """Whether a name is that of a model which only its owner serves.

    >>> is_hosted("openai/gpt-4.1-mini"), is_hosted("claude-sonnet-4-5"), is_hosted("gpt-oss-120b"), is_hosted("Qwen/Qwen3-8B")
    (True, True, False, False)
    """
    return HOSTED.search(name) is not None


def all_of(names: Iterable[str], built_in: Mapping[str, Llm]) -> dict[str, Llm]:
    """Several models by name. Raises ``InputError`` naming every unknown one."""
    found = {name: find(name, built_in) for name in names}
    missing = [name for name, llm in found.items() if llm is None]
    if missing:
        raise unknown(missing, built_in)
    return {name: llm for name, llm in found.items() if llm is not None}
