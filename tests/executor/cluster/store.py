"""The state behind the API-server double: objects with identities and versions, and who watches them."""

import asyncio
import copy
import datetime
import itertools
import uuid
from collections.abc import Callable, Iterator
from typing import Any

Object = dict[str, Any]
Key = tuple[str, str, str]
"""(plural, namespace, name)"""


class Store:
    """Objects by key; every write gets the next version and reaches every watcher."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.by_plural: dict[str, dict[Key, Object]] = {}
        self.watchers: list[tuple[str, asyncio.Queue[tuple[str, Object]]]] = []
        self.log: list[tuple[int, str, str, Object]] = []
        """(version, plural, type, object) of every change, for watches that begin in the past."""
        self.oldest = 0
        """Watches from before this version are answered 410."""
        self._versions = itertools.count(1)
        self.version = 0

    def items(self, plural: str) -> Iterator[tuple[Key, Object]]:
        yield from list(self.by_plural.get(plural, {}).items())

    def get(self, plural: str, namespace: str, name: str) -> Object | None:
        return self.objects.get((plural, namespace, name))

    def put(self, plural: str, namespace: str, obj: Object) -> Object:
        """Create or replace. Same content: nothing happens, as on a real server."""
        key = (plural, namespace, obj["metadata"]["name"])
        old = self.objects.get(key)
        if old is not None and _content(old) == _content(obj):
            return old
        metadata = obj["metadata"]
        metadata["uid"] = old["metadata"]["uid"] if old else str(uuid.uuid4())
        now = datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="microseconds")
        metadata["creationTimestamp"] = old["metadata"]["creationTimestamp"] if old else now
        self.version = next(self._versions)
        metadata["resourceVersion"] = str(self.version)
        if namespace:
            metadata["namespace"] = namespace
        self.objects[key] = obj
        self.by_plural.setdefault(plural, {})[key] = obj
        self._tell(plural, "MODIFIED" if old else "ADDED", obj)
        return obj

    def change(self, key: Key, change: Callable[[Object], None]) -> None:
        """Edit a copy of one object and store it."""
        obj = copy.deepcopy(self.objects[key])
        change(obj)
        self.put(key[0], key[1], obj)

    def remove(self, key: Key) -> None:
        obj = self.objects.pop(key, None)
        self.by_plural.get(key[0], {}).pop(key, None)
        if obj is not None:
            self.version = next(self._versions)
            gone = copy.deepcopy(obj)
            gone["metadata"]["resourceVersion"] = str(self.version)
            self._tell(key[0], "DELETED", gone)

    def mark_deleted(self, key: Key) -> None:
        """Begin a deletion that something else must finish."""
        obj = self.objects[key]
        if "deletionTimestamp" not in obj["metadata"]:
            self.change(key, lambda o: o["metadata"].update(deletionTimestamp="now"))

    def _tell(self, plural: str, what: str, obj: Object) -> None:
        self.log.append((self.version, plural, what, obj))
        for watched, queue in self.watchers:
            if watched == plural:
                queue.put_nowait((what, obj))


def matches(obj: Object, selector: str) -> bool:
    """Equality-based label selectors."""
    labels = obj["metadata"].get("labels", {})
    return all(labels.get(k) == v for k, _, v in (part.partition("=") for part in selector.split(",") if part))


def _content(obj: Object) -> Object:
    volatile = {"uid", "creationTimestamp", "resourceVersion", "namespace"}
    return {**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k not in volatile}}
