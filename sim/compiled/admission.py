"""What runs in the next iteration: blocks for decoding calls, prompts, preemption; as in ``sim.engine.replica``."""

from sim.compiled.arena import class_of, give, take
from sim.compiled.blocks import cache, find, give_blocks, give_own, hold, reclaim, release, take_blocks
from sim.compiled.layout import (
    ADMITTED,
    C_AFTER,
    C_BLOCKS,
    C_BLOCKS_CLASS,
    C_BLOCKS_COUNT,
    C_CACHED,
    C_COMPUTED,
    C_EMITTED,
    C_EPOCHS,
    C_HELD,
    C_INPUT,
    C_JOINED,
    C_KEYS,
    C_NEXT,
    C_NUMBER,
    C_OWN,
    C_OWN_FULL,
    C_PREEMPTIONS,
    C_RESIDUE,
    C_SCHEDULED,
    C_TARGET,
    EPOCH_NUMBER,
    FREE,
    I_AHEAD,
    I_BLOCK_TOKENS,
    I_CACHING,
    I_CONTEXT,
    I_DECODERS,
    I_DECODERS_LAST,
    I_DECODING,
    I_FINISHING,
    I_FINISHING_COUNT,
    I_FINISHING_LAST,
    I_FREE,
    I_ITERATIONS,
    I_LEAVING,
    I_LEAVING_SIZE,
    I_MAX_SEQS,
    I_MAX_TOKENS,
    I_PARTIAL,
    I_PREEMPTIONS,
    I_RESIDUES,
    I_WAITING,
    LEAVING_WORDS,
    NOW,
    SEG_COUNT,
    TAG_BITS,
)
from sim.compiled.memory import get, jit, put
from sim.compiled.queues import peek, push_front, take_call
from sim.compiled.running import drop_list, unlink_decoder


@jit
def fill(m: int, i: int) -> tuple[int, float, bool]:
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
    room -= get(m, i + I_LEAVING_SIZE)  # they keep their place until they are out
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
def _last_leaving(m: int, i: int) -> int:
    """The most recently admitted of the calls about to leave that hold blocks; 0: there is none."""
    first, found, latest = get(m, i + I_LEAVING), 0, -1
    for place in range(get(m, i + I_LEAVING_SIZE)):
        entry = first + LEAVING_WORDS * place
        number = get(m, get(m, entry) + C_NUMBER)
        if get(m, entry + 1) >= 0 and number > latest:
            found, latest = entry, number
    return found


@jit
def _preempt_leaving(m: int, i: int, entry: int) -> int:
    """Take the blocks of a call whose last token is under way: it leaves at the end of this iteration all the same."""
    call, held = get(m, entry), get(m, entry + 1)
    give_blocks(m, i, held - get(m, call + C_BLOCKS_COUNT))
    release(m, i, call)
    drop_list(m, call)
    put(m, call + C_PREEMPTIONS, get(m, call + C_PREEMPTIONS) + 1)
    put(m, i + I_PREEMPTIONS, get(m, i + I_PREEMPTIONS) + 1)
    put(m, entry + 1, -1)
    return call


@jit
def _preempt_last(m: int, i: int) -> int:
    """Preempt the most recently admitted call: the prompt under way, else the last that decodes or is about to leave."""
    victim = get(m, i + I_PARTIAL)
    if victim == 0:
        leaving = _last_leaving(m, i)
        if leaving and get(m, get(m, leaving) + C_NUMBER) > get(m, get(m, i + I_DECODERS_LAST) + C_NUMBER):
            return _preempt_leaving(m, i, leaving)
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
    full = computed // block_tokens - keyed
    if get(m, i + I_AHEAD) and call != get(m, i + I_PARTIAL) and get(m, call + C_JOINED) < get(m, i + I_ITERATIONS):
        full -= computed % block_tokens == 0  # the token that fills this block is under way, and not known yet
    if call == get(m, i + I_PARTIAL):
        put(m, i + I_PARTIAL, 0)
    else:
        put(m, i + I_DECODING, get(m, i + I_DECODING) - 1)
        residue = get(m, i + I_RESIDUES) + get(m, call + C_RESIDUE)
        put(m, residue, get(m, residue) - 1)
        put(m, i + I_CONTEXT, get(m, i + I_CONTEXT) - computed - 1)
        unlink_decoder(m, i, call)
    private = (computed + block_tokens - 1) // block_tokens - keyed
    if get(m, i + I_CACHING):
        put(m, call + C_OWN, give_own(m, i, private))
        put(m, call + C_OWN_FULL, full)
    else:
        give_blocks(m, i, private)
    release(m, i, call)
    drop_list(m, call)
    put(m, call + C_NUMBER, -1)
    put(m, call + C_EMITTED, emitted)
    put(m, call + C_PREEMPTIONS, get(m, call + C_PREEMPTIONS) + 1)
    put(m, i + I_PREEMPTIONS, get(m, i + I_PREEMPTIONS) + 1)
    push_front(m, i, call)
