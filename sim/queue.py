"""Waiting calls of one instance, and the orders in which they are served.

A queue order is a callable ``Request -> sort key`` (smaller first), evaluated when the call arrives; ties are served in
order of arrival. Preempted calls go before all others, the last preempted first, whatever the order.
"""

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Protocol

from sim.request import Request


class CallQueue(Protocol):
    """What an instance asks of its queue."""

    @property
    def input_tokens(self) -> int:
        """Prompt tokens of all waiting calls."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Request]: ...

    def push(self, request: Request) -> bool:
        """Add a call; return whether the head of the queue is the same as before."""

    def push_front(self, request: Request) -> None:
        """Add a preempted call."""

    def peek(self) -> Request:
        """The next call to admit."""

    def take(self) -> Request:
        """Remove and return it."""


class Queue(deque[Request]):
    """First come, first served."""

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

    def peek(self) -> Request:
        """The next call to admit."""
        return self[0]


class OrderedQueue:
    """By a key fixed on arrival."""

    def __init__(self, key: Callable[[Request], tuple[float, ...]]) -> None:
        self._front: deque[Request] = deque()
        self._key = key
        self._heap: list[tuple[tuple[float, ...], int, Request]] = []
        self._count = 0

    @property
    def input_tokens(self) -> int:
        """Prompt tokens of all waiting calls."""
        return sum(request.input_tokens for request in self)

    def __iter__(self) -> Iterator[Request]:
        yield from self._front
        for _, _, request in sorted(self._heap, key=lambda entry: entry[:2]):
            yield request

    def __len__(self) -> int:
        return len(self._front) + len(self._heap)

    def push(self, request: Request) -> bool:
        """Add a call; return whether the head of the queue is the same as before."""
        self._count += 1
        entry = (self._key(request), self._count, request)
        heappush(self._heap, entry)
        return bool(self._front) or self._heap[0] is not entry

    def push_front(self, request: Request) -> None:
        """Add a preempted call."""
        self._front.appendleft(request)

    def peek(self) -> Request:
        """The next call to admit."""
        return self._front[0] if self._front else self._heap[0][2]

    def take(self) -> Request:
        """Remove and return it."""
        return self._front.popleft() if self._front else heappop(self._heap)[2]


def shortest_remaining_work(request: Request) -> tuple[float, ...]:
    """Calls of the run with the fewest tokens left first. It knows the run in advance: a bound, not a policy to deploy."""
    return (float(request.caller.remaining_tokens),)


def least_attained_service(request: Request) -> tuple[float, ...]:
    """Autellix's PLAS: calls of the run with the least service so far first, in levels that double from 1,024 tokens."""
    return (float((request.caller.served_tokens >> 10).bit_length()),)


QUEUE_ORDERS: dict[str, Callable[[Request], tuple[float, ...]]] = {
    "shortest-remaining": shortest_remaining_work,
    "plas": least_attained_service,
}
