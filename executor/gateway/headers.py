"""Which headers travel: neither the gateway's key, nor what belongs to one connection only."""

import re
from collections.abc import Collection, Mapping

from multidict import CIMultiDict, CIMultiDictProxy

from executor.gateway.keys import KeyRing

HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
"""RFC 9110, 7.6.1, and two of its past. Those that a ``Connection`` header names are dropped as well."""

CREDENTIALS = frozenset(("authorization", "x-api-key", "api-key", "cookie"))
"""Where clients of OpenAI, Anthropic and Azure put their key. It is the gateway's, so it stops here."""

KEPT_HERE = HOP_BY_HOP | CREDENTIALS | {"host", "content-length", "content-encoding", "accept-encoding", "expect"}
"""Request headers that do not travel: answers must come uncompressed to be read, and bodies are sent on uncompressed."""

NOT_RETURNED = HOP_BY_HOP | {"content-length", "date", "server"}

INSTANCE_HEADER = "x-scepsy-instance"
"""Told to the client: who answered."""


_UNSENDABLE = re.compile(r"[^\t\x20-\x7e\x80-\U0010ffff]")
"""Control characters: parsers let some pass that no writer sends. Such a header is dropped, not repaired."""


def sent_keys(headers: Mapping[str, str]) -> list[str]:
    """The keys that a request shows, as OpenAI, Anthropic and Azure clients do: there may be several."""
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    found = [bearer.strip()] if scheme.lower() == "bearer" else []
    return found + [headers[name].strip() for name in ("x-api-key", "api-key") if name in headers]


def forwarded(headers: CIMultiDictProxy[str], keys: KeyRing) -> CIMultiDict[str]:
    """A request's headers as an engine gets them. A header that holds one of our keys, under whatever name, stays here."""
    dropped = KEPT_HERE | _named(headers) if "Connection" in headers else KEPT_HERE
    kept = _sendable(headers, dropped)
    if len(keys):
        for name in {name for name, value in kept.items() if keys.holds_key(value) or keys.holds_key(name)}:
            del kept[name]
    return kept


def returned(headers: CIMultiDictProxy[str], instance: str) -> CIMultiDict[str]:
    """An answer's headers as the client gets them."""
    dropped = NOT_RETURNED | _named(headers) if "Connection" in headers else NOT_RETURNED
    kept = _sendable(headers, dropped)
    kept[INSTANCE_HEADER] = instance
    return kept


def _sendable(headers: CIMultiDictProxy[str], dropped: Collection[str]) -> CIMultiDict[str]:
    """All headers but those of ``dropped`` (in lower case), and those that no writer can send."""
    kept = CIMultiDict[str]()
    for name, value in headers.items():
        # Printable characters are never control characters, and asking for them costs a fifth of the search.
        if name.lower() not in dropped and (
            (value.isprintable() and name.isprintable()) or not (_UNSENDABLE.search(value) or _UNSENDABLE.search(name))
        ):
            kept.add(name, value)
    return kept


def _named(headers: CIMultiDictProxy[str]) -> set[str]:
    """Names that ``Connection`` lists. Content-Type is kept whatever it says: without it a body cannot be read."""
    names = {name.strip().lower() for value in headers.getall("Connection") for name in value.split(",")}
    return names - {"content-type"}
