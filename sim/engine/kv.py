"""KV blocks of one instance: a count of free ones, the prefix cache, and least-recently-used eviction.

As in vLLM v1's block pool: a freed block keeps its content until it is taken again; blocks are taken from the front of
the free queue and freed to its back, a request's last block first, so prefixes survive longest. Only
blocks that somebody could ask for again need an identity: those under a known prefix hash, and those of a
preempted call, which asks for its own again. All others are counted, not listed.
"""

from collections import OrderedDict

from scepsy.errors import SimulationError


class Block:
    """A cached prompt block: its prefix key and how many calls hold it now."""

    __slots__ = ("key", "refs")

    def __init__(self, key: int) -> None:
        self.key = key
        self.refs = 1


class Segment:
    """``count`` consecutive free blocks; eviction takes the last first, so what is left is always a beginning."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count


class BlockPool:
    """``total`` blocks, all free at first."""

    __slots__ = ("_cache", "_duplicates", "_last", "_plain", "_queue", "free", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self._plain = total
        """Anonymous free blocks at the very front of the queue."""
        self._queue: OrderedDict[Block | Segment, None] = OrderedDict()
        self._last: Segment | None = None
        """The anonymous segment at the back of the queue, if that is what is there."""
        self._cache: dict[int, Block] = {}
        self._duplicates: dict[int, list[Block]] = {}
        """Further blocks of the same content, oldest first: computed although one was cached already."""

    @property
    def used(self) -> int:
        """Blocks held by running calls."""
        return self.total - self.free

    def take(self, count: int) -> None:
        """Hand out ``count`` blocks from the front of the queue, evicting what they cached."""
        if count <= self._plain:
            self._plain -= count
            self.free -= count
            return
        if count > self.free:
            raise SimulationError(f"{count} KV blocks asked for, {self.free} of {self.total} free")
        self.free -= count
        count -= self._plain
        self._plain = 0
        queue = self._queue
        while count:
            item = next(iter(queue))
            if isinstance(item, Segment):
                if item.count > count:
                    item.count -= count
                    return
                count -= item.count
                item.count = 0
                if item is self._last:
                    self._last = None
            else:
                self._evict(item)
                count -= 1
            del queue[item]

    def give(self, count: int) -> None:
        """Take back ``count`` blocks that nobody will ask for again."""
        self.free += count
        if not self._queue:
            self._plain += count
        elif self._last is not None:
            self._last.count += count
        elif count:
            self._last = Segment(count)
            self._queue[self._last] = None

    def give_own(self, count: int) -> Segment | None:
        """Take back ``count`` blocks of a preempted call, which may reclaim those not yet evicted."""
        if not count:
            return None
        self.free += count
        self._last = None
        segment = Segment(count)
        self._queue[segment] = None
        return segment

    def reclaim(self, segment: Segment, count: int) -> None:
        """Hold the first ``count`` blocks of a segment again; what is left of it stays free and anonymous."""
        self.free -= count
        segment.count -= count
        if count and segment.count == 0:
            del self._queue[segment]

    def find(self, keys: list[int], limit: int) -> list[Block]:
        """Return the cached blocks of the longest known prefix of ``keys``, at most ``limit``."""
        cache = self._cache
        if limit < len(keys):
            keys = keys[:limit]
        try:
            return [cache[key] for key in keys]
        except KeyError:
            found = []
            for key in keys:
                if key not in cache:
                    break
                found.append(cache[key])
            return found

    def hold(self, blocks: list[Block]) -> None:
        """Share cached blocks with one more call."""
        queue = self._queue
        for block in blocks:
            if block.refs == 0:
                del queue[block]
                self.free -= 1
            block.refs += 1

    def cache(self, keys: list[int]) -> list[Block]:
        """Register the content of blocks just handed out under their prefix keys."""
        cache = self._cache
        blocks = [Block(key) for key in keys]
        for block in blocks:
            if cache.setdefault(block.key, block) is not block:
                self._duplicates.setdefault(block.key, []).append(block)
        return blocks

    def release(self, blocks: list[Block]) -> None:
        """Let go of cached blocks, the last one first; those that nobody holds join the back of the queue."""
        queue = self._queue
        idle = 0
        for block in reversed(blocks):
            block.refs = refs = block.refs - 1
            if not refs:
                queue[block] = None
                idle += 1
        if idle:
            self.free += idle
            self._last = None

    def _evict(self, block: Block) -> None:
        if not self._duplicates:
            del self._cache[block.key]
            return
        others = self._duplicates.get(block.key)
        if self._cache.get(block.key) is block:
            if others:
                self._cache[block.key] = others.pop(0)
            else:
                del self._cache[block.key]
        elif others:
            others.remove(block)
        if others is not None and not others:
            self._duplicates.pop(block.key, None)
