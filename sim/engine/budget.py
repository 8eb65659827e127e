"""A GPU's compute budget: instances on one GPU never finish more prompt work than the whole GPU could.

A share law says how long a prompt takes at a share of the SMs when nobody else is there. Summed over a full GPU those speeds
exceed the GPU's own (ten shares of 10 % at k = 0.69 come to 1.39 GPUs). So they hold only while the others leave room.

**The rule.** An iteration with prompt tokens starts at ``now``. Its *work* is the time that a whole GPU would compute on its
prompt tokens (no launch or host time: that part of a step overlaps). It ends at its *floor*, the time it takes at its share
beside nobody who computes, unless the GPU cannot have done the work by then; in that case it ends as soon as the GPU
could have done it *and* everything promised before. The end is fixed at the start and never moved. It is the GPU's promise.

**Why it conserves work.** The promises are deadlines. A single GPU that works without pause on the promise with the earliest
deadline keeps every one of them (the demand-bound test of earliest-deadline-first scheduling: Liu & Layland, JACM 1973;
Baruah, Rosier & Howell, Real-Time Systems 1990). ``earliest_end`` gives the earliest end that leaves all earlier promises
intact. So whatever iterations start and end inside an interval, their work is at most the interval.

**Exactness.** Everything is integer ticks: no rounding, and the order of equal deadlines does not matter. At one instant
instances promise in the order of their numbers (``clock.SCHEDULE``). An instance has at most one promise at a time, on each
of its GPUs.
"""

Promise = tuple[int, int, int]
"""(end, instance, work still to do) in ticks; a GPU keeps them sorted."""


def worked_off(promises: list[Promise], elapsed: int) -> list[Promise]:
    """The promises after the GPU has worked on for ``elapsed`` ticks, the earliest end first; those done are gone.

    >>> worked_off([(10, 0, 4), (20, 1, 6)], 5)
    [(20, 1, 5)]
    """
    left = []
    for end, instance, work in promises:
        if work <= elapsed:
            elapsed -= work
        else:
            left.append((end, instance, work - elapsed))
            elapsed = 0
    return left


def earliest_end(now: int, floor: int, work: int, promises: list[Promise]) -> int:
    """When an iteration with ``work`` ticks of prompt work that starts ``now`` can end, at ``floor`` or later.

    ``promises`` are sorted and keep their ends. The new one joins after the last of them that it would break, and those up to
    there go first.

    >>> earliest_end(0, 7, 1, []), earliest_end(0, 7, 1, [(7, 0, 6)]), earliest_end(0, 7, 1, [(7, 0, 7)])
    (7, 7, 8)
    >>> earliest_end(0, 5, 4, [(100, 0, 60)])  # a long promise with time to spare does not hold up a short one
    5
    """
    done_by = now + work
    last = done_by
    for end, _, rest in promises:
        done_by += rest
        if done_by > end:
            last = done_by
    return max(floor, last)
