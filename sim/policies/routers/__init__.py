"""Which instance takes a call. To add a router: a module here, and a line in ``ROUTERS``."""

from collections.abc import Callable

from sim.policies.routers.ayo import AyoRouter
from sim.policies.routers.base import Router
from sim.policies.routers.builtin import (
    Affinity,
    HashAffinity,
    LeastKvLoad,
    LeastOutstanding,
    PowerOfTwo,
    RoundRobin,
    WeightedByShare,
)
from sim.policies.routers.plas import PlasRouter

ROUTERS: dict[str, Callable[[str, int], Router]] = {
    "round-robin": RoundRobin,
    "least-outstanding": LeastOutstanding,
    "least-kv-load": LeastKvLoad,
    "weighted-by-share": WeightedByShare,
    "power-of-two": PowerOfTwo,
    "affinity": Affinity,
    "hash-affinity": HashAffinity,
    "plas": PlasRouter,
    "ayo": AyoRouter,
}
"""Routers by the name that ``--router`` takes; each is made for (LLM, seed)."""
