"""Records of the arena: taken by size class, given back, taken again."""

from sim.compiled.layout import TOP
from sim.compiled.memory import get, jit, put


@jit
def take(m: int, lists: int, size_class: int) -> int:
    """A record of 2**size_class words, whatever stands in them; ``lists``: where the heads of its kind's free lists are."""
    head = lists + size_class
    record = get(m, head)
    if record:
        put(m, head, get(m, record))
    else:
        record = get(m, TOP)
        put(m, TOP, record + (1 << size_class))
    return record


@jit
def give(m: int, lists: int, record: int, size_class: int) -> None:
    """Give a record back. All its words but the first stay as they are."""
    put(m, record, get(m, lists + size_class))
    put(m, lists + size_class, record)


@jit
def class_of(words: int) -> int:
    """The smallest size class that holds so many words."""
    size_class = 0
    while (1 << size_class) < words:
        size_class += 1
    return size_class
