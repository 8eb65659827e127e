"""Runs arrive, walk their DAGs and end, as in ``sim.world.agent`` and ``sim.world.world``."""

from sim.compiled.arena import class_of, give, take
from sim.compiled.entrance import FAILED, REJECTED, submit
from sim.compiled.events import alarm
from sim.compiled.layout import (
    A_EPOCH,
    A_NAME,
    A_NUMBER,
    A_TEMPLATE,
    A_TIME,
    A_WORDS,
    ARRIVAL_WORDS,
    ARRIVALS,
    ARRIVALS_AT,
    ARRIVALS_SIZE,
    ARRIVE,
    C_BLOCKS_COUNT,
    C_CACHED,
    C_CLASS,
    C_COMPUTED,
    C_EMITTED,
    C_EPOCHS,
    C_FIRST,
    C_HELD,
    C_INPUT,
    C_INSTANCE,
    C_ISSUED,
    C_KEYS,
    C_KEYS_AT,
    C_NODE,
    C_NUMBER,
    C_OUTPUT,
    C_OWN,
    C_PREEMPTIONS,
    C_RUN,
    C_SCHEDULED,
    C_SERIAL,
    C_SHARED,
    C_STEP,
    CALLS_LIVE,
    DONE,
    DRAIN,
    DRAIN_EPOCHS,
    EPOCH_BITS,
    EPOCH_NUMBER,
    ERROR_CALL,
    FREE_CALLS,
    FREE_RUNS,
    GAP_OVER,
    HOMES,
    HORIZON,
    HORIZON_EPOCH,
    I_BEGIN,
    I_BUSY,
    I_BUSY_HIGH,
    I_END,
    I_NUMBER,
    I_PREFILLED,
    I_PROMPT,
    I_PROMPT_HIGH,
    INSTANCES,
    INSTANCES_COUNT,
    IS_DONE,
    KIND_BITS,
    L_WORDS,
    LEAVES,
    LIMIT,
    LLMS,
    MORE,
    NOW,
    OC_CACHED,
    OC_CALL,
    OC_END,
    OC_END_EPOCH,
    OC_EPOCHS,
    OC_FIRST,
    OC_INSTANCE,
    OC_ISSUED,
    OC_NAME,
    OC_NUMBER,
    OC_PREEMPTIONS,
    OC_SALT,
    OC_SCHEDULED,
    OC_STATUS,
    OC_WORDS,
    OPEN_COUNT,
    OPEN_FIRST,
    OPEN_LAST,
    OPEN_LOOP,
    OR_ARRIVAL,
    OR_ARRIVAL_EPOCH,
    OR_END,
    OR_END_EPOCH,
    OR_NAME,
    OR_NUMBER,
    OR_STATUS,
    OR_TEMPLATE,
    OR_WORDS,
    OUT_CALLS,
    OUT_CALLS_SIZE,
    OUT_RUNS,
    OUT_RUNS_SIZE,
    PRIORITY_ARRIVAL,
    R_ARRIVAL,
    R_ARRIVAL_EPOCH,
    R_CALLS_LEFT,
    R_FAILED,
    R_IN_FLIGHT,
    R_NAME,
    R_NEXT,
    R_NUMBER,
    R_PREVIOUS,
    R_SALT,
    R_SERVED_HIGH,
    R_SERVED_LOW,
    R_SERVED_TOKENS,
    R_TEMPLATE,
    R_USER,
    R_WAITED_HIGH,
    R_WAITED_LOW,
    R_WORDS,
    RUNS_ISSUED,
    S_CHILDREN,
    S_CHILDREN_AT,
    S_GAP,
    S_GAP_EPOCHS,
    S_INDEX,
    S_INPUT,
    S_KEYS,
    S_KEYS_AT,
    S_LLM,
    S_OUTPUT,
    S_PARENTS,
    S_SHARED,
    S_WORDS,
    SERIAL,
    STATUS_COMPLETED,
    STATUS_REJECTED,
    STOPS,
    SUM_BITS,
    T_CALLS,
    T_INDEX,
    T_ROOTS,
    T_ROOTS_AT,
    T_TAIL,
    T_TAIL_EPOCHS,
    T_WORDS,
    TAG_BITS,
    TEMPLATES,
    U_AT,
    U_PLANS,
    U_SIZE,
    U_WORDS,
    USER_ARRIVES,
    USERS,
    USERS_COUNT,
    USERS_EMPTY,
    WARMUP_RUN,
)
from sim.compiled.memory import get, jit, put
from sim.compiled.routing import choose

NODE_BITS = 24
"""Runs have fewer calls than 2**24."""

# ---- the end ---------------------------------------------------------------------------------------------------------


@jit
def check_done(m: int) -> None:
    """The simulation is over when no run is open and none may come."""
    if get(m, MORE) == 0 and get(m, OPEN_COUNT) == 0 and get(m, DONE) == 0:
        stop(m)


@jit
def stop(m: int) -> None:
    """End after what is due at this instant."""
    if get(m, DONE) == 0:
        put(m, DONE, 1)
        alarm(m, 0, 0, PRIORITY_ARRIVAL, IS_DONE, 0)


@jit
def copy_meters(m: int, where: int) -> None:
    """Keep the instances' meters as they are now."""
    for number in range(get(m, INSTANCES_COUNT)):
        i = get(m, get(m, INSTANCES) + number)
        put(m, i + where, get(m, i + I_BUSY))
        put(m, i + where + 1, get(m, i + I_BUSY_HIGH))
        put(m, i + where + 2, get(m, i + I_PROMPT))
        put(m, i + where + 3, get(m, i + I_PROMPT_HIGH))
        put(m, i + where + 4, get(m, i + I_PREFILLED))


@jit
def _last_arrival(m: int) -> None:
    if get(m, MORE):
        copy_meters(m, I_END)
        if get(m, OPEN_LOOP) == 0:
            put(m, MORE, 0)
            if get(m, DRAIN) >= 0:
                alarm(m, get(m, DRAIN_EPOCHS), get(m, DRAIN), PRIORITY_ARRIVAL, STOPS, 0)
    check_done(m)


# ---- rows ------------------------------------------------------------------------------------------------------------


@jit
def record_call(m: int, call: int, end: int, status: int) -> None:
    """Write down a call."""
    size = get(m, OUT_CALLS_SIZE)
    put(m, OUT_CALLS_SIZE, size + 1)
    row, run = get(m, OUT_CALLS) + 8 * OC_WORDS * size, get(m, call + C_RUN)
    put(row, OC_NAME, get(m, run + R_NAME))
    put(row, OC_NUMBER, get(m, run + R_NUMBER))
    put(row, OC_CALL, get(get(m, TEMPLATES), get(m, call + C_STEP) + S_INDEX))
    put(row, OC_INSTANCE, get(m, get(m, call + C_INSTANCE) + I_NUMBER))
    put(row, OC_ISSUED, get(m, call + C_ISSUED))
    put(row, OC_SCHEDULED, get(m, call + C_SCHEDULED))
    put(row, OC_FIRST, get(m, call + C_FIRST))
    put(row, OC_END, end)
    put(row, OC_EPOCHS, get(m, call + C_EPOCHS))
    put(row, OC_END_EPOCH, get(m, EPOCH_NUMBER))
    put(row, OC_CACHED, get(m, call + C_CACHED))
    put(row, OC_PREEMPTIONS, get(m, call + C_PREEMPTIONS))
    put(row, OC_STATUS, status)
    put(row, OC_SALT, get(m, run + R_SALT))


@jit
def _record_run(m: int, run: int, end: int, status: int) -> None:
    size = get(m, OUT_RUNS_SIZE)
    put(m, OUT_RUNS_SIZE, size + 1)
    row = get(m, OUT_RUNS) + 8 * OR_WORDS * size
    put(row, OR_NAME, get(m, run + R_NAME))
    put(row, OR_NUMBER, get(m, run + R_NUMBER))
    put(row, OR_TEMPLATE, get(get(m, TEMPLATES), get(m, run + R_TEMPLATE) + T_INDEX))
    put(row, OR_ARRIVAL, get(m, run + R_ARRIVAL))
    put(row, OR_ARRIVAL_EPOCH, get(m, run + R_ARRIVAL_EPOCH))
    put(row, OR_END, end)
    put(row, OR_END_EPOCH, get(m, EPOCH_NUMBER))
    put(row, OR_STATUS, status)


# ---- runs ------------------------------------------------------------------------------------------------------------


@jit
def _class(m: int, template: int) -> int:
    """The size class of a run's record."""
    return class_of(R_WORDS + get(m, HOMES) + get(get(m, TEMPLATES), template + T_CALLS))


@jit
def _end_run(m: int, run: int) -> None:
    before, after = get(m, run + R_PREVIOUS), get(m, run + R_NEXT)
    if before:
        put(m, before + R_NEXT, after)
    else:
        put(m, OPEN_FIRST, after)
    if after:
        put(m, after + R_PREVIOUS, before)
    else:
        put(m, OPEN_LAST, before)
    put(m, OPEN_COUNT, get(m, OPEN_COUNT) - 1)
    _record_run(m, run, get(m, NOW), STATUS_REJECTED if get(m, run + R_FAILED) else STATUS_COMPLETED)
    user = get(m, run + R_USER)
    put(m, run + R_SALT, -1)
    give(m, FREE_RUNS, run, _class(m, get(m, run + R_TEMPLATE)))
    if user >= 0:
        next_of_user(m, user)
    check_done(m)


@jit
def _begin(m: int, arrival: int, user: int) -> bool:
    """A run arrives and issues its first calls; false: one of them can never fit."""
    t = get(m, TEMPLATES)
    template = get(arrival, A_TEMPLATE)
    salt = get(m, RUNS_ISSUED) + 1
    put(m, RUNS_ISSUED, salt)
    run = take(m, FREE_RUNS, _class(m, template))
    put(m, run + R_SALT, salt)
    put(m, run + R_TEMPLATE, template)
    put(m, run + R_NAME, get(arrival, A_NAME))
    put(m, run + R_NUMBER, get(arrival, A_NUMBER))
    put(m, run + R_ARRIVAL, get(m, NOW))
    put(m, run + R_ARRIVAL_EPOCH, get(m, EPOCH_NUMBER))
    calls = get(t, template + T_CALLS)
    put(m, run + R_CALLS_LEFT, calls)
    put(m, run + R_IN_FLIGHT, 0)
    put(m, run + R_FAILED, 0)
    put(m, run + R_USER, user)
    put(m, run + R_SERVED_TOKENS, 0)
    put(m, run + R_WAITED_HIGH, 0)
    put(m, run + R_WAITED_LOW, 0)
    put(m, run + R_SERVED_HIGH, 0)
    put(m, run + R_SERVED_LOW, 0)
    last = get(m, OPEN_LAST)
    put(m, run + R_PREVIOUS, last)
    put(m, run + R_NEXT, 0)
    if last:
        put(m, last + R_NEXT, run)
    else:
        put(m, OPEN_FIRST, run)
    put(m, OPEN_LAST, run)
    put(m, OPEN_COUNT, get(m, OPEN_COUNT) + 1)
    homes = get(m, HOMES)
    for llm in range(homes):
        put(m, run + R_WORDS + llm, get(arrival, A_WORDS + llm) if get(m, ARRIVAL_WORDS) > A_WORDS else -1)
    if calls > 1:
        for node in range(calls):
            put(m, run + R_WORDS + homes + node, get(t, template + T_WORDS + node * S_WORDS + S_PARENTS))
    roots = get(t, template + T_ROOTS_AT)
    for place in range(get(t, template + T_ROOTS)):
        if not _issue_after_gap(m, run, salt, template, get(t, roots + place)):
            return False
    if salt == get(m, WARMUP_RUN):
        copy_meters(m, I_BEGIN)
    return True


# ---- calls -----------------------------------------------------------------------------------------------------------


@jit
def _issue_after_gap(m: int, run: int, salt: int, template: int, node: int) -> bool:
    step, t = template + T_WORDS + node * S_WORDS, get(m, TEMPLATES)
    epochs, gap = get(t, step + S_GAP_EPOCHS), get(t, step + S_GAP)
    if epochs or gap:
        alarm(m, epochs, gap, PRIORITY_ARRIVAL, GAP_OVER | (run << KIND_BITS), node | (salt << NODE_BITS))
        return True
    return issue(m, run, salt, node)


@jit
def issue(m: int, run: int, salt: int, node: int) -> bool:
    """Issue a call of a run, unless the run has failed or is gone; false: the call can never fit."""
    if get(m, run + R_SALT) != salt or get(m, run + R_FAILED):
        return True
    t = get(m, TEMPLATES)
    step = get(m, run + R_TEMPLATE) + T_WORDS + node * S_WORDS
    put(m, run + R_IN_FLIGHT, get(m, run + R_IN_FLIGHT) + 1)
    call = take(m, FREE_CALLS, C_CLASS)
    put(m, CALLS_LIVE, get(m, CALLS_LIVE) + 1)
    serial = get(m, SERIAL) + 1
    put(m, SERIAL, serial)
    put(m, call + C_RUN, run)
    put(m, call + C_NODE, node)
    put(m, call + C_STEP, step)
    put(m, call + C_INPUT, get(t, step + S_INPUT))
    put(m, call + C_OUTPUT, get(t, step + S_OUTPUT))
    put(m, call + C_ISSUED, get(m, NOW))
    put(m, call + C_SCHEDULED, -1)
    put(m, call + C_FIRST, -1)
    put(m, call + C_EPOCHS, get(m, EPOCH_NUMBER))
    put(m, call + C_NUMBER, -1)
    put(m, call + C_EMITTED, 0)
    put(m, call + C_COMPUTED, 0)
    put(m, call + C_HELD, 0)
    put(m, call + C_BLOCKS_COUNT, 0)
    put(m, call + C_OWN, 0)
    put(m, call + C_CACHED, 0)
    put(m, call + C_PREEMPTIONS, 0)
    put(m, call + C_SERIAL, serial)
    put(m, call + C_KEYS, get(t, step + S_KEYS))
    put(m, call + C_KEYS_AT, get(t, step + S_KEYS_AT))
    put(m, call + C_SHARED, get(t, step + S_SHARED))
    number = get(t, step + S_LLM)
    outcome = submit(m, choose(m, get(m, LLMS) + number * L_WORDS, number, run, call), call)
    if outcome == FAILED:
        put(m, ERROR_CALL, call)
        return False
    if outcome == REJECTED:
        _rejected(m, call, run)
    return True


@jit
def _rejected(m: int, call: int, run: int) -> None:
    """A call found no place: its run fails, and ends when nothing of it is in flight."""
    in_flight = get(m, run + R_IN_FLIGHT) - 1
    put(m, run + R_IN_FLIGHT, in_flight)
    record_call(m, call, get(m, NOW), STATUS_REJECTED)
    put(m, run + R_FAILED, 1)
    put(m, run + R_CALLS_LEFT, get(m, run + R_CALLS_LEFT) - 1)
    tokens = get(m, call + C_INPUT) + get(m, call + C_OUTPUT)
    put(m, run + R_SERVED_TOKENS, get(m, run + R_SERVED_TOKENS) + tokens)
    _free_call(m, call)
    if in_flight == 0:
        _end_run(m, run)


@jit
def _free_call(m: int, call: int) -> None:
    put(m, call + C_SERIAL, -1)
    put(m, call + C_NUMBER, -1)
    give(m, FREE_CALLS, call, C_CLASS)
    put(m, CALLS_LIVE, get(m, CALLS_LIVE) - 1)


@jit
def _add(m: int, high: int, epochs: int, ticks: int) -> None:
    """Add a duration to a sum of two words."""
    low = get(m, high + 1) + (ticks & ((1 << SUM_BITS) - 1))
    put(m, high, get(m, high) + (epochs << (EPOCH_BITS - SUM_BITS)) + (ticks >> SUM_BITS) + (low >> SUM_BITS))
    put(m, high + 1, low & ((1 << SUM_BITS) - 1))


@jit
def call_ended(m: int, call: int) -> bool:
    """A call is done: issue its children, and leave when it was the last; false: a child can never fit."""
    run, now, epoch, t = get(m, call + C_RUN), get(m, NOW), get(m, EPOCH_NUMBER), get(m, TEMPLATES)
    salt, step = get(m, run + R_SALT), get(m, call + C_STEP)
    put(m, run + R_IN_FLIGHT, get(m, run + R_IN_FLIGHT) - 1)
    record_call(m, call, now, STATUS_COMPLETED)
    left = get(m, run + R_CALLS_LEFT) - 1
    put(m, run + R_CALLS_LEFT, left)
    if left > 0:
        tokens = get(m, call + C_INPUT) + get(m, call + C_OUTPUT)
        put(m, run + R_SERVED_TOKENS, get(m, run + R_SERVED_TOKENS) + tokens)
        tags, scheduled = get(m, call + C_EPOCHS), get(m, call + C_SCHEDULED)
        mask = (1 << TAG_BITS) - 1
        at = (tags >> TAG_BITS) & mask
        _add(m, run + R_WAITED_HIGH, at - (tags & mask), scheduled - get(m, call + C_ISSUED))
        _add(m, run + R_SERVED_HIGH, epoch - at, now - scheduled)
    _free_call(m, call)
    if left > 0:
        template = get(m, run + R_TEMPLATE)
        missing = run + R_WORDS + get(m, HOMES)
        children = get(t, step + S_CHILDREN_AT)
        for place in range(get(t, step + S_CHILDREN)):
            child = get(t, children + place)
            if get(m, run + R_SALT) != salt:
                return True  # a child was rejected, and nothing else was in flight
            misses = get(m, missing + child) - 1
            put(m, missing + child, misses)
            if misses == 0 and get(m, run + R_FAILED) == 0 and not _issue_after_gap(m, run, salt, template, child):
                return False
        if get(m, run + R_SALT) != salt:
            return True
    failed = get(m, run + R_FAILED)
    if left == 0 or (failed and get(m, run + R_IN_FLIGHT) == 0):
        template = get(m, run + R_TEMPLATE)
        epochs, tail = get(t, template + T_TAIL_EPOCHS), get(t, template + T_TAIL)
        if (epochs or tail) and failed == 0:
            alarm(m, epochs, tail, PRIORITY_ARRIVAL, LEAVES | (run << KIND_BITS), 0)
        else:
            _end_run(m, run)
    return True


@jit
def leave_run(m: int, run: int) -> None:
    """A run's tail is over."""
    _end_run(m, run)


# ---- arrivals --------------------------------------------------------------------------------------------------------


@jit
def next_arrival(m: int) -> bool:
    """Set the next arrival that waits for nobody; false: it would be before now."""
    at = get(m, ARRIVALS_AT)
    limit = get(m, LIMIT)
    if at >= get(m, ARRIVALS_SIZE) or (limit >= 0 and get(m, RUNS_ISSUED) >= limit):
        put(m, OPEN_LOOP, 0)
        if get(m, USERS_COUNT) == 0:
            _last_arrival(m)
        return True
    arrival = get(m, ARRIVALS) + 8 * get(m, ARRIVAL_WORDS) * at
    epochs = get(arrival, A_EPOCH) - get(m, EPOCH_NUMBER)
    delay = get(arrival, A_TIME) - get(m, NOW)
    if epochs < 0 or (epochs == 0 and delay < 0):
        return False
    if epochs > 0 and delay < 0:
        epochs -= 1
        delay += 1 << EPOCH_BITS
    alarm(m, epochs, delay, PRIORITY_ARRIVAL, ARRIVE, 0)
    return True


@jit
def arrive(m: int) -> bool:
    """The next arrival is here; false: one of its calls can never fit."""
    at = get(m, ARRIVALS_AT)
    put(m, ARRIVALS_AT, at + 1)
    return _begin(m, get(m, ARRIVALS) + 8 * get(m, ARRIVAL_WORDS) * at, -1)


@jit
def next_of_user(m: int, number: int) -> None:
    """A user thinks about its next run."""
    user = get(m, USERS) + 8 * U_WORDS * number
    at = get(user, U_AT)
    plan = get(user, U_PLANS) + 8 * get(m, ARRIVAL_WORDS) * at
    alarm(m, get(plan, A_EPOCH), get(plan, A_TIME), PRIORITY_ARRIVAL, USER_ARRIVES | (number << KIND_BITS), 0)
    put(user, U_AT, at + 1)
    if at + 1 >= get(user, U_SIZE):
        put(m, USERS_EMPTY, get(m, USERS_EMPTY) + 1)


@jit
def user_arrives(m: int, number: int) -> bool:
    """A user has thought; false: one of its calls can never fit."""
    limit, epoch = get(m, LIMIT), get(m, EPOCH_NUMBER)
    enough = limit >= 0 and get(m, RUNS_ISSUED) >= limit
    horizon = get(m, HORIZON_EPOCH)
    late = get(m, HORIZON) >= 0 and (epoch > horizon or (epoch == horizon and get(m, NOW) > get(m, HORIZON)))
    if get(m, MORE) == 0 or enough or late:
        _last_arrival(m)
        return True
    user = get(m, USERS) + 8 * U_WORDS * number
    return _begin(m, get(user, U_PLANS) + 8 * get(m, ARRIVAL_WORDS) * (get(user, U_AT) - 1), number)
