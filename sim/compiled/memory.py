"""What the compiled core is made of: functions that numba compiles, and 64-bit words reached by their address.

All state lies in a few numpy arrays. A function gets one address and reads ``get(m, record + FIELD)``. Of the layouts that were
tried this is the fastest: a view of the array takes 15 to 20 % longer, passing the array 20 to 45 % (a binary heap, 2,000,000
operations). Nothing checks bounds, so whoever adds a record also states how much room an event may need (``room.py``).
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile a function when it is first called from compiled code or Python; it may run without the interpreter's lock."""
    return cast(F, numba.njit(error_model="numpy", nogil=True)(function))


def cached(function: F) -> F:
    """The same, kept on disk. The names that it encloses are part of the cache's key."""
    return cast(F, numba.njit(error_model="numpy", nogil=True, cache=True)(function))


def _place(builder: Any, args: Any, kind: Any) -> Any:
    return builder.gep(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])


def _loader(kind: Any, result: Any) -> Any:
    def load(typing: Any, memory: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(_place(builder, args, kind))

        return result(types.int64, types.int64), generate

    return intrinsic(load)


def _storer(kind: Any, value: Any) -> Any:
    def store(typing: Any, memory: Any, at: Any, what: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.store(args[2], _place(builder, args, kind))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, value), generate

    return intrinsic(store)


get: Callable[[int, int], int] = _loader(ir.IntType(64), types.int64)
"""The whole number at an address and an index."""
put: Callable[[int, int, int], None] = _storer(ir.IntType(64), types.int64)
getf: Callable[[int, int], float] = _loader(ir.DoubleType(), types.float64)
putf: Callable[[int, int, float], None] = _storer(ir.DoubleType(), types.float64)
