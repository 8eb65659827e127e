"""Manifests as text that ``kubectl apply -f -`` takes. Pure."""

from collections.abc import Iterable

import msgspec
import yaml

from executor.manifests.pods import Manifest


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """The C emitter where PyYAML has it; no anchors, which a reader of manifests does not expect."""

    def ignore_aliases(self, data: object) -> bool:
        """Write equal parts out each time."""
        return True


def to_json(objects: Iterable[Manifest], namespace: str) -> str:
    """One ``v1/List``."""
    items = [in_namespace(each, namespace) for each in objects]
    document = msgspec.json.encode({"apiVersion": "v1", "kind": "List", "items": items})
    return msgspec.json.format(document, indent=1).decode() + "\n"


def to_yaml(objects: Iterable[Manifest], namespace: str) -> str:
    """A stream of documents."""
    documents = [in_namespace(each, namespace) for each in objects]
    return str(
        yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=10_000, default_flow_style=False)
    )


def in_namespace(manifest: Manifest, namespace: str) -> Manifest:
    """The same object with its namespace; everything we render is namespaced."""
    metadata = manifest["metadata"]
    return {**manifest, "metadata": {"name": metadata["name"], "namespace": namespace, **metadata}}
