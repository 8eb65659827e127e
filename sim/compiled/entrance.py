"""How calls come into an instance, and what cuts a span of decode iterations short: as in ``sim.engine.replica``."""

from math import sqrt

import numpy as np

from sim.compiled.contention import slowdown_after, switch_gpus
from sim.compiled.events import alarm
from sim.compiled.layout import (
    BETA,
    C_ENTRY,
    C_INPUT,
    C_INSTANCE,
    C_OUTPUT,
    C_RUN,
    C_SERIAL,
    ENDS,
    ERROR_CALL,
    ERROR_PLACE,
    FIRST_LEVEL_TOKENS,
    G_TENANTS,
    G_TENANTS_AT,
    I_ALARM,
    I_BLOCK_TOKENS,
    I_BLOCKS,
    I_CONTEXT_LIMIT,
    I_DECODING,
    I_DRAWS,
    I_FIRST,
    I_GROWTH,
    I_LONGEST,
    I_MAX_QUEUED,
    I_MAX_SEQS,
    I_NUMBER,
    I_OUTSTANDING_AT,
    I_PLACES,
    I_PLACES_AT,
    I_SHARED,
    I_SLOW,
    I_SPAN,
    I_STARTED,
    I_WAITING,
    I_WAKING,
    KIND_BITS,
    NOW,
    ORDER,
    PLAS,
    PRIORITY_ARRIVAL,
    PRIORITY_END,
    PRIORITY_SCHEDULE,
    PROMOTES,
    R_SERVED_HIGH,
    R_SERVED_LOW,
    R_SERVED_TOKENS,
    R_TEMPLATE,
    R_WAITED_HIGH,
    R_WAITED_LOW,
    SHORTEST_REMAINING,
    SUM_BITS,
    T_TOKENS,
    TEMPLATES,
    WAKES,
)
from sim.compiled.memory import get, getf, jit, put
from sim.compiled.queues import NOT_ORDERED, promote, push_call

TAKEN, REJECTED, FAILED = range(3)


@jit
def set_end(m: int, i: int, delay: int) -> None:
    """The current iteration or span ends after ``delay`` ticks."""
    priority = PRIORITY_END + get(m, i + I_NUMBER)
    put(m, i + I_ALARM, alarm(m, 0, delay, priority, ENDS | (i << KIND_BITS), 0))


@jit
def wake(m: int, i: int) -> None:
    """Schedule once everything else of this instant has happened."""
    if get(m, i + I_WAKING):
        return
    put(m, i + I_WAKING, 1)
    alarm(m, 0, 0, PRIORITY_SCHEDULE + get(m, i + I_NUMBER), WAKES | (i << KIND_BITS), 0)


@jit
def cut(m: int, i: int, margin: int) -> None:
    """End the span at the first border at least ``margin`` ticks after now."""
    elapsed = get(m, NOW) - get(m, i + I_STARTED)
    first, growth, span = get(m, i + I_FIRST), get(m, i + I_GROWTH), get(m, i + I_SPAN)
    linear = first - growth / 2
    steps = min(int(2.0 * elapsed / (linear + sqrt(linear * linear + 2.0 * growth * elapsed))) + 1, span)
    late = elapsed + margin
    while steps > 1 and (steps - 1) * first + growth * (((steps - 1) * (steps - 2)) >> 1) >= late:
        steps -= 1
    end = steps * first + growth * ((steps * (steps - 1)) >> 1)
    while end < late:
        steps += 1
        end = steps * first + growth * ((steps * (steps - 1)) >> 1)
    if steps < span:
        put(m, i + I_SPAN, steps)
        set_end(m, i, get(m, i + I_STARTED) + end - get(m, NOW))


@jit
def head_changed(m: int, i: int) -> None:
    """Another call is the next to admit: it may fit where the former did not."""
    if get(m, i + I_SPAN) > 1 and get(m, i + I_DECODING) < get(m, i + I_MAX_SEQS):
        cut(m, i, 0)


@jit
def switch(m: int, i: int) -> None:
    """Begin or stop decoding: neighbours' iterations that start later may have another speed."""
    put(m, i + I_DRAWS, 1 - get(m, i + I_DRAWS))
    switch_gpus(m, i)
    if get(m, i + I_SHARED) == 0:
        return
    places = get(m, i + I_PLACES_AT)
    for place in range(get(m, i + I_PLACES)):
        gpu = get(m, places + 2 * place)
        for tenant in range(get(m, gpu + G_TENANTS)):
            other = get(m, get(m, gpu + G_TENANTS_AT) + tenant)
            if other != i and get(m, other + I_SPAN) > 1 and slowdown_after(m, other) != getf(m, other + I_SLOW):
                cut(m, other, 1)


@jit
def _fits(m: int, i: int, call: int) -> bool:
    inputs, outputs = get(m, call + C_INPUT), get(m, call + C_OUTPUT)
    if inputs + outputs <= get(m, i + I_LONGEST):
        return True
    held = inputs + max(outputs - 1, 0)
    return held <= get(m, i + I_BLOCKS) * get(m, i + I_BLOCK_TOKENS) and inputs + outputs <= get(m, i + I_CONTEXT_LIMIT)


@jit
def _sort_key(m: int, run: int) -> int:
    """What an ordered queue goes by: tokens left, or the level of PLAS."""
    served = get(m, run + R_SERVED_TOKENS)
    if get(m, ORDER) == SHORTEST_REMAINING:
        return get(get(m, TEMPLATES), get(m, run + R_TEMPLATE) + T_TOKENS) - served
    level, rest = 0, served // get(m, FIRST_LEVEL_TOKENS)
    while rest:
        level += 1
        rest >>= 1
    return level


@jit
def _promote_later(m: int, i: int, call: int, run: int) -> None:
    """PLAS: promote the call when its run has waited β times as long as it was served."""
    low = get(m, run + R_SERVED_LOW)
    served = get(m, run + R_SERVED_HIGH) * float(1 << SUM_BITS) + float((low >> 32) << 32) + float(low & 0xFFFFFFFF)
    allowed = np.rint(getf(m, BETA) * served)
    high = int(allowed / float(1 << SUM_BITS))
    rest = int(allowed - high * float(1 << SUM_BITS)) - get(m, run + R_WAITED_LOW)
    high += (rest >> SUM_BITS) - get(m, run + R_WAITED_HIGH)
    rest &= (1 << SUM_BITS) - 1
    if high < 0:
        high = rest = 0
    epochs, delay = high >> 1, ((high & 1) << SUM_BITS) | rest
    alarm(m, epochs, delay, PRIORITY_ARRIVAL, PROMOTES | (call << KIND_BITS), get(m, call + C_SERIAL))


@jit
def submit(m: int, i: int, call: int) -> int:
    """Take a call in, or reject it when the queue is full, or fail since it can never fit."""
    if not _fits(m, i, call):
        put(m, ERROR_PLACE, i)
        put(m, ERROR_CALL, call)
        return FAILED
    put(m, call + C_INSTANCE, i)
    put(m, call + C_ENTRY, NOT_ORDERED)
    idle = get(m, i + I_ALARM) < 0
    limit, waiting = get(m, i + I_MAX_QUEUED), get(m, i + I_WAITING)
    if limit >= 0 and waiting >= limit and not (idle and limit == 0 and waiting == 0):
        return REJECTED
    counter = get(m, i + I_OUTSTANDING_AT)
    put(m, counter, get(m, counter) + 1)
    order = get(m, ORDER)
    run = get(m, call + C_RUN)
    blocked = push_call(m, i, call, _sort_key(m, run) if order else 0)
    if order == PLAS and get(m, run + R_SERVED_TOKENS) >= get(m, FIRST_LEVEL_TOKENS):
        _promote_later(m, i, call, run)
    if idle:
        wake(m, i)
    elif not blocked:
        head_changed(m, i)
    return TAKEN


@jit
def on_promote(m: int, call: int, serial: int) -> None:
    """A call has waited long enough, if it still waits."""
    if get(m, call + C_SERIAL) == serial and not promote(m, get(m, call + C_INSTANCE), call):
        head_changed(m, get(m, call + C_INSTANCE))
