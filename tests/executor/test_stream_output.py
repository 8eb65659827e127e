"""What a stream's events say is the same read together, by the short way for ordinary events, and one by one."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from executor.wire import stream
from executor.wire.stream import Output

TEXTS = st.one_of(st.text(max_size=12), st.none(), st.integers(), st.just(""))
TOOLS = st.one_of(
    st.none(),
    st.just([]),
    st.lists(st.fixed_dictionaries({"id": st.text(max_size=3), "function": st.just({"arguments": "{}"})}), max_size=2),
)
DELTAS = st.fixed_dictionaries(
    {"content": TEXTS}, optional={"reasoning": TEXTS, "reasoning_content": TEXTS, "tool_calls": TOOLS}
)
CHOICES = st.fixed_dictionaries(
    {"index": st.integers(0, 2)}, optional={"delta": DELTAS, "message": DELTAS, "text": st.text(max_size=4)}
)
USAGE = st.one_of(
    st.none(), st.just({"prompt_tokens": 3, "completion_tokens": 2}), st.just({"prompt_tokens": -3, "completion_tokens": 2})
)
EVENTS = st.fixed_dictionaries(
    {"choices": st.lists(CHOICES, max_size=2)},
    optional={
        "usage": USAGE,
        "error": st.just({"message": "no"}),
        "type": st.just("response.output_text.delta"),
        "delta": st.text(max_size=3),
    },
)


def said(output: Output) -> tuple[Any, ...]:
    """Everything that an output tells."""
    return output.usage, output.failed, output.absurd_usage, output.texts, output.dropped_bytes, output.tool_call_ids


@given(st.lists(EVENTS, max_size=8), st.integers(0, 30))
def test_events_read_together_say_what_each_says_alone(events: list[dict[str, Any]], left: int) -> None:
    together, alone = Output(), Output()
    together._left = alone._left = left  # so that the bound on kept text is met too
    payloads = [json.dumps(event).encode() for event in events]
    together.read_events(b"".join(b"data: " + payload + b"\n\n" for payload in payloads))
    for payload in payloads:
        alone.read(payload)
    assert said(together) == said(alone)


def test_ordinary_events_take_the_short_way(monkeypatch: Any) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(stream.Output, "_take", lambda self, reply: taken.append(reply))
    output = Output()
    output._text[0] = stream.io.StringIO(newline="")
    output.read_events(b'data: {"choices":[{"index":0,"delta":{"content":"yes"}}]}\n\n')
    assert output.texts == ["yes"]
    assert taken == []


def test_the_bound_on_kept_text_holds_on_the_short_way_too() -> None:
    output = Output()
    output._left = 5
    said = ["abc", "defg", "x"]  # the second is longer than what is left, and after a gap nothing is kept
    output.read_events(b"".join(b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % text.encode() for text in said))
    assert (output.texts, output.dropped_bytes) == (["abc"], 5)
