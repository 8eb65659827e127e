"""Shortest remaining work: an order that knows how much of each run is still to come."""

from sim.engine.request import Request


def shortest_remaining_work(request: Request) -> tuple[float, ...]:
    """Calls of the run with the fewest tokens left first. It knows the run in advance: a bound, not a policy to deploy."""
    return (float(request.caller.remaining_tokens),)
