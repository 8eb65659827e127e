"""Server-sent events passing by: forwarded as they came, read on the side for usage and output."""

from typing import Any

import msgspec


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: dict[str, Any] | None = None
    input_tokens_details: dict[str, Any] | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one call, as the engine counted them."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0


def usage_of(found: _Usage | None) -> Usage | None:
    """The three spellings of usage in one."""
    if found is None:
        return None
    inputs = found.prompt_tokens if found.prompt_tokens is not None else found.input_tokens
    outputs = found.completion_tokens if found.completion_tokens is not None else found.output_tokens
    if inputs is None:
        return None
    details = found.prompt_tokens_details or found.input_tokens_details or {}
    cached = details.get("cached_tokens")
    return Usage(inputs, outputs or 0, cached if isinstance(cached, int) else 0)


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
    usage: _Usage | None = None
    type: str | None = None
    delta: Any = None
    response: Any = None
    output: Any = None
    error: Any = None


_REPLY = msgspec.json.Decoder(_Reply)


READ_BYTES = 16 * 1024
"""Events are read this many bytes at a time: reading many at once costs a third, and what is kept unread stays small."""


class Output:
    """What a call produced, put together from its chunks or read from its whole reply.

    Events are only noted as they pass, and read together when there are many or when somebody asks.
    """

    __slots__ = ("_failed", "_text", "_tools", "_unread", "_unread_bytes", "_usage")

    def __init__(self) -> None:
        self._usage: Usage | None = None
        self._failed = False
        self._text: dict[int, list[str]] = {}
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
        """The text of each choice."""
        self._read_unread()
        return ["".join(parts) for _, parts in sorted(self._text.items())]

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
            self._take(reply)

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
            self._usage = usage_of(reply.usage) or self._usage
        if reply.error is not None:
            self._failed = True
        if reply.type == "response.output_text.delta":
            self._add(0, reply.delta)
        elif isinstance(reply.response, dict):
            self._read_response(reply.response)
        if isinstance(reply.output, list):
            self._read_items(reply.output)

    def _add(self, index: int, text: Any) -> None:
        if isinstance(text, str) and text:
            parts = self._text.get(index)
            if parts is None:
                self._text[index] = [text]
            else:
                parts.append(text)

    def _read_tools(self, index: int, calls: Any) -> None:
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                if isinstance(call.get("id"), str):
                    self._tools.append(call["id"])
                function = call.get("function")
                if isinstance(function, dict):
                    self._add(index, function.get("arguments"))

    def _read_response(self, response: dict[str, Any]) -> None:
        if isinstance(response.get("usage"), dict):
            try:
                self._usage = usage_of(msgspec.convert(response["usage"], _Usage)) or self._usage
            except msgspec.ValidationError:
                return
        if isinstance(response.get("output"), list):
            self._read_items(response["output"], text=not self._text)

    def _read_items(self, items: list[Any], *, text: bool = True) -> None:
        for item in items:
            if not isinstance(item, dict):
                continue
            if isinstance(item.get("call_id"), str):
                self._tools.append(item["call_id"])
            if text and isinstance(item.get("content"), list):
                for part in item["content"]:
                    if isinstance(part, dict):
                        self._add(0, part.get("text"))


class EventSplitter:
    """Cuts a byte stream at the ends of server-sent events, so that an error can be added between two of them."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        """The whole events that ``chunk`` completes; what follows them is kept for the next time."""
        data = self._rest + chunk if self._rest else chunk
        feed, feeds = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n") if b"\r" in data else -1
        end = max(feed + 2 if feed >= 0 else 0, feeds + 4 if feeds >= 0 else 0)
        self._rest = data[end:]
        return data[:end]

    def rest(self) -> bytes:
        """What came after the last whole event."""
        rest, self._rest = self._rest, b""
        return rest


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
    return reply.choices == [] and reply.usage is not None
