"""One engine instance: ends iterations and schedules the next, as in ``sim.engine.replica``, function by function."""

import numpy as np

from sim.compiled.arena import class_of, give, take
from sim.compiled.blocks import cache, find, give_blocks, give_own, hold, reclaim, release, take_blocks
from sim.compiled.contention import promised, slowdown, slowdown_after
from sim.compiled.entrance import set_end, switch, wake
from sim.compiled.events import busy_now
from sim.compiled.layout import (
    ADMITTED,
    C_AFTER,
    C_BEFORE,
    C_BLOCKS,
    C_BLOCKS_CLASS,
    C_BLOCKS_COUNT,
    C_CACHED,
    C_COMPUTED,
    C_EMITTED,
    C_EPOCHS,
    C_FIRST,
    C_HELD,
    C_INPUT,
    C_JOINED,
    C_KEYS,
    C_NEXT,
    C_NUMBER,
    C_OUTPUT,
    C_OWN,
    C_OWN_FULL,
    C_PREEMPTIONS,
    C_RESIDUE,
    C_SCHEDULED,
    C_TARGET,
    CAPACITY,
    EPOCH_NUMBER,
    ERROR_PLACE,
    FREE,
    I_ALARM,
    I_ATTENTION,
    I_BASE,
    I_BATCH_RANGE,
    I_BLOCK_TOKENS,
    I_BLOCKS,
    I_BUSY,
    I_CACHING,
    I_CONTEXT,
    I_CONTEXT_COST,
    I_DECODE,
    I_DECODE_K,
    I_DECODE_LARGE_K,
    I_DECODERS,
    I_DECODERS_LAST,
    I_DECODING,
    I_DRAWS,
    I_ENDS,
    I_ENDS_ROOM,
    I_ENDS_SIZE,
    I_EXTRA,
    I_FINISHING,
    I_FINISHING_COUNT,
    I_FINISHING_LAST,
    I_FIRST,
    I_FREE,
    I_GROWTH,
    I_ITERATIONS,
    I_KV_HIGH,
    I_KV_LOW,
    I_LOW_BATCH,
    I_MAX_SEQS,
    I_MAX_TOKENS,
    I_OUTSTANDING_AT,
    I_PARTIAL,
    I_PEAK,
    I_PREEMPTIONS,
    I_PREFILL,
    I_PREFILL_FACTOR,
    I_PREFILL_SMALL_FACTOR,
    I_PREFILL_TOKENS,
    I_PREFILLED,
    I_PROMPT,
    I_RESIDUES,
    I_SHARED,
    I_SLOW,
    I_SPAN,
    I_STARTED,
    I_WAITING,
    I_WAKING,
    KV_BITS,
    LONGEST,
    NOW,
    SEG_COUNT,
    TAG_BITS,
)
from sim.compiled.memory import get, getf, jit, put, putf
from sim.compiled.queues import peek, push_front, take_call
from sim.compiled.runs import call_ended

TICKS_PER_S = 1e15
OK, NEVER_FITS_HERE, STUCK, SPAN_TOO_LONG = range(4)

# ---- how long iterations take ----------------------------------------------------------------------------------------


@jit
def _decode_factor(m: int, i: int, sequences: int) -> float:
    """``ShareLaw.decode_factor``."""
    weight = min(max((sequences - getf(m, i + I_LOW_BATCH)) / getf(m, i + I_BATCH_RANGE), 0.0), 1.0)
    k = getf(m, i + I_DECODE_K)
    k = k + (getf(m, i + I_DECODE_LARGE_K) - k) * weight
    return 1.0 + k * getf(m, i + I_EXTRA)


@jit
def _decode_ticks(m: int, i: int, sequences: int, slow: float) -> tuple[int, int]:
    """``Costs.slowed``: ticks of a decode iteration without context, and per token of context."""
    factor = _decode_factor(m, i, sequences) * slow
    fixed = np.rint(factor * (getf(m, i + I_BASE) + getf(m, i + I_DECODE) * sequences) * TICKS_PER_S)
    return max(1, int(fixed)), int(np.rint(factor * getf(m, i + I_CONTEXT_COST) * TICKS_PER_S))


@jit
def _mixed_ticks(m: int, i: int, tokens: int, area: float, sequences: int, context: int, slow: float) -> int:
    """``Costs.mixed``."""
    base = getf(m, i + I_BASE)
    prefill = getf(m, i + I_PREFILL) * tokens + getf(m, i + I_ATTENTION) * area
    if tokens >= get(m, i + I_PREFILL_TOKENS):
        factor = getf(m, i + I_PREFILL_FACTOR)
    else:
        factor = getf(m, i + I_PREFILL_SMALL_FACTOR)
    if sequences == 0:
        return max(1, int(np.rint(factor * (base + prefill) * TICKS_PER_S)))
    decode = base + getf(m, i + I_DECODE) * sequences + getf(m, i + I_CONTEXT_COST) * context
    total = _decode_factor(m, i, sequences) * slow * decode + factor * prefill
    return max(1, int(np.rint(total * TICKS_PER_S)))


@jit
def _work(m: int, i: int, tokens: int, area: float) -> int:
    """``Costs.work``."""
    capacity = getf(m, CAPACITY)
    if capacity == 0.0:
        return 0
    prefill = getf(m, i + I_PREFILL) * tokens + getf(m, i + I_ATTENTION) * area
    return int(np.rint(prefill / capacity * TICKS_PER_S))


# ---- the end of an iteration or a span -------------------------------------------------------------------------------


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
def _account(m: int, i: int, now: int, steps: int, decoding: int) -> None:
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
def _drop_first_end(m: int, i: int) -> None:
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
def _unlink_decoder(m: int, i: int, call: int) -> None:
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
def _stop_decoding(m: int, i: int, call: int) -> int:
    """A call has its last token, or will have it when the iteration under way ends: return the blocks that it holds."""
    put(m, i + I_DECODING, get(m, i + I_DECODING) - 1)
    residue = get(m, i + I_RESIDUES) + get(m, call + C_RESIDUE)
    put(m, residue, get(m, residue) - 1)
    total = get(m, call + C_INPUT) + get(m, call + C_OUTPUT)
    put(m, i + I_CONTEXT, get(m, i + I_CONTEXT) - total)
    _unlink_decoder(m, i, call)
    block_tokens = get(m, i + I_BLOCK_TOKENS)
    return (total - 1 + block_tokens - 1) // block_tokens


@jit
def _begin_decoding(m: int, i: int, call: int, left: int) -> None:
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
    _drop_list(m, call)


@jit
def _drop_list(m: int, call: int) -> None:
    if get(m, call + C_BLOCKS):
        give(m, FREE, get(m, call + C_BLOCKS), get(m, call + C_BLOCKS_CLASS))
        put(m, call + C_BLOCKS, 0)


@jit
def _leave(m: int, i: int, call: int, held: int) -> bool:
    _let_go(m, i, call, held)
    put(m, call + C_NUMBER, -1)
    counter = get(m, i + I_OUTSTANDING_AT)
    put(m, counter, get(m, counter) - 1)
    return call_ended(m, call)


@jit
def on_end(m: int, i: int) -> int:
    """The current iteration or span ends."""
    put(m, i + I_ALARM, -1)
    now = get(m, NOW)
    steps, decoding = max(get(m, i + I_SPAN), 1), get(m, i + I_DECODING)
    _account(m, i, now, steps, decoding)
    iterations = get(m, i + I_ITERATIONS) + steps
    put(m, i + I_ITERATIONS, iterations)
    put(m, i + I_CONTEXT, get(m, i + I_CONTEXT) + decoding * steps)
    put(m, i + I_SPAN, 0)
    heap = get(m, i + I_ENDS)
    while get(m, i + I_ENDS_SIZE) > 0 and get(m, heap) == iterations:
        number, call = get(m, heap + 1), get(m, heap + 2)
        _drop_first_end(m, i)
        if get(m, call + C_NUMBER) == number and not _leave(m, i, call, _stop_decoding(m, i, call)):
            return NEVER_FITS_HERE
    call = get(m, i + I_FINISHING)
    put(m, i + I_FINISHING, 0)
    put(m, i + I_FINISHING_COUNT, 0)
    while call:
        following = get(m, call + C_NEXT)
        emitted = get(m, call + C_EMITTED) + 1
        put(m, call + C_EMITTED, emitted)
        if get(m, call + C_FIRST) < 0:
            _first_token(m, call, now)
        left = get(m, call + C_OUTPUT) - emitted
        if left > 0:
            _begin_decoding(m, i, call, left)
        elif not _leave(m, i, call, get(m, call + C_HELD)):
            return NEVER_FITS_HERE
        call = following
    if busy_now(m):
        wake(m, i)
        return OK
    return schedule(m, i)


@jit
def _first_token(m: int, call: int, now: int) -> None:
    put(m, call + C_FIRST, now)
    put(m, call + C_EPOCHS, get(m, call + C_EPOCHS) | (get(m, EPOCH_NUMBER) << (2 * TAG_BITS)))


# ---- the start of an iteration or a span -----------------------------------------------------------------------------


@jit
def on_wake(m: int, i: int) -> int:
    """Everything else of this instant has happened."""
    put(m, i + I_WAKING, 0)
    return schedule(m, i) if get(m, i + I_ALARM) < 0 else OK


@jit
def schedule(m: int, i: int) -> int:
    """Start the next iteration or span, if there is anything to do."""
    while True:
        tokens, area, preempted = _fill(m, i)
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
def _fill(m: int, i: int) -> tuple[int, float, bool]:
    """Schedule the next iteration: its prompt tokens, Σ of the tokens before each, and whether a call was preempted."""
    preempted = False
    need = get(m, get(m, i + I_RESIDUES) + get(m, i + I_ITERATIONS) % get(m, i + I_BLOCK_TOKENS))
    if need > 0:
        if need > get(m, i + I_FREE):
            _make_room(m, i)
            preempted = True
        else:
            take_blocks(m, i, need)
    tokens, area = 0, 0.0
    if get(m, i + I_PARTIAL):
        tokens, area = _continue_partial(m, i, get(m, i + I_MAX_TOKENS) - get(m, i + I_DECODING))
        preempted = preempted or tokens == 0
    if get(m, i + I_WAITING) > 0 and not preempted:
        more, more_area = _admit(m, i, get(m, i + I_MAX_TOKENS) - get(m, i + I_DECODING) - tokens)
        tokens += more
        area += more_area
    return tokens, area, preempted


@jit
def _begin_mixed(m: int, i: int, decoding: int, tokens: int, area: float) -> None:
    slow = slowdown(m, i) if decoding > 0 and get(m, i + I_SHARED) else 1.0
    length = _mixed_ticks(m, i, tokens, area, decoding, get(m, i + I_CONTEXT), slow)
    if get(m, i + I_SHARED):
        length = promised(m, i, length, _work(m, i, tokens, area))
    put(m, i + I_PREFILLED, get(m, i + I_PREFILLED) + tokens)
    put(m, i + I_STARTED, get(m, NOW))
    put(m, i + I_SPAN, 0)
    set_end(m, i, length)
    if (1 if decoding > 0 else 0) != get(m, i + I_DRAWS):
        switch(m, i)


@jit
def _begin_span(m: int, i: int, decoding: int, preempted: bool) -> int:
    steps = 1 if preempted else _steps_to_go(m, i, decoding)
    if get(m, i + I_DRAWS) == 0:
        switch(m, i)
    slow = 1.0
    if get(m, i + I_SHARED):
        slow = slowdown(m, i)
        if slow != slowdown_after(m, i):
            steps = 1
        putf(m, i + I_SLOW, slow)
    fixed, per_token = _decode_ticks(m, i, decoding, slow)
    first, growth = fixed + per_token * get(m, i + I_CONTEXT), per_token * decoding
    put(m, i + I_FIRST, first)
    put(m, i + I_GROWTH, growth)
    put(m, i + I_STARTED, get(m, NOW))
    put(m, i + I_SPAN, steps)
    if float(steps) * first + float(growth) * steps * steps / 2 > float(LONGEST):
        put(m, ERROR_PLACE, i)
        return SPAN_TOO_LONG
    set_end(m, i, steps * first + growth * ((steps * (steps - 1)) >> 1))
    return OK


@jit
def _steps_to_go(m: int, i: int, decoding: int) -> int:
    """Iterations until the first decoding call ends or KV blocks are short."""
    heap = get(m, i + I_ENDS)
    while get(m, get(m, heap + 2) + C_NUMBER) != get(m, heap + 1):  # preempted since
        _drop_first_end(m, i)
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


# ---- admission -------------------------------------------------------------------------------------------------------


@jit
def _finishes(m: int, i: int, call: int) -> None:
    """The call's prompt is complete at the end of this iteration."""
    put(m, call + C_NEXT, 0)
    if get(m, i + I_FINISHING):
        put(m, get(m, i + I_FINISHING_LAST) + C_NEXT, call)
    else:
        put(m, i + I_FINISHING, call)
    put(m, i + I_FINISHING_LAST, call)
    put(m, i + I_FINISHING_COUNT, get(m, i + I_FINISHING_COUNT) + 1)


@jit
def _continue_partial(m: int, i: int, budget: int) -> tuple[int, float]:
    """Schedule the next chunk of the prompt under way; no tokens when its blocks do not fit and it was preempted."""
    call = get(m, i + I_PARTIAL)
    target, computed, block_tokens = get(m, call + C_TARGET), get(m, call + C_COMPUTED), get(m, i + I_BLOCK_TOKENS)
    chunk = min(target - computed, budget)
    end = computed + chunk
    more = (end + block_tokens - 1) // block_tokens - get(m, call + C_HELD)
    if more > get(m, i + I_FREE):
        _preempt(m, i, call, computed, get(m, call + C_EMITTED))
        return 0, 0.0
    take_blocks(m, i, more)
    _extend(m, i, call, end)
    if end == target:
        put(m, i + I_PARTIAL, 0)
        _finishes(m, i, call)
    return chunk, chunk * (2 * end - chunk) / 2


@jit
def _admit(m: int, i: int, budget: int) -> tuple[int, float]:
    """Admit waiting calls in order while they fit; return the prompt tokens scheduled and Σ of the tokens before each."""
    tokens, area = 0, 0.0
    block_tokens, caching = get(m, i + I_BLOCK_TOKENS), get(m, i + I_CACHING)
    room = get(m, i + I_MAX_SEQS) - get(m, i + I_DECODING) - get(m, i + I_FINISHING_COUNT)
    if get(m, i + I_PARTIAL):
        room -= 1
    while room > 0 and budget > 0 and get(m, i + I_WAITING) > 0:
        call = peek(m, i)
        target = get(m, call + C_INPUT) + get(m, call + C_EMITTED)
        full = (target + block_tokens - 1) // block_tokens
        hit, keys = 0, get(m, call + C_KEYS)
        put(m, call + C_BLOCKS, 0)
        put(m, call + C_BLOCKS_COUNT, 0)
        if caching and (keys > 0 or get(m, call + C_OWN)):
            hit = _reuse(m, i, call, target, full)
            if hit < 0:
                break
        elif full > get(m, i + I_FREE):
            break
        take_call(m, i)
        number = get(m, ADMITTED) + 1
        put(m, ADMITTED, number)
        put(m, call + C_NUMBER, number)
        put(m, call + C_TARGET, target)
        if get(m, call + C_SCHEDULED) < 0:
            put(m, call + C_SCHEDULED, get(m, NOW))
            put(m, call + C_EPOCHS, get(m, call + C_EPOCHS) | (get(m, EPOCH_NUMBER) << TAG_BITS))
            put(m, call + C_CACHED, hit)
        end = target if target - hit <= budget else hit + budget
        held = full if end == target else (end + block_tokens - 1) // block_tokens
        take_blocks(m, i, held - hit // block_tokens)
        if keys > 0:
            _extend(m, i, call, end)
        else:
            put(m, call + C_HELD, held)
            put(m, call + C_COMPUTED, end)
        tokens += end - hit
        area += (end - hit) * (end + hit) / 2
        budget -= end - hit
        room -= 1
        if end == target:
            _finishes(m, i, call)
        else:
            put(m, i + I_PARTIAL, call)
    return tokens, area


@jit
def _reuse(m: int, i: int, call: int, target: int, full: int) -> int:
    """Hold the blocks that the prefix cache has; return their tokens, or −1 when the whole sequence would not fit."""
    block_tokens, keys = get(m, i + I_BLOCK_TOKENS), get(m, call + C_KEYS)
    limit = (target - 1) // block_tokens  # the last token is always computed: its logits are needed
    blocks = size_class = found = in_use = 0
    if keys > 0:
        size_class = class_of(keys)
        blocks = take(m, FREE, size_class)
        found, in_use = find(m, i, call, limit, blocks)
    own, segment = 0, get(m, call + C_OWN)
    if segment and found == keys:
        own = min(get(m, segment + SEG_COUNT), limit - found, get(m, call + C_OWN_FULL))
    if full - in_use > get(m, i + I_FREE):
        if keys > 0:
            give(m, FREE, blocks, size_class)
        return -1
    hold(m, i, blocks, found)
    if segment:
        reclaim(m, i, segment, own)
        put(m, call + C_OWN, 0)
    put(m, call + C_BLOCKS, blocks)
    put(m, call + C_BLOCKS_COUNT, found)
    put(m, call + C_BLOCKS_CLASS, size_class)
    return (found + own) * block_tokens


@jit
def _extend(m: int, i: int, call: int, end: int) -> None:
    """Prompt tokens up to ``end`` are scheduled: their full blocks with a known prefix enter the cache at once."""
    block_tokens = get(m, i + I_BLOCK_TOKENS)
    put(m, call + C_HELD, (end + block_tokens - 1) // block_tokens)
    put(m, call + C_COMPUTED, end)
    if get(m, call + C_KEYS) > 0 and get(m, i + I_CACHING):
        upto = min(end // block_tokens, get(m, call + C_KEYS))
        if get(m, call + C_BLOCKS_COUNT) < upto:
            cache(m, i, call, upto)


# ---- preemption ------------------------------------------------------------------------------------------------------


@jit
def _make_room(m: int, i: int) -> None:
    """Give each decoding call its block in order of admission, preempting the most recent calls while none is free."""
    residue = get(m, i + I_ITERATIONS) % get(m, i + I_BLOCK_TOKENS)
    call = get(m, i + I_DECODERS)
    while call:
        if get(m, call + C_RESIDUE) == residue:
            while get(m, i + I_FREE) == 0:
                if _preempt_last(m, i) == call:
                    return
            take_blocks(m, i, 1)
        call = get(m, call + C_AFTER)


@jit
def _preempt_last(m: int, i: int) -> int:
    """Preempt the most recently admitted call: the prompt under way, else the last that decodes."""
    victim = get(m, i + I_PARTIAL)
    if victim:
        _preempt(m, i, victim, get(m, victim + C_COMPUTED), get(m, victim + C_EMITTED))
        return victim
    victim = get(m, i + I_DECODERS_LAST)
    computed = get(m, victim + C_COMPUTED) + get(m, i + I_ITERATIONS) - get(m, victim + C_JOINED)
    _preempt(m, i, victim, computed, computed - get(m, victim + C_INPUT) + 1)
    return victim


@jit
def _preempt(m: int, i: int, call: int, computed: int, emitted: int) -> None:
    """Free a call's blocks and put it at the front of the queue, to be computed again with what it has emitted."""
    block_tokens, keyed = get(m, i + I_BLOCK_TOKENS), get(m, call + C_BLOCKS_COUNT)
    if call == get(m, i + I_PARTIAL):
        put(m, i + I_PARTIAL, 0)
    else:
        put(m, i + I_DECODING, get(m, i + I_DECODING) - 1)
        residue = get(m, i + I_RESIDUES) + get(m, call + C_RESIDUE)
        put(m, residue, get(m, residue) - 1)
        put(m, i + I_CONTEXT, get(m, i + I_CONTEXT) - computed - 1)
        _unlink_decoder(m, i, call)
    private = (computed + block_tokens - 1) // block_tokens - keyed
    if get(m, i + I_CACHING):
        put(m, call + C_OWN, give_own(m, i, private))
        put(m, call + C_OWN_FULL, computed // block_tokens - keyed)
    else:
        give_blocks(m, i, private)
    release(m, i, call)
    _drop_list(m, call)
    put(m, call + C_NUMBER, -1)
    put(m, call + C_EMITTED, emitted)
    put(m, call + C_PREEMPTIONS, get(m, call + C_PREEMPTIONS) + 1)
    put(m, i + I_PREEMPTIONS, get(m, i + I_PREEMPTIONS) + 1)
    push_front(m, i, call)
