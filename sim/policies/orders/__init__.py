"""Orders in which waiting calls are served. To add one: a module here, and a line in ``QUEUE_ORDERS``.

A queue order is a callable ``Request -> sort key``. The smallest key is served first. "fcfs" (first come, first served)
needs no key: it is the engine's own queue.
"""

from collections.abc import Callable

from sim.engine.request import Request
from sim.policies.orders.hexagent import Hexagent
from sim.policies.orders.plas import Plas
from sim.policies.orders.shortest_remaining import shortest_remaining_work
from sim.policies.orders.topology import topology

QUEUE_ORDERS: dict[str, Callable[[Request], tuple[float, ...]]] = {
    "shortest-remaining": shortest_remaining_work,
    "plas": Plas(),
    "topology": topology,
    "hexagent": Hexagent(),
}
"""Queue orders by the name that ``--queue-order`` takes."""
