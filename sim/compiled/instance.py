"""One engine instance: ends iterations and starts the next, as in ``sim.engine.replica``, function by function."""

from sim.compiled.admission import fill
from sim.compiled.contention import promised, slowdown, slowdown_after
from sim.compiled.durations import decode_ticks, mixed_ticks, prompt_work
from sim.compiled.entrance import set_end, switch, wake
from sim.compiled.events import busy_now
from sim.compiled.layout import (
    C_EMITTED,
    C_FIRST,
    C_HELD,
    C_NEXT,
    C_NUMBER,
    C_OUTPUT,
    ERROR_PLACE,
    I_ALARM,
    I_BLOCK_TOKENS,
    I_CONTEXT,
    I_DECODING,
    I_DRAWS,
    I_ENDS,
    I_ENDS_SIZE,
    I_FINISHING,
    I_FINISHING_COUNT,
    I_FIRST,
    I_FREE,
    I_GROWTH,
    I_ITERATIONS,
    I_PREFILLED,
    I_RESIDUES,
    I_SHARED,
    I_SLOW,
    I_SPAN,
    I_STARTED,
    I_WAITING,
    I_WAKING,
    LONGEST,
    NOW,
)
from sim.compiled.memory import get, jit, put, putf
from sim.compiled.running import account, begin_decoding, drop_first_end, first_token, leave, stop_decoding

OK, NEVER_FITS_HERE, STUCK, SPAN_TOO_LONG = range(4)


@jit
def on_end(m: int, i: int) -> int:
    """The current iteration or span ends."""
    put(m, i + I_ALARM, -1)
    now = get(m, NOW)
    steps, decoding = max(get(m, i + I_SPAN), 1), get(m, i + I_DECODING)
    account(m, i, now, steps, decoding)
    iterations = get(m, i + I_ITERATIONS) + steps
    put(m, i + I_ITERATIONS, iterations)
    put(m, i + I_CONTEXT, get(m, i + I_CONTEXT) + decoding * steps)
    put(m, i + I_SPAN, 0)
    heap = get(m, i + I_ENDS)
    while get(m, i + I_ENDS_SIZE) > 0 and get(m, heap) == iterations:
        number, call = get(m, heap + 1), get(m, heap + 2)
        drop_first_end(m, i)
        if get(m, call + C_NUMBER) == number and not leave(m, i, call, stop_decoding(m, i, call)):
            return NEVER_FITS_HERE
    call = get(m, i + I_FINISHING)
    put(m, i + I_FINISHING, 0)
    put(m, i + I_FINISHING_COUNT, 0)
    while call:
        following = get(m, call + C_NEXT)
        emitted = get(m, call + C_EMITTED) + 1
        put(m, call + C_EMITTED, emitted)
        if get(m, call + C_FIRST) < 0:
            first_token(m, call, now)
        left = get(m, call + C_OUTPUT) - emitted
        if left > 0:
            begin_decoding(m, i, call, left)
        elif not leave(m, i, call, get(m, call + C_HELD)):
            return NEVER_FITS_HERE
        call = following
    if busy_now(m):
        wake(m, i)
        return OK
    return schedule(m, i)


@jit
def on_wake(m: int, i: int) -> int:
    """Everything else of this instant has happened."""
    put(m, i + I_WAKING, 0)
    return schedule(m, i) if get(m, i + I_ALARM) < 0 else OK


@jit
def schedule(m: int, i: int) -> int:
    """Start the next iteration or span, if there is anything to do."""
    while True:
        tokens, area, preempted = fill(m, i)
        decoding = get(m, i + I_DECODING)
        if tokens > 0:
            _begin_mixed(m, i, decoding, tokens, area)
            return OK
        if decoding > 0:
            return _begin_span(m, i, decoding, preempted)
        if get(m, i + I_WAITING) == 0:
            if get(m, i + I_DRAWS):
                switch(m, i)
            return OK
        if not preempted:
            put(m, ERROR_PLACE, i)
            return STUCK


@jit
def too_long(steps: int, first: int, growth: int) -> bool:
    """Whether so many iterations, each ``growth`` ticks longer than the one before, go beyond 64 bits."""
    return float(steps) * first + float(growth) * steps * steps / 2 > float(LONGEST)


@jit
def _begin_mixed(m: int, i: int, decoding: int, tokens: int, area: float) -> None:
    slow = slowdown(m, i) if decoding > 0 and get(m, i + I_SHARED) else 1.0
    length = mixed_ticks(m, i, tokens, area, decoding, get(m, i + I_CONTEXT), slow)
    if get(m, i + I_SHARED):
        length = promised(m, i, length, prompt_work(m, i, tokens, area))
    put(m, i + I_PREFILLED, get(m, i + I_PREFILLED) + tokens)
    put(m, i + I_STARTED, get(m, NOW))
    put(m, i + I_SPAN, 0)
    set_end(m, i, length)
    if (1 if decoding > 0 else 0) != get(m, i + I_DRAWS):
        switch(m, i)


@jit
def _begin_span(m: int, i: int, decoding: int, preempted: bool) -> int:
    steps = 1 if preempted else steps_to_go(m, i, decoding)
    if get(m, i + I_DRAWS) == 0:
        switch(m, i)
    slow = 1.0
    if get(m, i + I_SHARED):
        slow = slowdown(m, i)
        if slow != slowdown_after(m, i):
            steps = 1
        putf(m, i + I_SLOW, slow)
    fixed, per_token = decode_ticks(m, i, decoding, slow)
    first, growth = fixed + per_token * get(m, i + I_CONTEXT), per_token * decoding
    put(m, i + I_FIRST, first)
    put(m, i + I_GROWTH, growth)
    put(m, i + I_STARTED, get(m, NOW))
    put(m, i + I_SPAN, steps)
    if too_long(steps, first, growth):
        put(m, ERROR_PLACE, i)
        return SPAN_TOO_LONG
    set_end(m, i, steps * first + growth * ((steps * (steps - 1)) >> 1))
    return OK


@jit
def steps_to_go(m: int, i: int, decoding: int) -> int:
    """Iterations until the first decoding call ends or KV blocks are short."""
    heap = get(m, i + I_ENDS)
    while get(m, get(m, heap + 2) + C_NUMBER) != get(m, heap + 1):  # preempted since
        drop_first_end(m, i)
    steps, free = get(m, heap) - get(m, i + I_ITERATIONS), get(m, i + I_FREE)
    if steps > 1 and free < decoding * (steps // get(m, i + I_BLOCK_TOKENS) + 1):
        steps = _steps_that_fit(m, i, steps, free)
    return steps


@jit
def _steps_that_fit(m: int, i: int, steps: int, free: int) -> int:
    """Iterations that ``free`` blocks allow, the first of which has its blocks already; at most ``steps``."""
    decoding, block_tokens = get(m, i + I_DECODING), get(m, i + I_BLOCK_TOKENS)
    residues, iterations = get(m, i + I_RESIDUES), get(m, i + I_ITERATIONS)
    whole = min(free // decoding, (steps - 1) // block_tokens)
    done = 1 + whole * block_tokens
    free -= whole * decoding
    while done < steps:
        free -= get(m, residues + (iterations + done) % block_tokens)
        if free < 0:
            break
        done += 1
    return done
