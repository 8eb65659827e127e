"""The translator: what it makes of a function does what the interpreter does, and what it does not know it refuses."""

from __future__ import annotations

import ast
import inspect
from math import sqrt

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.compiled import build, core, machine
from sim.compiled.memory import fetch, get, getf, jit, put, putf
from sim.compiled.translate import NotInTheLanguage, translated
from tests.sim.compiled.both import check
from tests.sim.compiled.test_equality import cases, plas_with_short_levels

pytest.importorskip("llvmlite")

__all__ = ["plas_with_short_levels"]

STEPS = 7
WEIGHT = 0.3


@jit
def _halves(a: int, b: int) -> tuple[int, float, bool]:
    return a // b, a / b, a % b == 0


@jit
def _countdown(m: int, left: int) -> None:
    if left == 0:
        return
    put(m, 1, get(m, 1) + left)
    _countdown(m, left - 1)


@jit
def whole_numbers(m: int, a: int) -> int:
    """Arithmetic, and bits."""
    b = get(m, 0)
    total = a + b - 3 * a
    if b != 0:
        whole, part, even = _halves(a, b)
        put(m, 2, whole)
        put(m, 3, a % b)
        putf(m, 4, part)
        total += even
    total ^= (a << 3) | (b >> 2)
    total += min(a, b, 5) - max(-a, b) + (a & 255)
    put(m, 5, int(not total) + (a < b) - (a >= b))
    return total


@jit
def loops(m: int, a: int) -> int:
    """Loops, and their ends."""
    total = found = 0
    fetch(m, 3)
    for place in range(a):
        if place % 3 == 1:
            continue
        if place > 11:
            break
        total += place
    for place in range(10, a, -2):
        total -= place
    for place in range(a, STEPS):
        found = place
    while True:
        total += 1
        if total % 5 == 0 or (found > 2 and total > 40):
            break
    while total > 100 and not found:
        total -= 7
    _countdown(m, min(max(a, 0), 20))
    return total if found < 3 else found


@jit
def floats(m: int, a: int) -> int:
    """Floats, rounding, and what becomes whole."""
    x = getf(m, 6)
    y = WEIGHT * x + a / 4 - 1
    z = x if x > y else y
    total = lost = 0.0
    for _ in range(3):
        after = total + z
        lost += (total - after) + z if abs(total) >= abs(z) else (z - after) + total
        total = after
    putf(m, 7, total + lost)
    putf(m, 8, sqrt(abs(y)) * np.rint(x))
    putf(m, 9, min(max((x - y) / 3.0, 0.0), 1.0))
    putf(m, 10, float((a >> 4) & 0xFFFF) - x)
    return int(np.rint(min(abs(y), 1e6))) + (x != y) + (1 if y else 0)


whole = st.one_of(st.integers(-20, 20), st.integers(-(2**40), 2**40))
real = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([0.0, -0.0, 0.5, 1.5, 2.5, -0.5]))


@pytest.fixture(scope="module")
def compiled():
    return {each: build.loaded(build.machine_code(translated(each, "it")), "it") for each in (whole_numbers, loops, floats)}


@settings(max_examples=200)
@given(st.sampled_from([whole_numbers, loops, floats]), whole, whole, real)
def test_it_does_what_the_interpreter_does(compiled, function, a, b, x):
    a = a % 64 - 20 if function is loops else a
    states = []
    for one in (function, compiled[function]):
        m = np.zeros(16, dtype=np.int64)
        m[0], m.view(np.float64)[6] = b, x
        states.append((one(m.ctypes.data, a), m.tolist()))
    assert states[0] == states[1]


def test_whole_numbers_wrap_around_at_64_bits(compiled):
    m = np.zeros(16, dtype=np.int64)
    expected = whole_numbers(m.ctypes.data, 2**62)
    assert compiled[whole_numbers](m.ctypes.data, 2**62) == (expected + 2**63) % 2**64 - 2**63


@jit
def _with_a_list(m: int, a: int) -> int:
    return len([a])


@jit
def _changes_its_type(m: int, a: int) -> int:
    b = a
    b = a / 2
    return int(b)


@jit
def _goes_on_after_the_end(m: int, a: int) -> int:
    while True:
        return a
        put(m, 0, a)


@jit
def _calls_with_a_keyword(m: int, a: int) -> int:
    return get(m, at=a)


@jit
def _asks_for_a_power(m: int, a: int) -> int:
    return a**2


@jit
def _knows_a_text(m: int, a: int) -> int:
    return a + __name__


def _is_not_marked(m: int) -> int:
    return m


@jit
def _calls_what_is_not_marked(m: int, a: int) -> int:
    return _is_not_marked(m)


REFUSED = {
    _with_a_list: "not translated: [a]",
    _changes_its_type: "double where i64 is meant: b",
    _goes_on_after_the_end: "never reached: put(m, 0, a)",
    _calls_with_a_keyword: "no keywords: get(m, at=a)",
    _asks_for_a_power: "not translated: a ** 2",
    _knows_a_text: "neither a variable nor a number: __name__",
    _calls_what_is_not_marked: "calls what is not translated: _is_not_marked(m)",
}


@pytest.mark.parametrize("function", REFUSED, ids=lambda each: each.__name__)
def test_what_it_does_not_know_is_refused_with_file_and_line(function):
    with pytest.raises(NotInTheLanguage) as refused:
        translated(function, "it")
    lines, first = inspect.getsourcelines(function)
    place, _, why = str(refused.value).partition(": ")
    assert why == REFUSED[function]
    assert place.rpartition(":")[0] == __file__
    assert first < int(place.rpartition(":")[2]) <= first + len(lines)


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(cases())
def test_the_core_in_the_interpreter_does_what_the_simpy_engine_does(case):
    """So that the core can be debugged: it is Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "advance", lambda: core.advance)
        check(case)


def test_the_core_takes_numbers_from_its_own_modules_only():
    """What the cache's key does not see must not change the core: it hashes this folder."""
    seen, waiting = set(), ["sim.compiled.core"]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        module = __import__(name, fromlist=["x"])
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("sim.compiled."):
                waiting.append(node.module)
            elif isinstance(node, ast.ImportFrom):
                assert node.module in ("math", "collections.abc", "ctypes", "typing"), name
    assert {"sim.compiled.layout", "sim.compiled.instance", "sim.compiled.runs"} <= seen
