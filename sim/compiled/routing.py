"""Which instance takes a call, as in ``sim.policies.routers``."""

from sim.compiled.layout import (
    AFFINITY,
    C_INPUT,
    HASH_AFFINITY,
    HOMES,
    I_BLOCK_TOKENS,
    I_BLOCKS,
    I_CREDIT,
    I_FREE,
    I_WAITING_TOKENS,
    I_WEIGHT,
    L_COUNT,
    L_INSTANCES_AT,
    L_NEXT,
    L_OUTSTANDING_AT,
    L_PAIRS,
    L_PAIRS_AT,
    LEAST_KV_LOAD,
    PLAS_ROUTER,
    POWER_OF_TWO,
    R_TEMPLATE,
    R_WORDS,
    ROUND_ROBIN,
    ROUTER,
    SESSION_HOMES,
    T_SESSION,
    TEMPLATES,
    WEIGHTED,
)
from sim.compiled.memory import get, jit, put

SHORT_TOKENS = 2_048
"""``sim.policies.plas.SHORT_TOKENS``; a test holds them together."""


@jit
def _least_outstanding(m: int, llm: int) -> int:
    counts, best = get(m, llm + L_OUTSTANDING_AT), 0
    fewest = get(m, counts)
    for place in range(1, get(m, llm + L_COUNT)):
        count = get(m, counts + place)
        if count < fewest:
            best, fewest = place, count
    return best


@jit
def _kv_load(m: int, i: int) -> float:
    total = get(m, i + I_BLOCKS)
    return (total - get(m, i + I_FREE) + get(m, i + I_WAITING_TOKENS) / get(m, i + I_BLOCK_TOKENS)) / total


@jit
def _emptiest(m: int, llm: int) -> int:
    list_at, best = get(m, llm + L_INSTANCES_AT), 0
    smallest = _kv_load(m, get(m, list_at))
    for place in range(1, get(m, llm + L_COUNT)):
        load = _kv_load(m, get(m, list_at + place))
        if load < smallest:
            best, smallest = place, load
    return best


@jit
def _weighted(m: int, llm: int) -> int:
    list_at, best, total = get(m, llm + L_INSTANCES_AT), 0, 0
    most = 0
    for place in range(get(m, llm + L_COUNT)):
        i = get(m, list_at + place)
        credit = get(m, i + I_CREDIT) + get(m, i + I_WEIGHT)
        put(m, i + I_CREDIT, credit)
        total += get(m, i + I_WEIGHT)
        if place == 0 or credit > most:
            best, most = place, credit
    chosen = get(m, list_at + best)
    put(m, chosen + I_CREDIT, most - total)
    return best


@jit
def _of_two(m: int, llm: int) -> int:
    if get(m, llm + L_COUNT) == 1:
        return 0
    at = get(m, llm + L_PAIRS_AT)
    put(m, llm + L_PAIRS_AT, at + 1)
    pairs, counts = get(m, llm + L_PAIRS), get(m, llm + L_OUTSTANDING_AT)
    a, b = get(pairs, 2 * at), get(pairs, 2 * at + 1)
    if a > b:
        a, b = b, a
    return b if get(m, counts + b) < get(m, counts + a) else a


@jit
def _at_home(m: int, llm: int, number: int, run: int) -> int:
    """Where the session, or else the run, went first: there the least loaded took it."""
    session = get(get(m, TEMPLATES), get(m, run + R_TEMPLATE) + T_SESSION)
    if session >= 0 and get(m, ROUTER) == AFFINITY:
        table, place = get(m, SESSION_HOMES), session * get(m, HOMES) + number
        if get(table, place) < 0:
            put(table, place, _least_outstanding(m, llm))
        return get(table, place)
    home = get(m, run + R_WORDS + number)
    if home < 0:
        home = _least_outstanding(m, llm)
        put(m, run + R_WORDS + number, home)
    return home


@jit
def choose(m: int, llm: int, number: int, run: int, call: int) -> int:
    """The instance for a call: ``llm`` is its LLM's record, ``number`` its number."""
    router = get(m, ROUTER)
    if router == ROUND_ROBIN:
        place = get(m, llm + L_NEXT)
        put(m, llm + L_NEXT, place + 1 if place + 1 < get(m, llm + L_COUNT) else 0)
    elif router == LEAST_KV_LOAD:
        place = _emptiest(m, llm)
    elif router == WEIGHTED:
        place = _weighted(m, llm)
    elif router == POWER_OF_TWO:
        place = _of_two(m, llm)
    elif router == HASH_AFFINITY:
        place = get(m, run + R_WORDS + number)
    elif router == AFFINITY or (router == PLAS_ROUTER and get(m, call + C_INPUT) > SHORT_TOKENS):
        place = _at_home(m, llm, number, run)
    else:
        place = _least_outstanding(m, llm)
    return get(m, get(m, llm + L_INSTANCES_AT) + place)
