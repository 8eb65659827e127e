"""What the compiled core is made of: functions that are translated to machine code, and 64-bit words reached by their address.

All state lies in a few numpy arrays. A function gets one address and reads ``get(m, record + FIELD)``. Of the layouts that were
tried this is the fastest: a view of the array takes 15 to 20 % longer, passing the array 20 to 45 % (a binary heap, 2,000,000
operations). Nothing checks bounds, so ``core`` asks for room before each event.

In the interpreter the same functions work too, slowly: that is how the translation is tested.
"""

from collections.abc import Callable
from ctypes import c_double, c_int64
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Mark a function as one that is translated when compiled code calls it."""
    function.translated = True  # type: ignore[attr-defined]
    return function


def get(m: int, at: int) -> int:
    """The whole number at an address and an index."""
    return c_int64.from_address(m + 8 * at).value


def put(m: int, at: int, value: int) -> None:
    """Write a whole number."""
    c_int64.from_address(m + 8 * at).value = value


def fetch(m: int, at: int) -> None:
    """Say that a word will soon be asked for: the processor may bring it near meanwhile. Changes nothing."""


def getf(m: int, at: int) -> float:
    """The float at an address and an index."""
    return c_double.from_address(m + 8 * at).value


def putf(m: int, at: int, value: float) -> None:
    """Write a float."""
    c_double.from_address(m + 8 * at).value = value
