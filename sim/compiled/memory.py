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

_njit: Any = numba.njit  # its annotations lack some of the options, and those of its types most
_types: Any = types

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile a function when compiled code first calls it: once, not again for every constant that somebody passes.

    It gets no entrance from Python, and needs none of numba's memory management: it knows only numbers.
    """
    made = _njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)
    resolve = made.get_call_template

    def without_literals(args: Any, names: Any) -> Any:
        return resolve(tuple(_types.unliteral(each) for each in args), names)

    made.get_call_template = without_literals
    return cast(F, made)


def cached(function: F) -> F:
    """Compile the entrance from Python, without the interpreter's lock; kept on disk. What it encloses is part of the key."""
    return cast(F, _njit(error_model="numpy", nogil=True, cache=True)(function))


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
