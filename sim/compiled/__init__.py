"""A compiled core for static plans: the semantics of the SimPy engine, function by function, on numbers in arrays.

Its results equal the SimPy engine's to the femtosecond (``tests/sim/compiled``); that engine stays the reference, and runs
whatever changes while it runs: policies, timelines, routers and queue orders from elsewhere.
"""

from importlib import import_module
from importlib.util import find_spec


def unusable() -> str | None:
    """Why there is no compiled core here: llvmlite is missing, or does not load; none: there is one."""
    try:
        import_module("llvmlite.binding")
    except (ImportError, OSError) as error:  # it says OSError where its shared library is broken
        if find_spec("llvmlite") is None:
            return "llvmlite is not installed (pip install llvmlite)"
        return f"llvmlite does not load: {str(error).strip().partition(chr(10))[0]}"
    return None
