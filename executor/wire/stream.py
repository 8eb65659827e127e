"""Server-sent events passing by: forwarded as they came, read on the side for usage and output."""

import io
import re
from typing import Any

import msgspec

MAX_TOKENS = 100_000_000
"""Ten times the longest context known (10 million tokens): an engine that counts more tokens than this, or fewer than
none, counts wrongly, and is not believed."""

MAX_TEXT = 1024 * 1024
"""Characters of output kept per call. What comes after is counted, not kept: no prompt can hold it anyway."""

MAX_CHOICES = 1024
"""Choices and tool calls kept per call."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one call, as the engine counted them."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0


def usage_of(found: Any, before: Usage | None = None) -> Usage | None:
    """The four spellings of usage in one; None when it does not tell. ``before``: what the stream told earlier.

    OpenAI counts cached tokens among the prompt's; Anthropic beside them, and in a stream the output in a second part.
    Raises ``ValueError`` for numbers that cannot be.

    >>> usage_of({"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}})
    Usage(input_tokens=3, output_tokens=2, cached_tokens=1)
    >>> usage_of({"input_tokens": 3, "cache_read_input_tokens": 10, "output_tokens": 2})
    Usage(input_tokens=13, output_tokens=2, cached_tokens=10)
    """
    if not isinstance(found, dict):
        return None
    inputs = _tokens(found, "prompt_tokens", "input_tokens")
    outputs = _tokens(found, "completion_tokens", "output_tokens")
    read, written = _tokens(found, "cache_read_input_tokens"), _tokens(found, "cache_creation_input_tokens")
    if inputs is None:
        return Usage(before.input_tokens, outputs, before.cached_tokens) if before and outputs is not None else None
    details = found.get("prompt_tokens_details") or found.get("input_tokens_details")
    cached = _tokens(details, "cached_tokens") if isinstance(details, dict) else None
    inputs += (read or 0) + (written or 0)
    if inputs > MAX_TOKENS:
        raise ValueError("usage")
    return Usage(inputs, outputs or 0, min(inputs, cached or read or 0))


def _tokens(found: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = found.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_TOKENS:
            raise ValueError("usage")
        return value
    return None


class _Delta(msgspec.Struct, gc=False):
    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None


class _Reply(msgspec.Struct, gc=False):
    """A whole reply or one chunk of any endpoint."""

    choices: list[_Choice] | None = None
    usage: Any = None
    type: str | None = None
    delta: Any = None
    message: Any = None
    content_block: Any = None
    content: Any = None
    response: Any = None
    output: Any = None
    error: Any = None


_REPLY = msgspec.json.Decoder(_Reply)


READ_BYTES = 16 * 1024
"""Events are read this many bytes at a time: reading many at once costs a third, and what is kept unread stays small."""


class Output:
    """What a call produced, put together from its chunks or read from its whole reply.

    Events are only noted as they pass, and read together when there are many or when somebody asks. However long the
    output, what is kept of it is bounded (``MAX_TEXT``).
    """

    __slots__ = (
        "_absurd", "_dropped_bytes", "_failed", "_left", "_text", "_tools", "_unread", "_unread_bytes", "_usage"
    )  # fmt: skip

    def __init__(self) -> None:
        self._usage: Usage | None = None
        self._failed = False
        self._absurd = False
        self._left = MAX_TEXT
        self._dropped_bytes = 0
        self._text: dict[int, io.StringIO] = {}
        self._tools: list[str] = []
        self._unread: list[bytes] = []
        self._unread_bytes = 0

    @property
    def usage(self) -> Usage | None:
        """Tokens as the engine counted them, if it told."""
        self._read_unread()
        return self._usage

    @property
    def failed(self) -> bool:
        """Whether the engine reported an error inside the stream."""
        self._read_unread()
        return self._failed

    @property
    def texts(self) -> list[str]:
        """The text of each choice, cut where all of them together exceed ``MAX_TEXT``."""
        self._read_unread()
        return [parts.getvalue() for _, parts in sorted(self._text.items())]

    @property
    def dropped_bytes(self) -> int:
        """Bytes of output that ``texts`` lacks."""
        self._read_unread()
        return self._dropped_bytes

    @property
    def absurd_usage(self) -> bool:
        """Whether the engine counted tokens that cannot be; such counts are not taken."""
        self._read_unread()
        return self._absurd

    @property
    def tool_call_ids(self) -> list[str]:
        """Ids of the tool calls that were asked for."""
        self._read_unread()
        return list(dict.fromkeys(self._tools))

    def read(self, data: bytes) -> None:
        """Take in one chunk or a whole reply; what is not understood is left alone."""
        self._read_unread()
        self._read_alone(data)

    def read_events(self, data: bytes) -> None:
        """Take in whole server-sent events."""
        self._unread.append(data)
        self._unread_bytes += len(data)
        if self._unread_bytes >= READ_BYTES:
            self._read_unread()

    def _read_unread(self) -> None:
        if not self._unread_bytes:
            return
        data = b"".join(self._unread)
        self._unread, self._unread_bytes = [], 0
        payloads = [line[5:] for line in data.split(b"\n") if line.startswith(b"data:")]
        if payloads and payloads[-1].strip() == b"[DONE]":
            payloads.pop()
        try:
            replies = _REPLY.decode_lines(b"\n".join(payloads))
            if len(replies) != len(payloads):
                raise ValueError("a line that is not one object")
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors: read what can be read, line by line
            for payload in payloads:
                self._read_alone(payload)
            return
        for reply in replies:
            if not self._take_plain(reply):
                self._take(reply)

    def _take_plain(self, reply: _Reply) -> bool:
        """Take the text of an ordinary event of a stream, which is nearly every event. False when it is another kind."""
        choices = reply.choices
        if not choices or len(choices) > 1 or reply.usage is not None or reply.error is not None or reply.type is not None:
            return False
        choice = choices[0]
        delta = choice.delta
        if delta is None or choice.text or delta.tool_calls or delta.reasoning or delta.reasoning_content:
            return False
        if reply.response is not None or reply.output is not None:
            return False
        text, parts = delta.content, self._text.get(choice.index)
        if parts is None or type(text) is not str or len(text) > self._left:
            return False
        self._left -= len(text)
        parts.write(text)
        return True

    def _read_alone(self, data: bytes) -> None:
        try:
            reply = _REPLY.decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return
        self._take(reply)

    def _take(self, reply: _Reply) -> None:
        for choice in reply.choices or ():
            index, part = choice.index, choice.delta or choice.message
            if part is not None:
                if part.reasoning or part.reasoning_content:
                    self._add(index, part.reasoning)
                    self._add(index, part.reasoning_content)
                if part.content:
                    self._add(index, part.content)
                if part.tool_calls:
                    self._read_tools(index, part.tool_calls)
            if choice.text:
                self._add(index, choice.text)
        if reply.usage is not None:
            self._take_usage(reply.usage)
        if reply.error is not None:
            self._failed = True
        if reply.type is not None:
            self._take_typed(reply)
        elif isinstance(reply.response, dict):
            self._read_response(reply.response)
        if isinstance(reply.output, list):
            self._read_items(reply.output)

    def _take_typed(self, reply: _Reply) -> None:
        """Events and replies that say what they are: OpenAI's responses, Anthropic's messages."""
        if reply.type == "response.output_text.delta":
            self._add(0, reply.delta)
        elif reply.type == "response.failed":
            self._failed = True
        elif reply.type == "content_block_delta" and isinstance(reply.delta, dict):
            for name in ("text", "thinking", "partial_json"):
                self._add(0, reply.delta.get(name))
        elif reply.type == "content_block_start":
            self._read_blocks([reply.content_block])
        elif reply.type == "message_start" and isinstance(reply.message, dict):
            self._take_usage(reply.message.get("usage"))
        elif reply.type == "message" and isinstance(reply.content, list):
            self._read_blocks(reply.content)
        if isinstance(reply.response, dict):
            self._read_response(reply.response)

    def _read_blocks(self, blocks: list[Any]) -> None:
        """Anthropic's content: texts, thoughts, tool calls."""
        for block in blocks:
            if isinstance(block, dict):
                for name in ("text", "thinking"):
                    self._add(0, block.get(name))
                if block.get("type") == "tool_use":
                    self._add_tool(block.get("id"))
                    if block.get("input"):
                        self._add(0, msgspec.json.encode(block["input"]).decode())

    def _take_usage(self, found: Any) -> None:
        try:
            self._usage = usage_of(found, self._usage) or self._usage
        except ValueError:
            self._absurd = True

    def _add_tool(self, identifier: Any) -> None:
        if isinstance(identifier, str) and len(self._tools) < MAX_CHOICES:
            self._tools.append(identifier)

    def _add(self, index: int, text: Any) -> None:
        if not isinstance(text, str) or not text:
            return
        parts = self._text.get(index)
        if parts is None and len(self._text) < MAX_CHOICES:
            parts = self._text[index] = io.StringIO(newline="")
        if parts is None or len(text) > self._left:
            self._dropped_bytes += len(text.encode(errors="surrogatepass"))
            self._left = 0  # what follows a gap would be put together wrongly
            return
        self._left -= len(text)
        parts.write(text)

    def _read_tools(self, index: int, calls: Any) -> None:
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._add_tool(call.get("id"))
                function = call.get("function")
                if isinstance(function, dict):
                    self._add(index, function.get("arguments"))

    def _read_response(self, response: dict[str, Any]) -> None:
        if isinstance(response.get("usage"), dict):
            self._take_usage(response["usage"])
        if isinstance(response.get("output"), list):
            self._read_items(response["output"], text=not self._text)

    def _read_items(self, items: list[Any], *, text: bool = True) -> None:
        for item in items:
            if not isinstance(item, dict):
                continue
            self._add_tool(item.get("call_id"))
            if text and isinstance(item.get("content"), list):
                for part in item["content"]:
                    if isinstance(part, dict):
                        self._add(0, part.get("text"))


class EventSplitter:
    """Cuts a byte stream at the ends of server-sent events, so that an error can be added between two of them.

    Every byte is looked at once, however long an event is and however small the pieces.
    """

    __slots__ = ("_parts", "_tail", "held_bytes")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._tail = b""
        self.held_bytes = 0
        """Of an event whose end is not here yet."""

    def feed(self, chunk: bytes) -> bytes:
        """The whole events that ``chunk`` completes; what follows them is kept for the next time."""
        probe = self._tail + chunk if self._tail else chunk
        feed, feeds = probe.rfind(b"\n\n"), probe.rfind(b"\r\n\r\n") if b"\r" in probe else -1
        end = max(feed + 2 if feed >= 0 else 0, feeds + 4 if feeds >= 0 else 0)
        if not end:
            self._parts.append(chunk)
            self.held_bytes += len(chunk)
            self._tail = probe[-3:]
            return b""
        end -= len(self._tail)
        events = b"".join((*self._parts, chunk[:end])) if self._parts else chunk[:end]
        rest = chunk[end:]
        self._parts, self.held_bytes, self._tail = [rest] if rest else [], len(rest), rest[-3:]
        return events

    def rest(self) -> bytes:
        """What came after the last whole event."""
        rest = b"".join(self._parts)
        self._parts, self.held_bytes, self._tail = [], 0, b""
        return rest


_END = re.compile(
    rb"\n(?:data: ?\[DONE\]|event: ?(?:response\.(?:completed|incomplete|failed)|message_stop))[ \t]*\r?(?:\n|\Z)"
)
"""Begins with what every line begins after: the search leaps from one such byte to the next."""


def ends_stream(events: bytes) -> bool:
    """Whether whole events hold the one that tells a client that its stream is complete.

    It is looked for as a line: an answer's text may hold the same characters, but never at the begin of a line of its own.

    >>> ends_stream(b"data: [DONE]\\n\\n"), ends_stream(b'data: {"content":"data: [DONE]"}\\n\\n')
    (True, False)
    """
    return (b"[DONE]" in events or b"event:" in events) and _END.search(b"\n" + events) is not None


def without_usage(events: bytes) -> bytes:
    """Whole events without the one that only carries usage; the same object when there is none.

    >>> without_usage(b'data: {"choices":[],"usage":{"prompt_tokens":1}}\\n\\ndata: [DONE]\\n\\n')
    b'data: [DONE]\\n\\n'
    """
    at = events.find(b'"usage"')
    if at < 0:
        return events
    separator = b"\r\n\r\n" if b"\r" in events and b"\r\n\r\n" in events else b"\n\n"
    kept, kept_to = [], 0
    while at >= 0:
        before = events.rfind(separator, kept_to, at)
        start = before + len(separator) if before >= 0 else kept_to
        after = events.find(separator, at)
        end = after + len(separator) if after >= 0 else len(events)
        if _only_usage(events[start:end]):
            kept.append(events[kept_to:start])
            kept_to = end
        at = events.find(b'"usage"', end)
    return b"".join((*kept, events[kept_to:])) if kept else events


def _only_usage(event: bytes) -> bool:
    if not event.startswith(b"data:"):
        return False
    try:
        reply = _REPLY.decode(event[5:].strip())
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return False
    return reply.choices == [] and isinstance(reply.usage, dict)
