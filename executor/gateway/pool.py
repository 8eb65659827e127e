"""Instances and the choice between them: least outstanding calls, weighted by share."""

from collections.abc import Iterable

from executor.gateway.config import Endpoint
from executor.gateway.replies import unavailable, unknown_model


class Upstream:
    """One instance with what the gateway knows of it right now."""

    __slots__ = (
        "base", "count_after_s", "endpoint", "last_byte_s", "last_used", "outstanding", "refusals", "served", "silences", "up"
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.base = endpoint.url.rstrip("/")
        self.outstanding = 0
        self.served = 0
        self.last_used = 0
        self.up = True
        """False from ``health`` finding it gone until its /health answers again."""
        self.refusals = self.silences = 0
        """Refused connections and unanswered probes, in a row."""
        self.last_byte_s = float("-inf")
        """When any part of an answer last came from it (the loop's clock)."""
        self.count_after_s = float("-inf")
        """From when its /tokenize may be asked (again)."""

    @property
    def name(self) -> str:
        """The instance's name."""
        return self.endpoint.name


class InstancePool:
    """All instances, by the model names that clients ask for. An instance may have several, each its own group."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._by_llm: dict[str, list[Upstream]] = {}
        self._turn = 0
        self.replace(endpoints)

    def replace(self, endpoints: Iterable[Endpoint]) -> None:
        """Take over a new list. Instances that stay (same name and address) keep their counts; calls in flight on
        instances that leave finish undisturbed, since their handlers hold the ``Upstream`` itself.
        """
        known = {(upstream.name, upstream.base): upstream for upstream in self.upstreams}
        by_llm: dict[str, list[Upstream]] = {}
        for endpoint in endpoints:
            upstream = known.get((endpoint.name, endpoint.url.rstrip("/")))
            if upstream is None:
                upstream = Upstream(endpoint)
            upstream.endpoint = endpoint
            for name in (endpoint.llm, *endpoint.also):
                by_llm.setdefault(name, []).append(upstream)
        self._by_llm = by_llm

    @property
    def upstreams(self) -> list[Upstream]:
        """Every instance, in the order given."""
        return list(dict.fromkeys(upstream for group in self._by_llm.values() for upstream in group))

    @property
    def llms(self) -> list[str]:
        """The model names served, in the order given."""
        return list(self._by_llm)

    def require(self, llm: str) -> None:
        """Raise ``Refusal`` (404) unless some instance serves ``llm``."""
        if llm not in self._by_llm:
            raise unknown_model(llm, self.llms)

    def ready(self) -> dict[str, int]:
        """How many instances of each LLM take new calls."""
        return {
            llm: sum(upstream.up and not upstream.endpoint.draining for upstream in group)
            for llm, group in self._by_llm.items()
        }

    def choose(self, llm: str, tried: Iterable[Upstream] = ()) -> Upstream:
        """The instance that the next call to ``llm`` goes to: least (outstanding + 1) / share, then least recently used.

        Raises ``Refusal`` (404) for a model that is not served and (503) when no instance can take the call.
        """
        self.require(llm)
        group = self._by_llm[llm]
        best: Upstream | None = None
        best_key = (0.0, 0)
        for upstream in group:
            if upstream.up and not upstream.endpoint.draining and upstream not in tried:
                key = ((upstream.outstanding + 1) / upstream.endpoint.share_pct, upstream.last_used)
                if best is None or key < best_key:
                    best, best_key = upstream, key
        if best is None:
            raise unavailable(f"No instance of {llm} can take the call now ({len(group)} configured).")
        self._turn += 1
        best.last_used = self._turn
        return best
