"""What a gateway is told: where to listen, which instances to route to, who may call, what to record."""

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from executor.recording.config import Recording
from scepsy.errors import InputError
from scepsy.files.document import read_yaml, write_yaml
from scepsy.value import Value, require, require_finite

FORMAT, VERSION = "scepsy.gateway", 1

MAX_KEYS = 10_000
"""Every key is compared on every request (constant time), so there is a bound."""


class Endpoint(Value, frozen=True, kw_only=True):
    """One engine instance as the gateway sees it."""

    name: str
    llm: str
    """The model name clients ask for."""
    url: str
    """``http://host:port``, without a path."""
    share_pct: int = 100
    """Weight in routing: an instance with twice the share takes twice the calls in flight."""
    draining: bool = False
    """Takes no new calls; those in flight finish."""

    def __post_init__(self) -> None:
        require(bool(self.name), "name", self.name, "a non-empty string")
        require(bool(self.llm), "llm", self.llm, "a non-empty string")
        parts = urlsplit(self.url)
        require(parts.scheme in ("http", "https") and bool(parts.netloc), "url", self.url, "http://host:port")
        require(parts.path in ("", "/") and not parts.query, "url", self.url, "without a path (/v1 is added)")
        require(1 <= self.share_pct <= 100, "share_pct", self.share_pct, "1 to 100")


class Limits(Value, frozen=True, kw_only=True):
    """What one client can ask of the gateway, and for how long."""

    body_bytes: int = 8 * 1024**2
    """Longest request body; above it 413."""
    header_bytes: int = 16 * 1024
    """Longest header line; above it 400."""
    concurrent: int = 4096
    """Calls in flight in all; above it 429."""
    connect_s: float = 5.0
    idle_s: float = 600.0
    """Longest silence of an engine within one call."""
    drain_s: float = 60.0
    """How long calls in flight may still take once the gateway is told to stop."""
    health_s: float = 2.0
    """Between two looks at each instance's /health."""

    def __post_init__(self) -> None:
        require(self.body_bytes >= 1, "body_bytes", self.body_bytes, ">= 1")
        require(self.header_bytes >= 1024, "header_bytes", self.header_bytes, ">= 1024")
        require(self.concurrent >= 1, "concurrent", self.concurrent, ">= 1")
        for field in ("connect_s", "idle_s", "health_s"):
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
    """A file with one key a line (# begins a comment); relative to the configuration file."""
    allow_unauthenticated: bool = False
    """Accept anyone on an address that is not loopback."""
    limits: Limits = Limits()
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


class KeyRing:
    """The keys that may call. Only their digests are kept."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __len__(self) -> int:
        return len(self._digests)

    def admits(self, key: str) -> bool:
        """Whether ``key`` is one of ours (always, when there are none), in time that does not depend on which."""
        if not self._digests:
            return True
        digest, found = _digest(key), False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def load_keys(config: GatewayConfig, folder: Path, environ: Mapping[str, str] = os.environ) -> KeyRing:
    """Collect the configured keys. Raises ``InputError`` for a variable that is unset or a file without keys.

    Messages name where a key should be, never a key.
    """
    keys = []
    for variable in config.api_keys_env:
        if not environ.get(variable):
            raise InputError(f"api_keys_env: {variable} is not set: must hold an API key (export it)")
        keys.append(environ[variable])
    if config.api_keys_file:
        path = folder / config.api_keys_file
        try:
            lines = path.read_text().splitlines()
        except OSError as error:
            raise InputError(f"api_keys_file: {path} cannot be read: {error.strerror} (create it, one key a line)") from error
        found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not found:
            raise InputError(f"api_keys_file: {path} holds no key: must hold one a line")
        keys += found
    if len(keys) > MAX_KEYS:
        raise InputError(f"api_keys_file: {len(keys)} keys: must be at most {MAX_KEYS}")
    return KeyRing(keys)
