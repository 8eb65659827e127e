"""What the instances of a GPU do to each other, as in ``sim.engine.gpu``."""

from sim.compiled.layout import (
    COMPENSATED,
    G_BEFORE,
    G_CHANGED_AT,
    G_DEMANDS_AT,
    G_INTERFERENCE,
    G_MASK,
    G_PROMISES,
    G_PROMISES_AT,
    G_TENANTS,
    G_WORKED_UNTIL,
    I_PLACES,
    I_PLACES_AT,
    NOW,
)
from sim.compiled.memory import get, getf, jit, put


@jit
def _others(m: int, gpu: int, mask: int, number: int) -> float:
    """Bandwidth that the other instances of ``mask`` draw, summed as Python sums."""
    demands = get(m, gpu + G_DEMANDS_AT)
    total = lost = 0.0
    for tenant in range(get(m, gpu + G_TENANTS)):
        if tenant == number or not (mask >> tenant) & 1:
            continue
        demand = getf(m, demands + tenant)
        after = total + demand
        if get(m, COMPENSATED):  # Neumaier 1974, as in CPython's sum
            lost += (total - after) + demand if abs(total) >= abs(demand) else (demand - after) + total
        total = after
    return total + lost


@jit
def _factor(m: int, gpu: int, mask: int, number: int) -> float:
    """``ContentionLaw.slowdown`` of one instance beside those of ``mask``."""
    others = _others(m, gpu, mask, number)
    if others <= 0.0:
        return 1.0
    own = getf(m, get(m, gpu + G_DEMANDS_AT) + number)
    return max(1.0 + getf(m, gpu + G_INTERFERENCE) * others, own + others)


@jit
def slowdown(m: int, i: int) -> float:
    """Factor on a decode step that starts now; of a tensor-parallel group's GPUs the slowest counts."""
    worst, places = 0.0, get(m, i + I_PLACES_AT)
    for place in range(get(m, i + I_PLACES)):
        gpu = get(m, places + 2 * place)
        mask = get(m, gpu + G_BEFORE) if get(m, gpu + G_CHANGED_AT) == get(m, NOW) else get(m, gpu + G_MASK)
        worst = max(worst, _factor(m, gpu, mask, get(m, places + 2 * place + 1)))
    return worst


@jit
def slowdown_after(m: int, i: int) -> float:
    """The same for iterations that start later."""
    worst, places = 0.0, get(m, i + I_PLACES_AT)
    for place in range(get(m, i + I_PLACES)):
        gpu = get(m, places + 2 * place)
        worst = max(worst, _factor(m, gpu, get(m, gpu + G_MASK), get(m, places + 2 * place + 1)))
    return worst


@jit
def switch_gpus(m: int, i: int) -> None:
    """The instance begins or stops decoding, from just after now."""
    places, now = get(m, i + I_PLACES_AT), get(m, NOW)
    for place in range(get(m, i + I_PLACES)):
        gpu = get(m, places + 2 * place)
        if get(m, gpu + G_CHANGED_AT) != now:
            put(m, gpu + G_BEFORE, get(m, gpu + G_MASK))
            put(m, gpu + G_CHANGED_AT, now)
        put(m, gpu + G_MASK, get(m, gpu + G_MASK) ^ (1 << get(m, places + 2 * place + 1)))


# ---- the compute budget, as in ``sim.engine.budget`` -----------------------------------------------------------------


@jit
def _work_off(m: int, gpu: int) -> None:
    """The GPU has worked on until now, on the promise with the earliest end; those done are gone."""
    now, promises = get(m, NOW), get(m, gpu + G_PROMISES_AT)
    elapsed, left = now - get(m, gpu + G_WORKED_UNTIL), 0
    for place in range(get(m, gpu + G_PROMISES)):
        promise, kept = promises + 3 * place, promises + 3 * left
        work = get(m, promise + 2)
        if work <= elapsed:
            elapsed -= work
            continue
        put(m, kept, get(m, promise))
        put(m, kept + 1, get(m, promise + 1))
        put(m, kept + 2, work - elapsed)
        elapsed = 0
        left += 1
    put(m, gpu + G_PROMISES, left)
    put(m, gpu + G_WORKED_UNTIL, now)


@jit
def _earliest_end(m: int, gpu: int, floor: int, work: int) -> int:
    """When an iteration that starts now can end, at ``floor`` or later, so that all earlier promises are kept."""
    _work_off(m, gpu)
    promises, done_by = get(m, gpu + G_PROMISES_AT), get(m, NOW) + work
    last = done_by
    for place in range(get(m, gpu + G_PROMISES)):
        done_by += get(m, promises + 3 * place + 2)
        if done_by > get(m, promises + 3 * place):
            last = done_by
    return max(floor, last)


@jit
def _promise(m: int, gpu: int, tenant: int, end: int, work: int) -> None:
    """Enter a promise where it belongs by (end, tenant)."""
    promises, place = get(m, gpu + G_PROMISES_AT), get(m, gpu + G_PROMISES)
    put(m, gpu + G_PROMISES, place + 1)
    while place > 0:
        before = promises + 3 * (place - 1)
        if get(m, before) < end or (get(m, before) == end and get(m, before + 1) < tenant):
            break
        put(m, before + 3, get(m, before))
        put(m, before + 4, get(m, before + 1))
        put(m, before + 5, get(m, before + 2))
        place -= 1
    put(m, promises + 3 * place, end)
    put(m, promises + 3 * place + 1, tenant)
    put(m, promises + 3 * place + 2, work)


@jit
def promised(m: int, i: int, length: int, work: int) -> int:
    """How long an iteration takes that starts now and would take ``length`` ticks beside nobody computing."""
    if work == 0:
        return length
    end, places = get(m, NOW) + length, get(m, i + I_PLACES_AT)
    for place in range(get(m, i + I_PLACES)):
        end = _earliest_end(m, get(m, places + 2 * place), end, work)
    for place in range(get(m, i + I_PLACES)):
        _promise(m, get(m, places + 2 * place), get(m, places + 2 * place + 1), end, work)
    return end - get(m, NOW)
