"""One recorded call: who, when, how long, how much, and hashes that link it to others. No text unless asked for."""

from typing import Literal

from scepsy.value import Value
from scepsy.workload import CallKind

FORMAT, VERSION = "scepsy.recording", 1

PREFIX_BYTES = 64
"""Prompt bytes per entry of ``CallRecord.prefix``."""

Outcome = Literal["completed", "rejected", "failed", "cancelled"]
"""rejected: the engine said 429 or 503; failed: any other error, or the engine went away; cancelled: the client did."""

Rung = Literal["header", "session-header", "traceparent", "baggage", "body", "path", "key", "isolated", "none"]
"""What attributed a call to its run, best first (``attribution``)."""


class Header(Value, frozen=True, kw_only=True):
    """First line of each recording session (one gateway process) within a file."""

    format: str = FORMAT
    version: int = VERSION
    session: str
    started_s: float
    """Unix time."""

    def __post_init__(self) -> None:
        if self.format != FORMAT or self.version != VERSION:
            raise ValueError(f"format is {self.format!r} version {self.version}: must be {FORMAT!r} version {VERSION}")


class SourceCall(Value, frozen=True, kw_only=True):
    """An earlier call of the same run whose output is in this call's input."""

    call: str
    contained_pct: int
    """How much of that output was found, by hashes of its 24-byte windows; 100 too for a tool result that answers it."""
    by: Literal["text", "message", "tool"] = "text"


class Text(Value, frozen=True, kw_only=True):
    """What was said; only kept when the gateway was told to."""

    request: str
    outputs: tuple[str, ...] = ()


class CallRecord(Value, frozen=True, kw_only=True):
    """One call as the gateway saw it. Times are Unix seconds of one monotonic clock per session."""

    id: str
    session: str
    run: str
    rung: Rung
    workflow: str
    llm: str
    endpoint: str
    """chat/completions, completions, responses, messages, embeddings, score or rerank."""
    kind: CallKind
    instance: str = ""
    start_s: float
    first_byte_s: float | None = None
    end_s: float
    outcome: Outcome
    http_status: int = 0
    """0: no answer came."""
    stream: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    counted_by: Literal["usage", "tokenize", "bytes"] = "usage"
    """bytes: neither the reply nor /tokenize told, so four bytes were taken for a token."""
    input_bytes: int = 0
    output_bytes: int = 0
    sources: tuple[SourceCall, ...] = ()
    can_be_source: bool = False
    """Whether its output is long enough for hashes to find it again; if not, only time can tell who used it."""
    prefix: tuple[int, ...] = ()
    """Hash of the first 64, 128, … prompt bytes: equal entries mean equal prefixes, within a session."""
    traceparent: str = ""
    attempt: int = 0
    """How often the client says it had sent this request before (``x-stainless-retry-count``)."""
    retry_of: str = ""
    """The call that this one repeats, byte for byte: one that failed, or one that the client says it gave up."""
    marks: str = ""
    """Keyed hashes of some of the input's 24-byte windows, base64 of 32-bit numbers; only where no run id came with the
    call. Comparable within a session; the key is never written down."""
    heads: tuple[int, ...] = ()
    """Likewise: keyed hashes of the first 16, 32 and 64 letters."""
    turns: int = 0
    """Messages of the conversation that the model or a tool had said before."""
    text: Text | None = None
