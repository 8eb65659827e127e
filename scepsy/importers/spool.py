"""Records grouped by a key that is only known once all were read, in bounded memory (SQLite spills to disk by itself)."""

import sqlite3
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)

BATCH = 5000
CACHE_KIB = 32 << 10


class Spool(Generic[T]):
    """Values with a key each, given back group by group: groups in order of their first value, values in order of arrival."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder, self._encoder = msgspec.msgpack.Decoder(kind), msgspec.msgpack.Encoder()
        self._database = sqlite3.connect("")
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KIB}", "temp_store = FILE"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute("CREATE TABLE item (key TEXT, data BLOB)")
        self._count = 0
        self._batch: list[tuple[str, bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()

    def __len__(self) -> int:
        return self._count

    def add(self, key: str, value: T) -> None:
        """Put one value aside."""
        self._count += 1
        self._batch.append((key, self._encoder.encode(value)))
        if len(self._batch) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        self._database.executemany("INSERT INTO item VALUES (?, ?)", self._batch)
        self._batch.clear()

    def groups(self, group_of: Callable[[str], str] = lambda key: key) -> Iterator[list[T]]:
        """The values whose keys belong to one group, group by group."""
        self._flush()
        self._database.create_function("group_of", 1, group_of, deterministic=True)
        rows = self._database.execute(
            "SELECT name, data FROM (SELECT name, data, n, MIN(n) OVER (PARTITION BY name) AS first FROM "
            "(SELECT group_of(key) AS name, data, rowid AS n FROM item)) ORDER BY first, n"
        )
        current: str | None = None
        group: list[T] = []
        for name, data in rows:
            if name != current and group:
                yield group
                group = []
            current = name
            group.append(self._decoder.decode(data))
        if group:
            yield group


class Sets:
    """Which keys belong together (union–find).

    >>> sets = Sets(); sets.join("a", "b"); sets.join("c", "b"); sets.of("a") == sets.of("c"), sets.of("d")
    (True, 'd')
    """

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def of(self, key: str) -> str:
        """A key's set, named by one of its keys."""
        root = key
        while (above := self._above.get(root, root)) != root:
            root = above
        while (above := self._above.get(key, key)) != root:
            self._above[key], key = root, above
        return root

    def join(self, one: str, other: str) -> None:
        """Make two keys' sets one."""
        self._above[self.of(other)] = self.of(one)
