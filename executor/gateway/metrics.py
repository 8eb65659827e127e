"""Prometheus metrics of one gateway; names are part of the interface (docs/engines.md)."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from executor.gateway.pool import InstancePool

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """One registry per gateway, so that several can live in one process (tests do)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._calls = Counter(
            "scepsy_gateway_calls",
            "Calls that ended, by what became of them.",
            ("llm", "instance", "outcome"),
            registry=registry,
        )
        self._duration = Histogram(
            "scepsy_gateway_call_seconds",
            "From the request read to its last byte.",
            ("llm",),
            buckets=SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "scepsy_gateway_first_byte_seconds",
            "From the request read to its first byte.",
            ("llm",),
            buckets=SECONDS,
            registry=registry,
        )
        self._refused = Counter("scepsy_gateway_refused", "Calls answered without an engine.", ("status",), registry=registry)
        self.retries = Counter("scepsy_gateway_retries", "Calls sent elsewhere after a refused connection.", registry=registry)
        self._outstanding = Gauge("scepsy_gateway_outstanding", "Calls in flight.", ("llm", "instance"), registry=registry)
        self._up = Gauge("scepsy_gateway_instance_up", "1: takes calls.", ("llm", "instance"), registry=registry)
        self._recorded = Gauge("scepsy_gateway_recorded_calls", "Records written by this process.", registry=registry)
        self._lost = Gauge("scepsy_gateway_unrecorded_calls", "Records that could not be written.", registry=registry)
        self._ended: dict[tuple[str, str, str], Counter] = {}
        self._timed: dict[str, tuple[Histogram, Histogram]] = {}

    def ended(self, llm: str, instance: str, outcome: str, seconds: float, first_s: float | None) -> None:
        """A call ended."""
        key = (llm, instance, outcome)
        counter = self._ended.get(key)
        if counter is None:
            counter = self._ended[key] = self._calls.labels(*key)
        counter.inc()
        timed = self._timed.get(llm)
        if timed is None:
            timed = self._timed[llm] = (self._duration.labels(llm), self._first.labels(llm))
        timed[0].observe(seconds)
        if first_s is not None:
            timed[1].observe(first_s)

    def refused(self, status: int) -> None:
        """A call was answered by the gateway itself."""
        self._refused.labels(str(status)).inc()

    def render(self, pool: InstancePool, recorded: int, lost: int) -> bytes:
        """The exposition text, with gauges read now."""
        self._outstanding.clear()
        self._up.clear()
        for upstream in pool.upstreams:
            labels = (upstream.endpoint.llm, upstream.name)
            self._outstanding.labels(*labels).set(upstream.outstanding)
            self._up.labels(*labels).set(int(upstream.up and not upstream.endpoint.draining))
        self._recorded.set(recorded)
        self._lost.set(lost)
        return generate_latest(self.registry)
