"""Waiting calls of one instance, as in ``sim.engine.queue``: preempted ones first, then by arrival or by a key."""

from sim.compiled.arena import give, take
from sim.compiled.layout import (
    C_ENTRY,
    C_INPUT,
    C_NEXT,
    FCFS,
    FREE,
    I_FRONT,
    I_FRONT_LAST,
    I_ORDERED,
    I_PUSHED,
    I_WAITING,
    I_WAITING_TOKENS,
    N_CALL,
    N_CLASS,
    N_COUNT,
    N_KEY,
    N_LEFT,
    N_RIGHT,
    ORDER,
)
from sim.compiled.memory import get, jit, put

NOT_ORDERED = -1
"""``C_ENTRY`` of a call that does not wait in the ordered part."""


@jit
def _before(m: int, a: int, b: int) -> bool:
    first, second = get(m, a + N_KEY), get(m, b + N_KEY)
    return first < second or (first == second and get(m, a + N_COUNT) < get(m, b + N_COUNT))


@jit
def _merge(m: int, a: int, b: int) -> int:
    """One skew heap of two (Sleator and Tarjan 1986): the smaller root's right part is merged and changes sides."""
    if a == 0:
        return b
    if b == 0:
        return a
    if _before(m, b, a):
        a, b = b, a
    root = a
    while True:
        right = get(m, a + N_RIGHT)
        put(m, a + N_RIGHT, get(m, a + N_LEFT))
        if right == 0:
            put(m, a + N_LEFT, b)
            return root
        if _before(m, b, right):
            put(m, a + N_LEFT, b)
            a, b = b, right
        else:
            put(m, a + N_LEFT, right)
            a = right


@jit
def _insert(m: int, i: int, call: int, key: int, count: int) -> bool:
    """Enter a call; return whether the head of the queue is the same as before."""
    entry = take(m, FREE, N_CLASS)
    put(m, entry + N_KEY, key)
    put(m, entry + N_COUNT, count)
    put(m, entry + N_CALL, call)
    put(m, entry + N_LEFT, 0)
    put(m, entry + N_RIGHT, 0)
    put(m, call + C_ENTRY, entry)
    root = _merge(m, get(m, i + I_ORDERED), entry)
    put(m, i + I_ORDERED, root)
    return get(m, i + I_FRONT) != 0 or root != entry


@jit
def push_call(m: int, i: int, call: int, key: int) -> bool:
    """Add a call; return whether the head of the queue is the same as before."""
    waiting = get(m, i + I_WAITING) + 1
    put(m, i + I_WAITING, waiting)
    put(m, i + I_WAITING_TOKENS, get(m, i + I_WAITING_TOKENS) + get(m, call + C_INPUT))
    if get(m, ORDER) != FCFS:
        count = get(m, i + I_PUSHED) + 1
        put(m, i + I_PUSHED, count)
        return _insert(m, i, call, key, count)
    put(m, call + C_NEXT, 0)
    if waiting == 1:
        put(m, i + I_FRONT, call)
    else:
        put(m, get(m, i + I_FRONT_LAST) + C_NEXT, call)
    put(m, i + I_FRONT_LAST, call)
    return waiting > 1


@jit
def push_front(m: int, i: int, call: int) -> None:
    """Add a preempted call."""
    put(m, i + I_WAITING, get(m, i + I_WAITING) + 1)
    put(m, i + I_WAITING_TOKENS, get(m, i + I_WAITING_TOKENS) + get(m, call + C_INPUT))
    first = get(m, i + I_FRONT)
    put(m, call + C_NEXT, first)
    put(m, i + I_FRONT, call)
    if first == 0:
        put(m, i + I_FRONT_LAST, call)


@jit
def peek(m: int, i: int) -> int:
    """The next call to admit, of those that wait."""
    first = get(m, i + I_FRONT)
    return first if first else get(m, get(m, i + I_ORDERED) + N_CALL)


@jit
def take_call(m: int, i: int) -> None:
    """Remove the next call to admit."""
    put(m, i + I_WAITING, get(m, i + I_WAITING) - 1)
    first = get(m, i + I_FRONT)
    if first:
        put(m, i + I_WAITING_TOKENS, get(m, i + I_WAITING_TOKENS) - get(m, first + C_INPUT))
        put(m, i + I_FRONT, get(m, first + C_NEXT))
        return
    entry = get(m, i + I_ORDERED)
    call = get(m, entry + N_CALL)
    put(m, i + I_WAITING_TOKENS, get(m, i + I_WAITING_TOKENS) - get(m, call + C_INPUT))
    put(m, call + C_ENTRY, NOT_ORDERED)
    put(m, i + I_ORDERED, _without_first(m, entry))
    entry = get(m, i + I_ORDERED)
    while entry and get(m, entry + N_CALL) == 0:  # where a promoted call waited before
        entry = _without_first(m, entry)
        put(m, i + I_ORDERED, entry)


@jit
def _without_first(m: int, entry: int) -> int:
    rest = _merge(m, get(m, entry + N_LEFT), get(m, entry + N_RIGHT))
    give(m, FREE, entry, N_CLASS)
    return rest


@jit
def promote(m: int, i: int, call: int) -> bool:
    """Promote a call that still waits to the first level; return whether the head of the queue is the same as before."""
    entry = get(m, call + C_ENTRY)
    if entry == NOT_ORDERED or get(m, entry + N_KEY) <= 0:
        return True
    put(m, entry + N_CALL, 0)
    return _insert(m, i, call, 0, get(m, entry + N_COUNT))
