"""Waiting calls of one instance, and the orders in which they are served.

A queue order is a callable ``Request -> sort key`` (smaller first), evaluated when the call arrives; ties are served in
order of arrival. One that has a method ``promotes_at`` moves calls that waited long to the first level. Preempted calls go
before all others, the last preempted first, whatever the order.
"""

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Protocol

from sim.engine.request import Request

Entry = tuple[tuple[float, ...], int, Request]

FIRST_LEVEL = (0.0,)


class CallQueue(Protocol):
    """What an instance asks of its queue."""

    @property
    def promotes_at(self) -> Callable[[Request], int | None] | None:
        """When a call is to be promoted, if it still waits then; none: this order promotes no call."""

    @property
    def input_tokens(self) -> int:
        """Prompt tokens of all waiting calls."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Request]: ...

    def push(self, request: Request) -> bool:
        """Add a call; return whether the head of the queue is the same as before."""

    def promote(self, request: Request) -> bool:
        """Promote a call that still waits; return whether the head of the queue is the same as before."""

    def push_front(self, request: Request) -> None:
        """Add a preempted call."""

    def peek(self) -> Request:
        """The next call to admit."""

    def take(self) -> Request:
        """Remove and return it."""


class Queue(deque[Request]):
    """First come, first served."""

    __slots__ = ()

    promotes_at = None
    push_front = deque.appendleft
    take = deque.popleft

    @property
    def input_tokens(self) -> int:
        """Prompt tokens of all waiting calls."""
        return sum(request.input_tokens for request in self)

    def push(self, request: Request) -> bool:
        """Add a call; return whether the head of the queue is the same as before."""
        self.append(request)
        return len(self) > 1

    def promote(self, request: Request) -> bool:
        """Nobody is promoted."""
        return True

    def peek(self) -> Request:
        """The next call to admit."""
        return self[0]


class OrderedQueue:
    """By a key fixed on arrival; calls that an order promotes (``Plas.promotes_at``) move up once while they wait."""

    def __init__(self, key: Callable[[Request], tuple[float, ...]]) -> None:
        self._front: deque[Request] = deque()
        self._key = key
        self._heap: list[Entry] = []
        self._entries: dict[Request, Entry] = {}
        """The valid entry of each call in the heap, those behind ``_front`` left out."""
        self._count = 0
        self.promotes_at: Callable[[Request], int | None] | None = getattr(key, "promotes_at", None)

    @property
    def input_tokens(self) -> int:
        """Prompt tokens of all waiting calls."""
        return sum(request.input_tokens for request in self)

    def __iter__(self) -> Iterator[Request]:
        yield from self._front
        for _, _, request in sorted(self._entries.values(), key=lambda entry: entry[:2]):
            yield request

    def __len__(self) -> int:
        return len(self._front) + len(self._entries)

    def push(self, request: Request) -> bool:
        """Add a call; return whether the head of the queue is the same as before."""
        self._count += 1
        entry = (self._key(request), self._count, request)
        heappush(self._heap, entry)
        self._entries[request] = entry
        return bool(self._front) or self._heap[0] is not entry

    def promote(self, request: Request) -> bool:
        """Move a call to the first level, by its arrival there; return whether the head of the queue is the same as before.

        Does nothing to a call that is not waiting any more, or was preempted and so goes first anyway.
        """
        entry = self._entries.get(request)
        if entry is None or entry[0] <= FIRST_LEVEL:
            return True
        promoted = (FIRST_LEVEL, entry[1], request)
        heappush(self._heap, promoted)
        self._entries[request] = promoted
        return bool(self._front) or self._heap[0] is not promoted

    def push_front(self, request: Request) -> None:
        """Add a preempted call."""
        self._front.appendleft(request)

    def peek(self) -> Request:
        """The next call to admit."""
        return self._front[0] if self._front else self._heap[0][2]

    def take(self) -> Request:
        """Remove and return it."""
        if self._front:
            return self._front.popleft()
        heap, entries = self._heap, self._entries
        request = heappop(heap)[2]
        del entries[request]
        while heap and entries.get(heap[0][2]) is not heap[0]:
            heappop(heap)  # where a promoted call waited before
        return request
