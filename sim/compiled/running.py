"""The calls that an instance runs, and what an iteration that ends leaves behind: as in ``sim.engine.replica``."""

from sim.compiled.arena import give
from sim.compiled.blocks import give_blocks, release, take_blocks
from sim.compiled.layout import (
    C_AFTER,
    C_BEFORE,
    C_BLOCKS,
    C_BLOCKS_CLASS,
    C_BLOCKS_COUNT,
    C_COMPUTED,
    C_EPOCHS,
    C_FIRST,
    C_INPUT,
    C_JOINED,
    C_NUMBER,
    C_OUTPUT,
    C_RESIDUE,
    C_TARGET,
    EPOCH_NUMBER,
    FREE,
    I_BLOCK_TOKENS,
    I_BLOCKS,
    I_BUSY,
    I_CONTEXT,
    I_DECODERS,
    I_DECODERS_LAST,
    I_DECODING,
    I_ENDS,
    I_ENDS_ROOM,
    I_ENDS_SIZE,
    I_FREE,
    I_ITERATIONS,
    I_KV_HIGH,
    I_KV_LOW,
    I_OUTSTANDING_AT,
    I_PEAK,
    I_PROMPT,
    I_RESIDUES,
    I_STARTED,
    KV_BITS,
    TAG_BITS,
)
from sim.compiled.memory import get, jit, put
from sim.compiled.runs import call_ended


@jit
def _residues_sum(m: int, i: int, begin: int, end: int) -> int:
    total, residues = 0, get(m, i + I_RESIDUES)
    for place in range(begin, end):
        total += get(m, residues + place)
    return total


@jit
def _blocks_needed(m: int, i: int, first: int, steps: int) -> int:
    """Blocks that the decoding calls need in ``steps`` iterations, the first of them being number ``first``."""
    block_tokens = get(m, i + I_BLOCK_TOKENS)
    begin = first % block_tokens
    end = begin + steps % block_tokens
    need = steps // block_tokens * get(m, i + I_DECODING) + _residues_sum(m, i, begin, min(end, block_tokens))
    if end > block_tokens:
        need += _residues_sum(m, i, 0, end - block_tokens)
    return need


@jit
def account(m: int, i: int, now: int, steps: int, decoding: int) -> None:
    """Count the time and KV blocks of the iterations that end, and take the blocks of those after the first."""
    elapsed = now - get(m, i + I_STARTED)
    used = get(m, i + I_BLOCKS) - get(m, i + I_FREE)
    high, low = elapsed >> (KV_BITS + 1), elapsed & ((1 << (KV_BITS + 1)) - 1)
    if steps > 1:
        need = _blocks_needed(m, i, get(m, i + I_ITERATIONS) + 1, steps - 1)
        if need > 0:
            take_blocks(m, i, need)
        mean = used + used + need
        high, low = mean * high, (mean * low) >> 1
        used += need
    else:
        high, low = 2 * used * high, used * low
    low += get(m, i + I_KV_LOW)
    put(m, i + I_KV_HIGH, get(m, i + I_KV_HIGH) + high + (low >> KV_BITS))
    put(m, i + I_KV_LOW, low & ((1 << KV_BITS) - 1))
    if used > get(m, i + I_PEAK):
        put(m, i + I_PEAK, used)
    put(m, i + I_BUSY, get(m, i + I_BUSY) + elapsed)
    if decoding == 0:
        put(m, i + I_PROMPT, get(m, i + I_PROMPT) + elapsed)


@jit
def drop_first_end(m: int, i: int) -> None:
    """Take the first entry out of the heap of (iteration of the last token, number, call)."""
    heap, size = get(m, i + I_ENDS), get(m, i + I_ENDS_SIZE) - 1
    put(m, i + I_ENDS_SIZE, size)
    moved = heap + 3 * size
    finish, number, call = get(m, moved), get(m, moved + 1), get(m, moved + 2)
    place = 0
    while True:
        below = 2 * place + 1
        if below >= size:
            break
        other = heap + 3 * below
        first = get(m, other)
        if below + 1 < size:
            right = get(m, other + 3)
            if right < first or (right == first and get(m, other + 4) < get(m, other + 1)):
                below += 1
                other += 3
                first = right
        if finish < first or (finish == first and number < get(m, other + 1)):
            break
        mine = heap + 3 * place
        put(m, mine, first)
        put(m, mine + 1, get(m, other + 1))
        put(m, mine + 2, get(m, other + 2))
        place = below
    mine = heap + 3 * place
    put(m, mine, finish)
    put(m, mine + 1, number)
    put(m, mine + 2, call)


@jit
def _push_end(m: int, i: int, finish: int, number: int, call: int) -> None:
    if get(m, i + I_ENDS_SIZE) >= get(m, i + I_ENDS_ROOM):
        _sweep_ends(m, i)
    heap, place = get(m, i + I_ENDS), get(m, i + I_ENDS_SIZE)
    put(m, i + I_ENDS_SIZE, place + 1)
    while place > 0:
        above = (place - 1) >> 1
        other = heap + 3 * above
        its = get(m, other)
        if its < finish or (its == finish and get(m, other + 1) < number):
            break
        mine = heap + 3 * place
        put(m, mine, its)
        put(m, mine + 1, get(m, other + 1))
        put(m, mine + 2, get(m, other + 2))
        place = above
    mine = heap + 3 * place
    put(m, mine, finish)
    put(m, mine + 1, number)
    put(m, mine + 2, call)


@jit
def _sweep_ends(m: int, i: int) -> None:
    """Forget the entries of calls that were preempted since; what is left is put in order, which is a heap as well."""
    heap, kept = get(m, i + I_ENDS), 0
    for place in range(get(m, i + I_ENDS_SIZE)):
        entry = heap + 3 * place
        finish, number, call = get(m, entry), get(m, entry + 1), get(m, entry + 2)
        if get(m, call + C_NUMBER) != number:
            continue
        at = kept
        while at > 0:
            before = heap + 3 * (at - 1)
            if get(m, before) < finish or (get(m, before) == finish and get(m, before + 1) < number):
                break
            put(m, before + 3, get(m, before))
            put(m, before + 4, get(m, before + 1))
            put(m, before + 5, get(m, before + 2))
            at -= 1
        put(m, heap + 3 * at, finish)
        put(m, heap + 3 * at + 1, number)
        put(m, heap + 3 * at + 2, call)
        kept += 1
    put(m, i + I_ENDS_SIZE, kept)


@jit
def unlink_decoder(m: int, i: int, call: int) -> None:
    """Take a call out of the list of those that decode."""
    before, after = get(m, call + C_BEFORE), get(m, call + C_AFTER)
    if before:
        put(m, before + C_AFTER, after)
    else:
        put(m, i + I_DECODERS, after)
    if after:
        put(m, after + C_BEFORE, before)
    else:
        put(m, i + I_DECODERS_LAST, before)


@jit
def stop_decoding(m: int, i: int, call: int) -> int:
    """A call has its last token, or will have it when the iteration under way ends: return the blocks that it holds."""
    put(m, i + I_DECODING, get(m, i + I_DECODING) - 1)
    residue = get(m, i + I_RESIDUES) + get(m, call + C_RESIDUE)
    put(m, residue, get(m, residue) - 1)
    total = get(m, call + C_INPUT) + get(m, call + C_OUTPUT)
    put(m, i + I_CONTEXT, get(m, i + I_CONTEXT) - total)
    unlink_decoder(m, i, call)
    block_tokens = get(m, i + I_BLOCK_TOKENS)
    return (total - 1 + block_tokens - 1) // block_tokens


@jit
def begin_decoding(m: int, i: int, call: int, left: int) -> None:
    """A call's prompt is computed, and ``left`` tokens are to come."""
    iterations, computed = get(m, i + I_ITERATIONS), get(m, call + C_TARGET)
    put(m, call + C_COMPUTED, computed)
    put(m, call + C_JOINED, iterations)
    residue = (iterations - computed) % get(m, i + I_BLOCK_TOKENS)
    put(m, call + C_RESIDUE, residue)
    residue += get(m, i + I_RESIDUES)
    put(m, residue, get(m, residue) + 1)
    put(m, i + I_DECODING, get(m, i + I_DECODING) + 1)
    put(m, i + I_CONTEXT, get(m, i + I_CONTEXT) + computed + 1)
    last = get(m, i + I_DECODERS_LAST)
    put(m, call + C_BEFORE, last)
    put(m, call + C_AFTER, 0)
    if last:
        put(m, last + C_AFTER, call)
    else:
        put(m, i + I_DECODERS, call)
    put(m, i + I_DECODERS_LAST, call)
    _push_end(m, i, iterations + left, get(m, call + C_NUMBER), call)


@jit
def _let_go(m: int, i: int, call: int, held: int) -> None:
    """Return a call's blocks."""
    count = get(m, call + C_BLOCKS_COUNT)
    give_blocks(m, i, held - count)
    if count > 0:
        release(m, i, call)
    drop_list(m, call)


@jit
def drop_list(m: int, call: int) -> None:
    """Give back the list of a call's cached blocks."""
    if get(m, call + C_BLOCKS):
        give(m, FREE, get(m, call + C_BLOCKS), get(m, call + C_BLOCKS_CLASS))
        put(m, call + C_BLOCKS, 0)


@jit
def leave(m: int, i: int, call: int, held: int) -> bool:
    """A call that holds ``held`` blocks is done; false: one that it causes can never fit."""
    _let_go(m, i, call, held)
    put(m, call + C_NUMBER, -1)
    counter = get(m, i + I_OUTSTANDING_AT)
    put(m, counter, get(m, counter) - 1)
    return call_ended(m, call)


@jit
def first_token(m: int, call: int, now: int) -> None:
    """Write down when it came out."""
    put(m, call + C_FIRST, now)
    put(m, call + C_EPOCHS, get(m, call + C_EPOCHS) | (get(m, EPOCH_NUMBER) << (2 * TAG_BITS)))
