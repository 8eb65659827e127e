"""An engine instance that schedules one iteration ahead, as in ``sim.engine.ahead``, function by function.

The decoding calls, their context and the count of iterations are those after the iteration under way.
"""

from sim.compiled.admission import fill
from sim.compiled.contention import promised, slowdown, slowdown_after
from sim.compiled.durations import decode_ticks, mixed_ticks, prompt_work
from sim.compiled.entrance import set_end, switch, wake
from sim.compiled.events import busy_now
from sim.compiled.instance import NEVER_FITS_HERE, OK, SPAN_TOO_LONG, STUCK, steps_to_go, too_long
from sim.compiled.layout import (
    C_EMITTED,
    C_FIRST,
    C_HELD,
    C_NEXT,
    C_NUMBER,
    C_OUTPUT,
    ERROR_PLACE,
    I_ALARM,
    I_BEGINS,
    I_BEGINS_SIZE,
    I_CONTEXT,
    I_DECODING,
    I_DRAWS,
    I_ENDS,
    I_ENDS_SIZE,
    I_FINISHING,
    I_FINISHING_COUNT,
    I_FIRST,
    I_GROWTH,
    I_ITERATIONS,
    I_LEAVING,
    I_LEAVING_SIZE,
    I_NEXT,
    I_NEXT_AREA,
    I_NEXT_CONTEXT,
    I_NEXT_DECODING,
    I_NEXT_TOKENS,
    I_PREEMPTED,
    I_PREFILLED,
    I_RAN_DECODING,
    I_SHARED,
    I_SLOW,
    I_SPAN,
    I_STARTED,
    I_WAITING,
    I_WAKING,
    LEAVING_WORDS,
    NOW,
)
from sim.compiled.memory import get, getf, jit, put, putf
from sim.compiled.running import account, begin_decoding, drop_first_end, first_token, leave, stop_decoding


@jit
def on_end_ahead(m: int, i: int) -> int:
    """The current iteration or span ends."""
    put(m, i + I_ALARM, -1)
    now = get(m, NOW)
    steps, decoding = max(get(m, i + I_SPAN), 1), get(m, i + I_RAN_DECODING)
    account(m, i, now, steps, decoding)
    if steps > 1:
        put(m, i + I_ITERATIONS, get(m, i + I_ITERATIONS) + steps - 1)
        put(m, i + I_CONTEXT, get(m, i + I_CONTEXT) + decoding * (steps - 1))
        _comes_next(m, i, 0, 0.0)
    put(m, i + I_SPAN, 0)
    begins = get(m, i + I_BEGINS)
    for place in range(get(m, i + I_BEGINS_SIZE)):
        first_token(m, get(m, begins + place), now)
    put(m, i + I_BEGINS_SIZE, 0)
    leaving, count = get(m, i + I_LEAVING), get(m, i + I_LEAVING_SIZE)
    put(m, i + I_LEAVING_SIZE, 0)
    for place in range(count):
        entry = leaving + LEAVING_WORDS * place
        if not leave(m, i, get(m, entry), max(get(m, entry + 1), 0)):
            return NEVER_FITS_HERE
    if busy_now(m):
        wake(m, i)
        return OK
    return _schedule(m, i)


@jit
def on_wake_ahead(m: int, i: int) -> int:
    """Everything else of this instant has happened."""
    put(m, i + I_WAKING, 0)
    return _schedule(m, i) if get(m, i + I_ALARM) < 0 else OK


@jit
def _schedule(m: int, i: int) -> int:
    if get(m, i + I_NEXT) == 0:
        while not _schedule_next(m, i):
            if get(m, i + I_WAITING) == 0:
                if get(m, i + I_DRAWS):
                    switch(m, i)
                return OK
            if get(m, i + I_PREEMPTED) == 0:
                put(m, ERROR_PLACE, i)
                return STUCK
    return _begin(m, i)


@jit
def _schedule_next(m: int, i: int) -> bool:
    """Schedule the iteration after all those that are; false: no call can run in it."""
    tokens, area, preempted = fill(m, i)
    put(m, i + I_PREEMPTED, preempted)
    put(m, i + I_NEXT, 0)
    if tokens == 0 and get(m, i + I_DECODING) == 0:
        return False
    _comes_next(m, i, tokens, area)
    return True


@jit
def _comes_next(m: int, i: int, tokens: int, area: float) -> None:
    put(m, i + I_NEXT, 1)
    put(m, i + I_NEXT_DECODING, get(m, i + I_DECODING))
    put(m, i + I_NEXT_CONTEXT, get(m, i + I_CONTEXT))
    put(m, i + I_NEXT_TOKENS, tokens)
    putf(m, i + I_NEXT_AREA, area)


@jit
def _begin(m: int, i: int) -> int:
    """Start the next iteration, schedule the one after, and run on as long as the next are of the same kind."""
    decoding, context = get(m, i + I_NEXT_DECODING), get(m, i + I_NEXT_CONTEXT)
    tokens, area = get(m, i + I_NEXT_TOKENS), getf(m, i + I_NEXT_AREA)
    put(m, i + I_RAN_DECODING, decoding)
    slow = slowdown(m, i) if decoding > 0 and get(m, i + I_SHARED) else 1.0
    if (1 if decoding > 0 else 0) != get(m, i + I_DRAWS):
        switch(m, i)
    put(m, i + I_STARTED, get(m, NOW))
    growth = 0
    if tokens > 0:
        put(m, i + I_SPAN, 0)
        first = mixed_ticks(m, i, tokens, area, decoding, context, slow)
        if get(m, i + I_SHARED):
            first = promised(m, i, first, prompt_work(m, i, tokens, area))
        put(m, i + I_PREFILLED, get(m, i + I_PREFILLED) + tokens)
    else:
        fixed, per_token = decode_ticks(m, i, decoding, slow)
        put(m, i + I_SPAN, 1)
        putf(m, i + I_SLOW, slow)
        first, growth = fixed + per_token * context, per_token * decoding
    put(m, i + I_FIRST, first)
    put(m, i + I_GROWTH, growth)
    _advance(m, i, decoding)
    steps, alike = 1, _schedule_next(m, i)
    if alike and tokens + get(m, i + I_NEXT_TOKENS) + get(m, i + I_LEAVING_SIZE) + get(m, i + I_PREEMPTED) == 0:
        steps = _steps(m, i, decoding)
        put(m, i + I_SPAN, steps)
    if too_long(steps, first, growth):
        put(m, ERROR_PLACE, i)
        return SPAN_TOO_LONG
    set_end(m, i, steps * first + growth * ((steps * (steps - 1)) >> 1))
    return OK


@jit
def _steps(m: int, i: int, decoding: int) -> int:
    """Iterations of the span that begins: the one scheduled ahead at its end still has the same calls, and blocks."""
    if get(m, i + I_SHARED) and getf(m, i + I_SLOW) != slowdown_after(m, i):
        return 1
    return steps_to_go(m, i, decoding)


@jit
def _advance(m: int, i: int, decoding: int) -> None:
    """Count on the tokens of the iteration that begins: its calls decode on, or leave when it ends."""
    iterations = get(m, i + I_ITERATIONS) + 1
    put(m, i + I_ITERATIONS, iterations)
    put(m, i + I_CONTEXT, get(m, i + I_CONTEXT) + decoding)
    heap = get(m, i + I_ENDS)
    while get(m, i + I_ENDS_SIZE) > 0 and get(m, heap) == iterations:
        number, call = get(m, heap + 1), get(m, heap + 2)
        drop_first_end(m, i)
        if get(m, call + C_NUMBER) == number:
            _leaves(m, i, call, stop_decoding(m, i, call))
    call = get(m, i + I_FINISHING)
    put(m, i + I_FINISHING, 0)
    put(m, i + I_FINISHING_COUNT, 0)
    while call:
        following = get(m, call + C_NEXT)
        emitted = get(m, call + C_EMITTED) + 1
        put(m, call + C_EMITTED, emitted)
        if get(m, call + C_FIRST) < 0:
            size = get(m, i + I_BEGINS_SIZE)
            put(m, get(m, i + I_BEGINS) + size, call)
            put(m, i + I_BEGINS_SIZE, size + 1)
        left = get(m, call + C_OUTPUT) - emitted
        if left > 0:
            begin_decoding(m, i, call, left)
        else:
            _leaves(m, i, call, get(m, call + C_HELD))
        call = following


@jit
def _leaves(m: int, i: int, call: int, held: int) -> None:
    size = get(m, i + I_LEAVING_SIZE)
    entry = get(m, i + I_LEAVING) + LEAVING_WORDS * size
    put(m, entry, call)
    put(m, entry + 1, held)
    put(m, i + I_LEAVING_SIZE, size + 1)
