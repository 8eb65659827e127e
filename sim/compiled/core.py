"""The loop: the next event happens, until the simulation is over or the core needs something from Python."""

from sim.compiled.ahead import on_end_ahead, on_wake_ahead
from sim.compiled.blocks import move_table
from sim.compiled.entrance import on_promote
from sim.compiled.events import drop_first, next_epoch, skip_epochs
from sim.compiled.instance import NEVER_FITS_HERE, SPAN_TOO_LONG, STUCK, on_end, on_wake
from sim.compiled.layout import (
    ARRIVALS_AT,
    ARRIVALS_END,
    ARRIVALS_SIZE,
    ARRIVE,
    B_CLASS,
    BACKWARDS,
    C_CLASS,
    C_RUN,
    CALLS_LIVE,
    CANNOT_ADMIT,
    DONE,
    ENDS,
    EPOCH,
    FAR_ROOM,
    FAR_SIZE,
    FINISHED,
    GAP_OVER,
    HEAP,
    HEAP_ROOM,
    HEAP_SIZE,
    I_AHEAD,
    I_ALARM,
    I_ENDS,
    I_ENDS_SIZE,
    IS_DONE,
    KIND_BITS,
    L_COUNT,
    L_PAIRS_AT,
    L_PAIRS_SIZE,
    L_WORDS,
    LEAVES,
    LLMS,
    LLMS_COUNT,
    MOST_CHILDREN,
    MOST_LIST_WORDS,
    MOST_NEW_BLOCKS,
    MOST_RUN_WORDS,
    MOST_RUNNING,
    NEEDS_ARRIVALS,
    NEEDS_HEAP,
    NEEDS_PAIRS,
    NEEDS_ROOM,
    NEEDS_TABLE,
    NEEDS_USERS,
    NEVER_FITS,
    NOW,
    NUMBER_BITS,
    OLD_TABLE,
    OUT_CALLS_ROOM,
    OUT_CALLS_SIZE,
    OUT_RUNS_ROOM,
    OUT_RUNS_SIZE,
    POWER_OF_TWO,
    PROMOTES,
    R_WORDS,
    ROOM,
    ROUTER,
    ROWS_FULL,
    STALLED,
    STOPS,
    TABLE_COUNT,
    TABLE_MASK,
    TOO_LONG,
    TOP,
    USER_ARRIVES,
    USERS_COUNT,
    USERS_EMPTY,
    WAKES,
)
from sim.compiled.memory import fetch, get, jit, put
from sim.compiled.runs import NODE_BITS, arrive, check_done, issue, leave_run, next_arrival, next_of_user, stop, user_arrives


@jit
def _needs(m: int) -> int:
    """What the next event might not find: an answer for Python; 0: nothing."""
    if get(m, ARRIVALS_AT) + 1 >= get(m, ARRIVALS_SIZE) and get(m, ARRIVALS_END) == 0:
        return NEEDS_ARRIVALS
    if get(m, USERS_EMPTY) > 0:
        return NEEDS_USERS
    ending = min(get(m, CALLS_LIVE), get(m, MOST_RUNNING)) + 1
    issued = ending * get(m, MOST_CHILDREN)
    if get(m, OUT_CALLS_ROOM) - get(m, OUT_CALLS_SIZE) < ending + issued:
        return ROWS_FULL
    if get(m, OUT_RUNS_ROOM) - get(m, OUT_RUNS_SIZE) < ending + 1:
        return ROWS_FULL
    if get(m, HEAP_ROOM) - get(m, HEAP_SIZE) < 3 * (issued + ending) + get(m, FAR_SIZE) + 64:
        return NEEDS_HEAP
    if get(m, FAR_ROOM) - get(m, FAR_SIZE) < issued + ending + 64:
        return NEEDS_HEAP
    words = issued * (3 << C_CLASS) + (ending + issued) * (16 + get(m, MOST_LIST_WORDS))
    words += get(m, MOST_RUN_WORDS) + (get(m, MOST_NEW_BLOCKS) << B_CLASS)
    if get(m, ROOM) - get(m, TOP) < words:
        return NEEDS_ROOM
    if 2 * (get(m, TABLE_COUNT) + get(m, MOST_NEW_BLOCKS)) > get(m, TABLE_MASK):
        return NEEDS_TABLE
    if get(m, ROUTER) == POWER_OF_TWO:
        for number in range(get(m, LLMS_COUNT)):
            llm = get(m, LLMS) + number * L_WORDS
            if get(m, llm + L_COUNT) > 1 and get(m, llm + L_PAIRS_SIZE) - get(m, llm + L_PAIRS_AT) < issued:
                return NEEDS_PAIRS
    return 0


@jit
def _happens(m: int, kind: int, record: int, more: int, number: int) -> int:
    """One event; an error's code, or 0."""
    if kind == ENDS:
        if get(m, record + I_ALARM) == number:  # else the span was cut: this was its former end
            return on_end_ahead(m, record) if get(m, record + I_AHEAD) else on_end(m, record)
    elif kind == ARRIVE:
        if not arrive(m):
            return NEVER_FITS_HERE
        if not next_arrival(m):
            return BACKWARDS
    elif kind == WAKES:
        return on_wake_ahead(m, record) if get(m, record + I_AHEAD) else on_wake(m, record)
    elif kind == GAP_OVER:
        if not issue(m, record, more >> NODE_BITS, more & ((1 << NODE_BITS) - 1)):
            return NEVER_FITS_HERE
    elif kind == LEAVES:
        leave_run(m, record)
    elif kind == USER_ARRIVES:
        if not user_arrives(m, record):
            return NEVER_FITS_HERE
    elif kind == PROMOTES:
        on_promote(m, record, more)
    elif kind == STOPS:
        stop(m)
    return 0


@jit
def _fetch_next(m: int) -> None:
    """Bring near what the next event is about, while this one happens: with many instances it is far by now."""
    what = get(get(m, HEAP), 2)
    i = what >> KIND_BITS
    if get(m, HEAP_SIZE) == 0 or (what & ((1 << KIND_BITS) - 1)) != ENDS or get(m, i + I_ENDS_SIZE) == 0:
        return
    call = get(m, get(m, i + I_ENDS) + 2)
    for line in range(0, 1 << C_CLASS, 8):
        fetch(m, call + line)
    run = get(m, call + C_RUN)
    for line in range(0, R_WORDS, 8):
        fetch(m, run + line)


@jit
def advance(m: int, begin: int) -> int:
    """Let things happen, with ``begin`` from the very start; return what is needed, or how it ended (``layout``)."""
    if get(m, OLD_TABLE):
        move_table(m)
    if begin:
        if not next_arrival(m):
            return BACKWARDS
        for number in range(get(m, USERS_COUNT)):
            next_of_user(m, number)
        check_done(m)
        if get(m, DONE):
            return FINISHED
    while True:
        code = _needs(m)
        if code:
            return code
        heap = get(m, HEAP)
        if get(m, HEAP_SIZE) == 0:
            if get(m, FAR_SIZE) == 0:
                return STALLED
            skip_epochs(m)
            continue
        if get(heap, 0) >= EPOCH:
            next_epoch(m)
            continue
        put(m, NOW, get(heap, 0))
        number = get(heap, 1) & ((1 << NUMBER_BITS) - 1)
        what, more = get(heap, 2), get(heap, 3)
        drop_first(m)
        _fetch_next(m)
        kind = what & ((1 << KIND_BITS) - 1)
        if kind == IS_DONE:
            return FINISHED
        code = _happens(m, kind, what >> KIND_BITS, more, number)
        if code == NEVER_FITS_HERE:
            return NEVER_FITS
        if code == STUCK:
            return CANNOT_ADMIT
        if code == SPAN_TOO_LONG:
            return TOO_LONG
        if code:
            return code
