"""A compiled core for static plans: the semantics of the SimPy engine, function by function, on numbers in arrays.

Its results equal the SimPy engine's to the femtosecond (``tests/sim/compiled``); that engine stays the reference, and runs
whatever changes while it runs: policies, timelines, routers and queue orders from elsewhere.
"""

from importlib.util import find_spec


def installed() -> bool:
    """Whether numba is there, without which there is no compiled core."""
    return find_spec("numba") is not None
