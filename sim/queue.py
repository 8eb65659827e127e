"""Waiting calls of one instance, and the orders in which they are served.

A queue order is a callable ``Request -> sort key`` (smaller first), evaluated when the call arrives; ties are served in
order of arrival. Preempted calls go before all others, the last preempted first, whatever the order.
"""

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush

from sim.request import Request


class Queue:
    """First come, first served."""

    def __init__(self) -> None:
        self._calls: deque[Request] = deque()

    @property
    def input_tokens(self) -> int:
        """Prompt tokens of all waiting calls."""
        return sum(request.input_tokens for request in self)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    def push(self, request: Request) -> bool:
        """Add a call; return whether the head of the queue is the same as before."""
        self._calls.append(request)
        return len(self._calls) > 1

    def push_front(self, request: Request) -> None:
        """Add a preempted call."""
        self._calls.appendleft(request)

    def peek(self) -> Request:
        """The next call to admit."""
        return self._calls[0]

    def pop(self) -> Request:
        """Remove and return it."""
        return self._calls.popleft()


class OrderedQueue(Queue):
    """By a key fixed on arrival."""

    def __init__(self, key: Callable[[Request], tuple[float, ...]]) -> None:
        super().__init__()
        self._key = key
        self._heap: list[tuple[tuple[float, ...], int, Request]] = []
        self._count = 0

    def __iter__(self) -> Iterator[Request]:
        yield from self._calls
        for _, _, request in sorted(self._heap, key=lambda entry: entry[:2]):
            yield request

    def __len__(self) -> int:
        return len(self._calls) + len(self._heap)

    def push(self, request: Request) -> bool:
        """Add a call; return whether the head of the queue is the same as before."""
        self._count += 1
        entry = (self._key(request), self._count, request)
        heappush(self._heap, entry)
        return bool(self._calls) or self._heap[0] is not entry

    def peek(self) -> Request:
        """The next call to admit."""
        return self._calls[0] if self._calls else self._heap[0][2]

    def pop(self) -> Request:
        """Remove and return it."""
        return self._calls.popleft() if self._calls else heappop(self._heap)[2]


def shortest_remaining_work(request: Request) -> tuple[float, ...]:
    """Calls of the run with the fewest tokens left first (needs to know the run in advance: a bound, not a policy to deploy)."""
    return (float(request.caller.remaining_tokens),)


def least_attained_service(request: Request) -> tuple[float, ...]:
    """Autellix's PLAS: calls of the run with the least service so far first, in levels that double from 1,024 tokens."""
    return (float((request.caller.served_tokens >> 10).bit_length()),)


QUEUE_ORDERS: dict[str, Callable[[Request], tuple[float, ...]]] = {
    "srw": shortest_remaining_work,
    "plas": least_attained_service,
}
