"""A compiled core for static plans: the semantics of the SimPy engine, function by function, on numbers in arrays.

Its results equal the SimPy engine's to the femtosecond (``tests/sim/compiled``); that engine stays the reference, and runs
whatever changes while it runs: policies, timelines, routers and queue orders from elsewhere.
"""

from importlib import import_module
from importlib.util import find_spec


def unusable() -> str | None:
    """Why there is no compiled core here: numba is missing, or does not load (a wrong numpy, say); none: there is one."""
    try:
        import_module("sim.compiled.memory")
    except (ImportError, OSError) as error:  # llvmlite says OSError where its shared library is broken
        if find_spec("numba") is None:
            return "numba is not installed (pip install numba)"
        return f"numba does not load: {str(error).strip().partition(chr(10))[0]}"
    return None
