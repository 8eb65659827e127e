"""Pending events in the order of ``sim.engine.clock``: time, priority, number. And the epochs of the clock."""

from sim.compiled.layout import (
    E_KEY,
    E_TIME,
    EPOCH,
    EPOCH_BITS,
    EPOCH_NUMBER,
    EVENT_NUMBER,
    EVENT_WORDS,
    FAR,
    FAR_SIZE,
    FAR_WORDS,
    G_CHANGED_AT,
    G_PROMISES,
    G_PROMISES_AT,
    G_WORKED_UNTIL,
    GPUS,
    GPUS_COUNT,
    HEAP,
    HEAP_SIZE,
    I_BUSY,
    I_BUSY_HIGH,
    I_PROMPT,
    I_PROMPT_HIGH,
    I_STARTED,
    INSTANCES,
    INSTANCES_COUNT,
    METER_BITS,
    NOW,
    NUMBER_BITS,
)
from sim.compiled.memory import get, jit, put


@jit
def push(m: int, time: int, key: int, what: int, more: int) -> None:
    """Enter an event."""
    heap = get(m, HEAP)
    place = get(m, HEAP_SIZE)
    put(m, HEAP_SIZE, place + 1)
    while place > 0:
        above = (place - 1) >> 1
        other = above * EVENT_WORDS
        its_time = get(heap, other)
        if its_time < time or (its_time == time and get(heap, other + 1) < key):
            break
        mine = place * EVENT_WORDS
        put(heap, mine, its_time)
        put(heap, mine + 1, get(heap, other + 1))
        put(heap, mine + 2, get(heap, other + 2))
        put(heap, mine + 3, get(heap, other + 3))
        place = above
    mine = place * EVENT_WORDS
    put(heap, mine, time)
    put(heap, mine + 1, key)
    put(heap, mine + 2, what)
    put(heap, mine + 3, more)


@jit
def drop_first(m: int) -> None:
    """Take the first event out."""
    heap = get(m, HEAP)
    size = get(m, HEAP_SIZE) - 1
    put(m, HEAP_SIZE, size)
    moved = size * EVENT_WORDS
    time, key = get(heap, moved), get(heap, moved + 1)
    place = 0
    while True:
        below = 2 * place + 1
        if below >= size:
            break
        other = below * EVENT_WORDS
        its_time = get(heap, other)
        if below + 1 < size:
            right_time = get(heap, other + EVENT_WORDS)
            if right_time < its_time or (right_time == its_time and get(heap, other + EVENT_WORDS + 1) < get(heap, other + 1)):
                below += 1
                other += EVENT_WORDS
                its_time = right_time
        if time < its_time or (time == its_time and key < get(heap, other + 1)):
            break
        mine = place * EVENT_WORDS
        put(heap, mine, its_time)
        put(heap, mine + 1, get(heap, other + 1))
        put(heap, mine + 2, get(heap, other + 2))
        put(heap, mine + 3, get(heap, other + 3))
        place = below
    mine = place * EVENT_WORDS
    if mine != moved:
        put(heap, mine, time)
        put(heap, mine + 1, key)
        put(heap, mine + 2, get(heap, moved + 2))
        put(heap, mine + 3, get(heap, moved + 3))


@jit
def alarm(m: int, epochs: int, delay: int, priority: int, what: int, more: int) -> int:
    """Enter an event ``epochs`` epochs and ``delay`` ticks from now; return its number."""
    number = get(m, EVENT_NUMBER)
    put(m, EVENT_NUMBER, number + 1)
    time = get(m, NOW) + delay
    key = (priority << NUMBER_BITS) | number
    if epochs == 0:
        push(m, time, key, what, more)
        return number
    far = get(m, FAR) + 8 * FAR_WORDS * get(m, FAR_SIZE)
    put(m, FAR_SIZE, get(m, FAR_SIZE) + 1)
    put(far, 0, get(m, EPOCH_NUMBER) + epochs + (time >> EPOCH_BITS))
    put(far, 1, time & (EPOCH - 1))
    put(far, 2, key)
    put(far, 3, what)
    put(far, 4, more)
    return number


@jit
def busy_now(m: int) -> bool:
    """Whether something else is still to happen at this instant."""
    return get(m, HEAP_SIZE) > 0 and get(get(m, HEAP), E_TIME) <= get(m, NOW)


@jit
def next_epoch(m: int) -> None:
    """Begin the next epoch: all times that are pending move back, and the events of that epoch join them."""
    heap = get(m, HEAP)
    for place in range(get(m, HEAP_SIZE)):
        put(heap, place * EVENT_WORDS + E_TIME, get(heap, place * EVENT_WORDS + E_TIME) - EPOCH)
    put(m, NOW, get(m, NOW) - EPOCH)
    epoch = get(m, EPOCH_NUMBER) + 1
    put(m, EPOCH_NUMBER, epoch)
    mask = (1 << METER_BITS) - 1
    for number in range(get(m, INSTANCES_COUNT)):
        i = get(m, get(m, INSTANCES) + number)
        put(m, i + I_STARTED, get(m, i + I_STARTED) - EPOCH)
        put(m, i + I_BUSY_HIGH, get(m, i + I_BUSY_HIGH) + (get(m, i + I_BUSY) >> METER_BITS))
        put(m, i + I_BUSY, get(m, i + I_BUSY) & mask)
        put(m, i + I_PROMPT_HIGH, get(m, i + I_PROMPT_HIGH) + (get(m, i + I_PROMPT) >> METER_BITS))
        put(m, i + I_PROMPT, get(m, i + I_PROMPT) & mask)
    for number in range(get(m, GPUS_COUNT)):
        gpu = get(m, get(m, GPUS) + number)
        put(m, gpu + G_CHANGED_AT, -1)
        put(m, gpu + G_WORKED_UNTIL, get(m, gpu + G_WORKED_UNTIL) - EPOCH)
        for place in range(get(m, gpu + G_PROMISES)):
            promise = get(m, gpu + G_PROMISES_AT) + 3 * place
            put(m, promise, get(m, promise) - EPOCH)
    far = get(m, FAR)
    kept = 0
    for place in range(get(m, FAR_SIZE)):
        event = far + 8 * FAR_WORDS * place
        if get(event, 0) <= epoch:
            push(m, get(event, 1), get(event, 2), get(event, 3), get(event, 4))
        else:
            target = far + 8 * FAR_WORDS * kept
            for word in range(FAR_WORDS):
                put(target, word, get(event, word))
            kept += 1
    put(m, FAR_SIZE, kept)


@jit
def skip_epochs(m: int) -> None:
    """Nothing is pending in this epoch: go on to the one before the first that has an event."""
    far = get(m, FAR)
    first = get(far, 0)
    for place in range(get(m, FAR_SIZE)):
        first = min(first, get(far + 8 * FAR_WORDS * place, 0))
    if first - 1 > get(m, EPOCH_NUMBER):
        put(m, EPOCH_NUMBER, first - 1)
    for number in range(get(m, GPUS_COUNT)):  # no iteration is under way, so all that was promised is done
        put(m, get(m, get(m, GPUS) + number) + G_PROMISES, 0)
    next_epoch(m)


__all__ = ["E_KEY", "alarm", "busy_now", "drop_first", "next_epoch", "push", "skip_epochs"]
