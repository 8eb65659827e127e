"""KV blocks of one instance, as in ``sim.engine.kv``: the same queue of free blocks, the same evictions.

Cached blocks of all instances stand in one hash table with open addressing, by instance and key. Blocks of equal content hang
behind the one in the table, oldest first.
"""

from sim.compiled.arena import give, take
from sim.compiled.layout import (
    B_CLASS,
    B_DUPLICATE,
    B_INSTANCE,
    B_KEY,
    B_LAST_DUPLICATE,
    B_REFS,
    C_BLOCKS,
    C_BLOCKS_COUNT,
    C_KEYS,
    C_KEYS_AT,
    C_RUN,
    C_SHARED,
    FREE,
    I_FREE,
    I_LAST_SEGMENT,
    I_PLAIN,
    I_QUEUE,
    I_QUEUE_LAST,
    IS_BLOCK,
    IS_SEGMENT,
    OLD_MASK,
    OLD_TABLE,
    Q_AFTER,
    Q_BEFORE,
    Q_KIND,
    R_SALT,
    SALT_BITS,
    SEG_COUNT,
    SEG_OWNED,
    SEG_QUEUED,
    TABLE,
    TABLE_COUNT,
    TABLE_MASK,
    TEMPLATES,
)
from sim.compiled.memory import get, jit, put

# ---- the hash table --------------------------------------------------------------------------------------------------


@jit
def _slot(i: int, key: int, mask: int) -> int:
    mixed = (key ^ (i << 20)) * -7046029254386353131
    mixed ^= (mixed >> 29) & 0x7FFFFFFFF
    mixed *= -4658895280553007687
    return ((mixed >> 32) & 0xFFFFFFFF) & mask


@jit
def _look_up(m: int, i: int, key: int) -> int:
    """The cached block of a key; 0: there is none."""
    table, mask = get(m, TABLE), get(m, TABLE_MASK)
    slot = _slot(i, key, mask)
    while True:
        block = get(table, 2 * slot + 1)
        if block == 0 or (get(table, 2 * slot) == key and get(m, block + B_INSTANCE) == i):
            return block
        slot = (slot + 1) & mask


@jit
def _enter(m: int, i: int, key: int, block: int) -> None:
    table, mask = get(m, TABLE), get(m, TABLE_MASK)
    slot = _slot(i, key, mask)
    while get(table, 2 * slot + 1):
        slot = (slot + 1) & mask
    put(table, 2 * slot, key)
    put(table, 2 * slot + 1, block)


@jit
def _place_of(m: int, block: int) -> int:
    table, mask = get(m, TABLE), get(m, TABLE_MASK)
    slot = _slot(get(m, block + B_INSTANCE), get(m, block + B_KEY), mask)
    while get(table, 2 * slot + 1) != block:
        slot = (slot + 1) & mask
    return slot


@jit
def _erase(m: int, block: int) -> None:
    """Take a block out; those behind it that could stand nearer to where they belong move up."""
    table, mask = get(m, TABLE), get(m, TABLE_MASK)
    hole = _place_of(m, block)
    put(m, TABLE_COUNT, get(m, TABLE_COUNT) - 1)
    slot = hole
    while True:
        slot = (slot + 1) & mask
        other = get(table, 2 * slot + 1)
        if other == 0:
            break
        key = get(table, 2 * slot)
        home = _slot(get(m, other + B_INSTANCE), key, mask)
        if ((slot - home) & mask) >= ((slot - hole) & mask):
            put(table, 2 * hole, key)
            put(table, 2 * hole + 1, other)
            hole = slot
    put(table, 2 * hole + 1, 0)


@jit
def move_table(m: int) -> None:
    """Enter what the old table has into the new one."""
    old = get(m, OLD_TABLE)
    for slot in range(get(m, OLD_MASK) + 1):
        block = get(old, 2 * slot + 1)
        if block:
            _enter(m, get(m, block + B_INSTANCE), get(old, 2 * slot), block)
    put(m, OLD_TABLE, 0)


# ---- the queue of free blocks ----------------------------------------------------------------------------------------


@jit
def _append(m: int, i: int, item: int) -> None:
    last = get(m, i + I_QUEUE_LAST)
    put(m, item + Q_BEFORE, last)
    put(m, item + Q_AFTER, 0)
    if last:
        put(m, last + Q_AFTER, item)
    else:
        put(m, i + I_QUEUE, item)
    put(m, i + I_QUEUE_LAST, item)


@jit
def _unlink(m: int, i: int, item: int) -> None:
    before, after = get(m, item + Q_BEFORE), get(m, item + Q_AFTER)
    if before:
        put(m, before + Q_AFTER, after)
    else:
        put(m, i + I_QUEUE, after)
    if after:
        put(m, after + Q_BEFORE, before)
    else:
        put(m, i + I_QUEUE_LAST, before)


@jit
def _new_segment(m: int, i: int, count: int, owned: int) -> int:
    segment = take(m, FREE, B_CLASS)
    put(m, segment + Q_KIND, IS_SEGMENT)
    put(m, segment + SEG_COUNT, count)
    put(m, segment + SEG_OWNED, owned)
    put(m, segment + SEG_QUEUED, 1)
    _append(m, i, segment)
    return segment


@jit
def _segment_leaves(m: int, i: int, segment: int) -> None:
    _unlink(m, i, segment)
    put(m, segment + SEG_QUEUED, 0)
    if get(m, segment + SEG_OWNED) == 0:
        give(m, FREE, segment, B_CLASS)


@jit
def _evict(m: int, block: int) -> None:
    """Forget a block's content, which a block of the same content may still have."""
    i, key = get(m, block + B_INSTANCE), get(m, block + B_KEY)
    first = _look_up(m, i, key)
    if first == block:
        heir = get(m, block + B_DUPLICATE)
        if heir:
            last = get(m, block + B_LAST_DUPLICATE)
            put(m, heir + B_LAST_DUPLICATE, 0 if last == heir else last)
            put(get(m, TABLE), 2 * _place_of(m, block) + 1, heir)
        else:
            _erase(m, block)
    else:
        before = first
        while get(m, before + B_DUPLICATE) != block:
            before = get(m, before + B_DUPLICATE)
        put(m, before + B_DUPLICATE, get(m, block + B_DUPLICATE))
        if get(m, first + B_LAST_DUPLICATE) == block:
            put(m, first + B_LAST_DUPLICATE, 0 if before == first else before)
    give(m, FREE, block, B_CLASS)


@jit
def take_blocks(m: int, i: int, count: int) -> None:
    """Hand out ``count`` blocks from the front of the queue, evicting what they cached."""
    put(m, i + I_FREE, get(m, i + I_FREE) - count)
    plain = get(m, i + I_PLAIN)
    if count <= plain:
        put(m, i + I_PLAIN, plain - count)
        return
    count -= plain
    put(m, i + I_PLAIN, 0)
    while count > 0:
        item = get(m, i + I_QUEUE)
        if get(m, item + Q_KIND) == IS_SEGMENT:
            size = get(m, item + SEG_COUNT)
            if size > count:
                put(m, item + SEG_COUNT, size - count)
                return
            count -= size
            put(m, item + SEG_COUNT, 0)
            if item == get(m, i + I_LAST_SEGMENT):
                put(m, i + I_LAST_SEGMENT, 0)
            _segment_leaves(m, i, item)
        else:
            count -= 1
            _unlink(m, i, item)
            _evict(m, item)


@jit
def give_blocks(m: int, i: int, count: int) -> None:
    """Take back ``count`` blocks that nobody will ask for again."""
    put(m, i + I_FREE, get(m, i + I_FREE) + count)
    if get(m, i + I_QUEUE) == 0:
        put(m, i + I_PLAIN, get(m, i + I_PLAIN) + count)
        return
    last = get(m, i + I_LAST_SEGMENT)
    if last:
        put(m, last + SEG_COUNT, get(m, last + SEG_COUNT) + count)
    elif count > 0:
        put(m, i + I_LAST_SEGMENT, _new_segment(m, i, count, 0))


@jit
def give_own(m: int, i: int, count: int) -> int:
    """Take back ``count`` blocks of a preempted call, which may reclaim those not yet evicted; 0: there are none."""
    if count == 0:
        return 0
    put(m, i + I_FREE, get(m, i + I_FREE) + count)
    put(m, i + I_LAST_SEGMENT, 0)
    return _new_segment(m, i, count, 1)


@jit
def reclaim(m: int, i: int, segment: int, count: int) -> None:
    """Hold the first ``count`` blocks of a segment again; what is left of it stays free and anonymous."""
    put(m, i + I_FREE, get(m, i + I_FREE) - count)
    left = get(m, segment + SEG_COUNT) - count
    put(m, segment + SEG_COUNT, left)
    put(m, segment + SEG_OWNED, 0)
    if get(m, segment + SEG_QUEUED) == 0:
        give(m, FREE, segment, B_CLASS)
    elif count > 0 and left == 0:
        _segment_leaves(m, i, segment)


# ---- cached blocks of a call -----------------------------------------------------------------------------------------


@jit
def key_of(m: int, call: int, place: int) -> int:
    """The key of a prompt's block: a number, with the run's own number above it where the text is the run's own."""
    key = get(get(m, TEMPLATES), get(m, call + C_KEYS_AT) + place)
    if place >= get(m, call + C_SHARED):
        key |= get(m, get(m, call + C_RUN) + R_SALT) << SALT_BITS
    return key


@jit
def find(m: int, i: int, call: int, limit: int, found: int) -> tuple[int, int]:
    """Write the cached blocks of the longest known prefix to ``found``; return how many, and how many of them are in use."""
    keys = min(get(m, call + C_KEYS), limit)
    count = in_use = 0
    while count < keys:
        block = _look_up(m, i, key_of(m, call, count))
        if block == 0:
            break
        put(m, found + count, block)
        count += 1
        in_use += get(m, block + B_REFS) > 0
    return count, in_use


@jit
def hold(m: int, i: int, blocks: int, count: int) -> None:
    """Share cached blocks with one more call."""
    for place in range(count):
        block = get(m, blocks + place)
        refs = get(m, block + B_REFS)
        if refs == 0:
            _unlink(m, i, block)
            put(m, i + I_FREE, get(m, i + I_FREE) - 1)
        put(m, block + B_REFS, refs + 1)


@jit
def cache(m: int, i: int, call: int, upto: int) -> None:
    """Register the content of a call's blocks up to number ``upto``, just handed out."""
    blocks = get(m, call + C_BLOCKS)
    for place in range(get(m, call + C_BLOCKS_COUNT), upto):
        key = key_of(m, call, place)
        block = take(m, FREE, B_CLASS)
        put(m, block + Q_KIND, IS_BLOCK)
        put(m, block + B_KEY, key)
        put(m, block + B_REFS, 1)
        put(m, block + B_INSTANCE, i)
        put(m, block + B_DUPLICATE, 0)
        put(m, block + B_LAST_DUPLICATE, 0)
        first = _look_up(m, i, key)
        if first:
            last = get(m, first + B_LAST_DUPLICATE)
            put(m, (last if last else first) + B_DUPLICATE, block)
            put(m, first + B_LAST_DUPLICATE, block)
        else:
            _enter(m, i, key, block)
            put(m, TABLE_COUNT, get(m, TABLE_COUNT) + 1)
        put(m, blocks + place, block)
    put(m, call + C_BLOCKS_COUNT, upto)


@jit
def release(m: int, i: int, call: int) -> None:
    """Let go of a call's cached blocks, the last one first; those that nobody holds join the back of the queue."""
    blocks, idle = get(m, call + C_BLOCKS), 0
    for place in range(get(m, call + C_BLOCKS_COUNT) - 1, -1, -1):
        block = get(m, blocks + place)
        refs = get(m, block + B_REFS) - 1
        put(m, block + B_REFS, refs)
        if refs == 0:
            _append(m, i, block)
            idle += 1
    put(m, call + C_BLOCKS_COUNT, 0)
    if idle > 0:
        put(m, i + I_FREE, get(m, i + I_FREE) + idle)
        put(m, i + I_LAST_SEGMENT, 0)
