"""The routers that serving stacks bring along: by turn, by load, by share, at random, by session."""

from hashlib import sha256
from operator import attrgetter

from scepsy.rng import stream
from sim.engine.replica import Replica
from sim.engine.request import Request
from sim.policies.routers.base import Router


class RoundRobin(Router):
    """Each instance in turn."""

    _next = 0

    def __call__(self, request: Request, session: str) -> Replica:
        """Choose the next one."""
        replicas = self._some()
        chosen = replicas[self._next % len(replicas)]
        self._next += 1
        return chosen


_OUTSTANDING = attrgetter("outstanding")
_FEW = 8
"""Up to so many instances, looking at each is cheaper than keeping them in order."""


class LeastOutstanding(Router):
    """The instance with the fewest calls waiting or running; ties: the lowest number.

    Many instances are kept in one bit set per count, so a choice among hundreds costs no more than among a few.
    """

    def __init__(self, llm: str, seed: int) -> None:
        super().__init__(llm, seed)
        self._having: list[int] = []
        """Bit set, by count, of the places in ``replicas`` that have so many calls."""
        self._place: dict[int, int] = {}
        self._counts: list[int] = []
        self._least = 0

    def add(self, replica: Replica) -> None:
        """An instance became ready: follow its count."""
        super().add(replica)
        if len(self.replicas) > _FEW:
            self._rebuild()

    def remove(self, replica: Replica) -> None:
        """An instance takes no more calls."""
        super().remove(replica)
        replica.changed = None
        if self._having:
            self._rebuild()

    def _rebuild(self) -> None:
        for replica in self.replicas:
            replica.changed = self._changed
        self._place = {replica.number: place for place, replica in enumerate(self.replicas)}
        self._counts = [replica.outstanding for replica in self.replicas]
        self._least = min(self._counts, default=0)
        self._having = [0] * (max(self._counts, default=0) + 2)
        for place, count in enumerate(self._counts):
            self._having[count] |= 1 << place

    def _changed(self, replica: Replica) -> None:
        place, count, having = self._place[replica.number], replica.outstanding, self._having
        before, self._counts[place] = self._counts[place], count
        bit = 1 << place
        having[before] ^= bit
        if count + 1 >= len(having):
            having.extend([0] * len(having))
        having[count] |= bit
        if count < self._least:
            self._least = count
        else:
            while not having[self._least]:
                self._least += 1

    def __call__(self, request: Request, session: str) -> Replica:
        """Choose the least loaded."""
        if not self._having:
            return min(self._some(), key=_OUTSTANDING)
        if not self.replicas:
            self._some()
        least = self._having[self._least]
        return self.replicas[(least & -least).bit_length() - 1]


class LeastKvLoad(Router):
    """The instance with the smallest part of its KV blocks held or asked for by waiting prompts; ties: the lowest number."""

    def __call__(self, request: Request, session: str) -> Replica:
        """Choose the emptiest."""
        return min(self._some(), key=lambda r: (r.kv_load(), r.number))


class WeightedByShare(Router):
    """In turn, in proportion to share times tensor-parallel degree (smooth weighted round robin)."""

    def __init__(self, llm: str, seed: int) -> None:
        super().__init__(llm, seed)
        self._credit: dict[int, int] = {}

    def __call__(self, request: Request, session: str) -> Replica:
        """Choose the one with the most credit."""
        replicas = self._some()
        credit = self._credit
        for replica in replicas:
            credit[replica.number] = credit.get(replica.number, 0) + replica.spec.weight
        chosen = max(replicas, key=lambda r: (credit[r.number], -r.number))
        credit[chosen.number] -= sum(r.spec.weight for r in replicas)
        return chosen


class PowerOfTwo(Router):
    """The less loaded of two instances drawn at random."""

    def __init__(self, llm: str, seed: int) -> None:
        super().__init__(llm, seed)
        self._rng = stream(seed, "router", "power-of-two", llm)

    def __call__(self, request: Request, session: str) -> Replica:
        """Draw two, take the better one (ties: the lower number)."""
        replicas = self._some()
        if len(replicas) == 1:
            return replicas[0]
        pair = [replicas[int(place)] for place in self._rng.choice(len(replicas), size=2, replace=False)]
        return min(pair, key=lambda r: (r.outstanding, r.number))


class Affinity(LeastOutstanding):
    """All calls of one session, or else of one first prefix block, to one instance: the least loaded when it first came."""

    def __init__(self, llm: str, seed: int) -> None:
        super().__init__(llm, seed)
        self._home: dict[object, Replica] = {}

    def __call__(self, request: Request, session: str) -> Replica:
        """Choose the home of the session."""
        key: object = session or (request.keys[0] if request.keys else None)
        if key is None:
            return super().__call__(request, session)
        home = self._home.get(key)
        if home is None or home not in self.replicas:
            home = super().__call__(request, session)
            self._home[key] = home
        return home


class HashAffinity(Router):
    """The same without memory: the instance of the highest hash with the session, so few sessions move when instances do."""

    def __call__(self, request: Request, session: str) -> Replica:
        """Choose the instance with the highest hash."""
        key = session or str(request.keys[0] if request.keys else request.node)
        return max(self._some(), key=lambda r: (sha256(f"{key}\x1f{r.name}".encode()).digest(), -r.number))
