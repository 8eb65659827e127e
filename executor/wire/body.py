"""Reading a request body: what routing and recording need to know, leaving the bytes as they are."""

from typing import Any

import msgspec

USAGE_OPTION = b'"stream_options":{"include_usage":true}'


class Body(msgspec.Struct):
    """The fields that the gateway looks at; everything else is the engine's business."""

    model: Any = None
    stream: Any = False
    stream_options: Any = None
    messages: Any = None
    system: Any = None
    prompt: Any = None
    input: Any = None
    instructions: Any = None
    tools: Any = None
    query: Any = None
    documents: Any = None
    text_1: Any = None
    text_2: Any = None
    queries: Any = None
    metadata: Any = None
    session_id: Any = None


_DECODER = msgspec.json.Decoder(Body)


def read_body(data: bytes) -> Body:
    """Decode a request body. Raises ``ValueError``, for the client to read, when it is no JSON object that names a model."""
    try:
        body = _DECODER.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise ValueError("The request body is not a JSON object.") from None
    if not isinstance(body.model, str) or not body.model:
        raise ValueError("The request names no model: add a 'model' string.")
    return body


def wants_usage(body: Body) -> bool:
    """Whether the client itself asked for a usage chunk at the end of its stream."""
    return isinstance(body.stream_options, dict) and bool(body.stream_options.get("include_usage"))


def ask_for_usage(data: bytes, body: Body) -> bytes:
    """The same request, asking for a usage chunk at the end of its stream; all other bytes stay as they are if possible.

    >>> ask_for_usage(b'{"model": "m", "stream": true}', Body(model="m", stream=True))
    b'{"model": "m", "stream": true,"stream_options":{"include_usage":true}}'
    """
    if body.stream_options is None and b'"stream_options"' not in data:
        return data[: data.rindex(b"}")] + b"," + USAGE_OPTION + b"}"
    document = msgspec.json.decode(data)
    options = document.get("stream_options")
    document["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    return msgspec.json.encode(document)


def prompt_texts(body: Body) -> list[str]:
    """Every piece of text in the request, in the order the engine reads it; roles and tools included."""
    texts: list[str] = []
    if body.tools:
        texts.append(msgspec.json.encode(body.tools).decode())
    for part in (body.instructions, body.system, body.prompt, body.input, body.text_1, body.query, body.queries):
        _collect(part, texts)
    _collect(body.messages, texts)
    for part in (body.text_2, body.documents):
        _collect(part, texts)
    return texts


def _collect(part: Any, texts: list[str]) -> None:
    if part is None:
        return
    if isinstance(part, str):
        texts.append(part)
    elif isinstance(part, list):
        if part and isinstance(part[0], int):
            texts.append(" ".join(map(str, part)))  # a prompt given as token ids
        else:
            for item in part:
                _collect(item, texts)
    elif isinstance(part, dict):
        role = part.get("role")
        if isinstance(role, str):
            texts.append(f"\x1e{role}\x1f")
        found = False
        for key in ("text", "content", "output", "arguments", "name"):
            if key in part:
                found = True
                _collect(part[key], texts)
        if part.get("type") == "tool_use" and "input" in part:
            found = True
            texts.append(msgspec.json.encode(part["input"]).decode())
        if part.get("tool_calls"):
            found = True
            texts.append(msgspec.json.encode(part["tool_calls"]).decode())
        if not found:
            texts.append(msgspec.json.encode(part).decode())
    else:
        texts.append(str(part))


def tool_result_ids(body: Body) -> list[str]:
    """Ids of the tool calls whose results the request carries."""
    ids: list[str] = []
    for items in (body.messages, body.input):
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict):
                _note_result(item, ids)
                for part in item["content"] if isinstance(item.get("content"), list) else ():
                    if isinstance(part, dict) and part.get("type") == "tool_result":
                        _note_result({"tool_call_id": part.get("tool_use_id")}, ids)
    return ids


def _note_result(item: dict[str, Any], ids: list[str]) -> None:
    found = item.get("tool_call_id") or (item.get("call_id") if item.get("type") == "function_call_output" else None)
    if isinstance(found, str):
        ids.append(found)


def turns_of(body: Body) -> int:
    """How many messages of the conversation the model or a tool had said before."""
    turns = 0
    for items in (body.messages, body.input):
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and (item.get("role") in ("assistant", "tool") or "call_id" in item):
                turns += 1
    return turns
