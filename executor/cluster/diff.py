"""What an apply would change, asked of the server itself (``dryRun=All``), as unified text."""

import difflib
from collections.abc import Iterator
from typing import Any

import yaml

from executor.cluster.api import Api, Object
from executor.cluster.preflight import check_version
from executor.cluster.snapshot import take
from executor.manifests import Rendered
from executor.manifests.names import SINCE, STATE

_NOISE = ("managedFields", "resourceVersion", "generation", "creationTimestamp", "uid", "ownerReferences", "selfLink")


def diff(api: Api, rendered: Rendered) -> Iterator[str]:
    """Yield one unified diff per object that would be created, changed or deleted; nothing when the cluster is as planned.

    Raises ``BackendError`` when the server refuses an object. Changes nothing.
    """
    check_version(api)
    now = take(api, rendered.options.release)
    keys = set()
    for obj in rendered.objects:
        keys.add((obj["kind"], obj["metadata"]["name"]))
        stored = now.has(obj)
        after = api.apply(obj, dry_run=True)
        yield from _unified(obj["kind"], obj["metadata"]["name"], _plain(stored), _plain(after))
    for (kind, name), stored in now.objects.items():
        if (kind, name) not in keys:
            yield from _unified(kind, name, _plain(stored), None)


def _unified(kind: str, name: str, before: Object | None, after: Object | None) -> Iterator[str]:
    title = f"{kind.lower()}/{name}"
    lines = difflib.unified_diff(
        _lines(before),
        _lines(after),
        f"{title} (on the cluster)" if before else "/dev/null",
        f"{title} (planned)" if after else "/dev/null",
    )
    text = "".join(line if line.endswith("\n") else line + "\n" for line in lines)
    if text:
        yield text


def _lines(obj: Object | None) -> list[str]:
    return [] if obj is None else str(yaml.safe_dump(obj, sort_keys=True, width=120)).splitlines(keepends=True)


def _plain(obj: Object | None) -> Object | None:
    """Without what the server keeps for itself, and without our state mark, which only a finished apply sets."""
    if obj is None:
        return None
    metadata: dict[str, Any] = {key: value for key, value in obj["metadata"].items() if key not in _NOISE}
    metadata["annotations"] = {k: v for k, v in metadata.get("annotations", {}).items() if k not in _MARKS}
    return {**{key: value for key, value in obj.items() if key not in ("status", "metadata")}, "metadata": metadata}


_MARKS = (STATE, SINCE, "deployment.kubernetes.io/revision")
