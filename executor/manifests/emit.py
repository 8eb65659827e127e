"""Manifests as text that ``kubectl apply -f -`` takes. Pure."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import yaml

from executor.manifests.pods import Manifest

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9/_.-]*")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"}
"""Words that some reader of YAML 1.1 or 1.2 takes for a boolean, for nothing, or for a number."""


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """The C emitter where PyYAML has it; no anchors, which a reader of manifests does not expect."""

    def ignore_aliases(self, data: object) -> bool:
        """Write equal parts out each time."""
        return True


class _StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads numbers as every reader together does: YAML 1.1's, YAML 1.2's, and Go's, which ``kubectl`` uses."""


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?$|0[xXoObB][0-9a-fA-F_]+$"),
    list("-+.0123456789"),
)


def _represent_text(dumper: Any, text: str) -> Any:
    """Quote whatever does not plainly begin as a word: a digest like 0884370e45 is a number to some readers."""
    style = None
    if "\n" in text:
        style = '"' if any(line != line.rstrip() for line in text.split("\n")) else "|"
    elif not _PLAIN.fullmatch(text) or text.lower() in _WORDS:
        style = "'" if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def to_json(objects: Iterable[Manifest], namespace: str) -> str:
    """One ``v1/List``."""
    items = [in_namespace(each, namespace) for each in objects]
    document = msgspec.json.encode({"apiVersion": "v1", "kind": "List", "items": items})
    return msgspec.json.format(document, indent=1).decode() + "\n"


def to_yaml(objects: Iterable[Manifest], namespace: str) -> str:
    """A stream of documents. It is read back before it is given out, so that no reader can take a text for a number."""
    return yaml_text([in_namespace(each, namespace) for each in objects])


def yaml_text(documents: Sequence[Any]) -> str:
    """Documents as one stream, read back. Raises ``AssertionError`` when they would be read as something else."""
    text = str(
        yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=10_000, default_flow_style=False)
    )
    if read_strictly(text) != list(documents):
        raise AssertionError("rendered YAML is not read back as what was rendered: please report this")
    return text


def read_strictly(text: str) -> list[Any]:
    """Documents of a stream, every number-like text that is not quoted taken for a number."""
    try:
        return list(yaml.load_all(text, Loader=_StrictLoader))
    except ValueError:  # a number that only some readers know
        return []


def in_namespace(manifest: Manifest, namespace: str) -> Manifest:
    """The same object with its namespace; everything we render is namespaced."""
    metadata = manifest["metadata"]
    return {**manifest, "metadata": {"name": metadata["name"], "namespace": namespace, **metadata}}
