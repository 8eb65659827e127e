"""What a gateway is told: where to listen, which instances to route to, who may call, what to record."""

import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

from executor.recording.config import Recording
from scepsy.files.document import read_yaml, write_yaml
from scepsy.llm import require_names
from scepsy.value import Value, require, require_finite

FORMAT, VERSION = "scepsy.gateway", 1


class Endpoint(Value, frozen=True, kw_only=True):
    """One engine instance as the gateway sees it."""

    name: str
    llm: str
    """The model name clients ask for."""
    also: tuple[str, ...] = ()
    """Other names that clients ask for. The engine must know them all (vLLM: ``--served-model-name``)."""
    url: str
    """``http://host:port``, without a path."""
    share_pct: int = 100
    """Weight in routing: an instance with twice the share takes twice the calls in flight."""
    draining: bool = False
    """Takes no new calls; those in flight finish."""

    def __post_init__(self) -> None:
        require(bool(self.name), "name", self.name, "a non-empty string")
        require(bool(self.llm), "llm", self.llm, "a non-empty string")
        require_names(self.llm, self.also)
        parts = urlsplit(self.url)
        require(parts.scheme in ("http", "https") and bool(parts.netloc), "url", self.url, "http://host:port")
        require(parts.path in ("", "/") and not parts.query, "url", self.url, "without a path (/v1 is added)")
        require(1 <= self.share_pct <= 100, "share_pct", self.share_pct, "1 to 100")


class GatewayLimits(Value, frozen=True, kw_only=True):
    """What one client can ask of the gateway, and for how long."""

    body_bytes: int = 8 * 1024**2
    """Longest request body, after decompression; above it 413."""
    header_bytes: int = 16 * 1024
    """Longest header line; above it 400."""
    concurrent: int = 4096
    """Calls in flight in all, counted once their bodies are here; above it 429."""
    connections: int = 8192
    """Connections of clients in all (fewer where the process may open fewer files). Above it, one that waits for a
    request makes room, the one waiting longest first; a new one is closed when there is none."""
    header_s: float = 10.0
    """How long a request's headers may take, from the connection or their first byte; then the connection is closed."""
    body_s: float = 60.0
    """How long a request's body may take; then 408."""
    held_bytes: int = 256 * 1024**2
    """Request bodies and whole replies held in memory at once, over all calls; above it 503."""
    reply_bytes: int = 64 * 1024**2
    """Longest reply that is no stream; above it 502."""
    event_bytes: int = 8 * 1024**2
    """Longest event of a stream; above it the stream ends with an error."""
    connect_s: float = 5.0
    idle_s: float = 600.0
    """Longest silence of an engine within one call."""
    drain_s: float = 60.0
    """From the signal to stop until the gateway is gone, whatever clients and engines do."""
    health_s: float = 2.0
    """Between two looks at each instance's /health."""

    def __post_init__(self) -> None:
        require(self.body_bytes >= 1, "body_bytes", self.body_bytes, ">= 1")
        require(self.header_bytes >= 1024, "header_bytes", self.header_bytes, ">= 1024")
        require(self.concurrent >= 1, "concurrent", self.concurrent, ">= 1")
        for field in ("connections", "held_bytes", "reply_bytes", "event_bytes"):
            require(getattr(self, field) >= 1, field, getattr(self, field), ">= 1")
        for field in ("connect_s", "idle_s", "health_s", "header_s", "body_s"):
            require_finite(field, getattr(self, field), exclusive=True)
        require_finite("drain_s", self.drain_s)


class GatewayConfig(Value, frozen=True, kw_only=True):
    """A gateway file: ``format: scepsy.gateway``, ``version: 1`` and these fields."""

    host: str = "127.0.0.1"
    port: int = 8080
    endpoints: tuple[Endpoint, ...]
    api_keys_env: tuple[str, ...] = ()
    """Environment variables that hold one key each."""
    api_keys_file: str = ""
    """A file with one key a line; relative to the configuration file. ``#`` begins a comment at a line's begin or after
    a space, and is part of a key elsewhere."""
    allow_unauthenticated: bool = False
    """Accept anyone on an address that is not loopback."""
    limits: GatewayLimits = GatewayLimits()
    recording: Recording | None = None

    def __post_init__(self) -> None:
        require(0 <= self.port <= 65535, "port", self.port, "0 (any free port) to 65535")
        names = [endpoint.name for endpoint in self.endpoints]
        for name in names:
            require(names.count(name) == 1, "endpoints", name, "distinct names")
        open_to_all = not (self.api_keys_env or self.api_keys_file or self.allow_unauthenticated)
        require(
            is_loopback(self.host) or not open_to_all,
            "host",
            self.host,
            "a loopback address unless api_keys_env or api_keys_file is given (or allow_unauthenticated: true)",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "gpu-7")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_gateway(path: str | Path) -> GatewayConfig:
    """Read a gateway file. Raises ``InputError`` naming file, line, field and remedy."""
    return read_yaml(path, GatewayConfig, FORMAT, VERSION)


def save_gateway(path: str | Path, config: GatewayConfig) -> None:
    """Write a gateway file, atomically: a running gateway that watches it sees the old or the new one, nothing between."""
    write_yaml(path, config, FORMAT, VERSION)
