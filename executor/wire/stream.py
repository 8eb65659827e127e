"""Server-sent events passing by: forwarded as they came, read on the side for usage and output."""

from typing import Any

import msgspec


class _Usage(msgspec.Struct):
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


class _Delta(msgspec.Struct):
    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None


class _Reply(msgspec.Struct):
    """A whole reply or one chunk of any endpoint."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    type: str | None = None
    delta: Any = None
    response: Any = None
    output: Any = None
    error: Any = None


_REPLY = msgspec.json.Decoder(_Reply)


class Output:
    """What a call produced, put together from its chunks or read from its whole reply."""

    __slots__ = ("_text", "_tools", "failed", "usage")

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.failed = False
        """Whether the engine reported an error inside the stream."""
        self._text: dict[int, list[str]] = {}
        self._tools: list[str] = []

    @property
    def texts(self) -> list[str]:
        """The text of each choice."""
        return ["".join(parts) for _, parts in sorted(self._text.items())]

    @property
    def tool_call_ids(self) -> list[str]:
        """Ids of the tool calls that were asked for."""
        return list(dict.fromkeys(self._tools))

    def read(self, data: bytes) -> None:
        """Take in one chunk or a whole reply; what is not understood is left alone."""
        try:
            reply = _REPLY.decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return
        if reply.usage is not None:
            self.usage = usage_of(reply.usage) or self.usage
        if reply.error is not None:
            self.failed = True
        for choice in reply.choices or ():
            part = choice.delta or choice.message
            if part is not None:
                for text in (part.reasoning, part.reasoning_content, part.content):
                    self._add(choice.index, text)
                self._read_tools(choice.index, part.tool_calls)
            self._add(choice.index, choice.text)
        if reply.type == "response.output_text.delta":
            self._add(0, reply.delta)
        elif isinstance(reply.response, dict):
            self._read_response(reply.response)
        if isinstance(reply.output, list):
            self._read_items(reply.output)

    def read_events(self, data: bytes) -> None:
        """Take in whole server-sent events."""
        for line in data.split(b"\n"):
            if line.startswith(b"data:"):
                payload = line[5:].strip()
                if payload != b"[DONE]":
                    self.read(payload)

    def _add(self, index: int, text: Any) -> None:
        if isinstance(text, str) and text:
            self._text.setdefault(index, []).append(text)

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
                self.usage = usage_of(msgspec.convert(response["usage"], _Usage)) or self.usage
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
        feed, feeds = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
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
    if b'"usage"' not in events:
        return events
    separator = b"\r\n\r\n" if b"\r\n\r\n" in events else b"\n\n"
    kept = [event for event in events.split(separator) if not _only_usage(event)]
    return separator.join(kept)


def _only_usage(event: bytes) -> bool:
    if b'"usage"' not in event or not event.startswith(b"data:"):
        return False
    try:
        reply = _REPLY.decode(event[5:].strip())
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return False
    return reply.choices == [] and reply.usage is not None
