"""Attribution, provenance, the recording file, dependency inference and the trace that follows."""

import itertools
import json
import random
import statistics
import time
from collections import Counter

import msgspec
import networkx as nx
import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from executor.recording import provenance as module
from executor.recording.attribution import Isolated, attribute
from executor.recording.config import Recording
from executor.recording.log import RecordLog
from executor.recording.provenance import (
    MAX_CALLS_OF_ONE_TEXT,
    MAX_MARKS,
    MIN_CONTAINED,
    MIN_MARKS,
    MIN_QUOTED,
    WINDOW_BYTES,
    WINDOWS_PER_MARK,
    Provenance,
    Windows,
    squeeze,
)
from executor.recording.recorder import Recorder
from executor.wire import stream as stream_module
from executor.wire.body import Body, ask_for_usage, prompt_texts, read_body, tool_result_ids
from executor.wire.stream import EventSplitter, Output, without_usage
from scepsy.errors import InputError
from scepsy.importers.recorded.dependencies import GUESS, JOIN, LONE, infer_edges, latest_finishers
from scepsy.importers.recorded.reader import load_recording
from scepsy.importers.recorded.record import PREFIX_BYTES, CallRecord, Header, SourceCall
from scepsy.importers.recorded.trace import to_trace

HEADER = Header(session="s", started_s=0.0)


def record(name, start_s, end_s, *, sources=(), llm="m", kind="generate", findable=True, **fields):
    defaults = {"run": "r", "workflow": "w", "outcome": "completed", "input_tokens": 100, "input_bytes": 100}
    return CallRecord(
        id=name, session="s", rung="header", llm=llm, endpoint="chat/completions", kind=kind, start_s=start_s, end_s=end_s,
        output_tokens=10 if kind == "generate" else 0, can_be_source=findable and kind == "generate",
        sources=tuple(SourceCall(call=call, contained_pct=100) for call in sources), **(defaults | fields),
    )  # fmt: skip


def pairs(calls):
    return [(edge.parent, edge.child, edge.by) for edge in infer_edges(calls)]


# --- attribution -----------------------------------------------------------------------------------------------------

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
LADDER = [
    ({"X-Scepsy-Run": "run-1"}, {}, "", "", ("run-1", "header")),
    ({"X-Session-Id": "s-1"}, {}, "", "", ("s-1", "session-header")),
    ({"x-claude-code-session-id": "s-2"}, {}, "", "", ("s-2", "session-header")),
    ({"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}, {}, "", "", (TRACE_ID, "traceparent")),
    ({"baggage": "user=u, session.id=a%20b;ttl=1"}, {}, "", "", ("a b", "baggage")),
    ({}, {"session_id": "s-3"}, "", "", ("s-3", "body")),
    ({}, {"metadata": {"thread_id": 7}}, "", "", ("7", "body")),
    ({}, {}, "p-1", "", ("p-1", "path")),
    ({}, {}, "", "k-1", ("k-1", "key")),
    ({}, {}, "", "", ("", "none")),
]


@pytest.mark.parametrize(("headers", "body", "path", "key", "expected"), LADDER)
def test_each_rung_attributes(headers, body, path, key, expected):
    assert attribute(CIMultiDict(headers), Body(model="m", **body), path, key) == expected


def test_the_first_rung_that_matches_wins():
    for better, worse in itertools.combinations(LADDER[:-1], 2):
        headers = CIMultiDict({**worse[0], **better[0]})
        body = Body(model="m", **{**worse[1], **better[1]})
        found = attribute(headers, body, better[2] or worse[2], better[3] or worse[3])
        if better[4][1] != worse[4][1]:
            assert found == better[4]


@pytest.mark.parametrize("header", ["", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "00-xyz-1-01", f"{TRACE_ID}"])
def test_a_traceparent_that_is_none_attributes_nothing(header):
    assert attribute({"traceparent": header}, Body(model="m")) == ("", "none")


def test_isolated_runs_are_split_by_silence():
    isolated = Isolated(2.0, "i")
    names = []
    for start_s, end_s in ((0, 1), (1.5, 9), (9.5, 10), (12.5, 13)):
        names.append(isolated.begin(start_s))
        isolated.end(end_s)
    assert names == ["i-1", "i-1", "i-1", "i-2"]


def test_overlapping_isolated_calls_share_a_run():
    isolated = Isolated(0.1, "i")
    first, second = isolated.begin(0), isolated.begin(5)
    assert first == second


# --- provenance ------------------------------------------------------------------------------------------------------


def naive_window_hashes(windows: Windows, data: bytes) -> list[int]:
    """Every window on its own: what the prefix sums must give."""
    base, mix = windows._base, windows._mix
    return [
        mix * sum(byte * pow(base, j, 2**64) for j, byte in enumerate(data[start : start + WINDOW_BYTES])) % 2**64
        for start in range(len(data) - WINDOW_BYTES + 1)
    ]


def naive_prefixes(windows: Windows, data: bytes) -> tuple[int, ...]:
    found = []
    for end in range(PREFIX_BYTES, len(data) + 1, PREFIX_BYTES):
        value = sum(byte * pow(windows._base, j, 2**64) for j, byte in enumerate(data[:end])) % 2**64
        value = ((value ^ (value >> 31)) * windows._mix) % 2**64
        found.append((value ^ (value >> 29)) >> 12)
    return tuple(found)


@given(st.binary(max_size=300), st.binary(min_size=1, max_size=16))
@example(random.Random(1).randbytes(2 * module.FEW * PREFIX_BYTES), b"key")
@settings(max_examples=60, deadline=None)
def test_hashes_are_those_of_each_window_and_prefix_on_its_own(data, secret):
    windows = Windows(secret)
    expected = [value for value in naive_window_hashes(windows, data) if value < 2**64 // WINDOWS_PER_MARK]
    assert windows.marks(data).tolist() == expected
    assert windows.prefixes(data) == naive_prefixes(windows, data)


def test_one_window_in_four_is_sampled():
    windows = Windows(b"secret")
    assert len(windows.marks(random.Random(1).randbytes(80_000))) == pytest.approx(80_000 / WINDOWS_PER_MARK, rel=0.05)


def test_prefix_hashes_agree_exactly_as_far_as_the_texts_do():
    windows = Windows(b"secret")
    rng = random.Random(1)
    text = rng.randbytes(1000)
    for cut in (0, 1, 63, 64, 65, 500, 999):
        other = bytearray(text)
        other[cut] ^= 1
        mine, theirs = (windows.prefixes(bytes(data)) for data in (text, other))
        same = sum(a == b for a, b in zip(mine, theirs, strict=True))
        assert same == cut // PREFIX_BYTES


WORDS = [f"word{number}" for number in range(400)]


def sentence(seed, length=30):
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def test_an_output_is_found_wherever_a_template_puts_it():
    provenance = Provenance(b"k")
    outputs = {f"c{number}": sentence(number) for number in range(8)}
    for call, text in outputs.items():
        assert provenance.see_output("r", call, [text], [])
    template = ["You are a judge.", f"Answers:\n1. {outputs['c2']}\n2. {outputs['c5'].strip()}\nWhich is best?"]
    sources = provenance.see_input("r", template, []).sources
    assert {source.call for source in sources} == {"c2", "c5"}
    assert provenance.see_input("another run", template, []).sources == ()


def test_a_cut_output_is_found_and_a_shared_phrase_is_not_enough():
    provenance = Provenance(b"k")
    text = sentence(1, 60)
    provenance.see_output("r", "a", [text], [])
    (source,) = provenance.see_input("r", [text[: int(0.8 * len(text))]], []).sources
    assert 60 <= source.contained_pct < 100
    (source,) = provenance.see_input("r", [text[: int(0.3 * len(text))]], []).sources
    assert 10 <= source.contained_pct < 60
    assert provenance.see_input("r", [text[:36]], []).sources == ()


def test_what_a_call_only_repeats_it_did_not_say():
    """The judge quotes what both were asked: that makes neither of them its source."""
    provenance = Provenance(b"k")
    question = sentence(9, 60)
    for call in ("a", "b"):
        seen = provenance.see_input("r", ["Answer: " + question], [])
        provenance.see_output("r", call, [f"You ask: {question} I say {sentence(ord(call), 40)}"], [], seen.marks)
    (source,) = provenance.see_input("r", [f"Q: {question} A: {sentence(ord('a'), 40)}"], []).sources
    assert source.call == "a"
    assert provenance.see_input("r", [question], []).sources == ()


def test_phrases_that_everybody_says_are_no_evidence():
    provenance = Provenance(b"k")
    for number in range(6):
        provenance.see_output(
            "r", f"c{number}", ["Sure! Here is a summary of the document that you sent: " + sentence(number, 60)], []
        )
    assert provenance.see_input("r", ["Sure! Here is a summary of the document that you sent: nothing"], []).sources == ()


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=200), st.sampled_from([True, False]))
def test_quoting_in_json_hides_nothing(text, ascii_only):
    text = text.replace("\\", "/")
    plain = squeeze(text.replace("\x7f", ""))
    for _ in range(2):
        text = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
    if not ascii_only and all(char.isprintable() for char in text):
        assert squeeze(text) == plain


def test_memory_is_bounded_whatever_the_runs_do():
    provenance = Provenance(b"k")
    rng = random.Random(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_MARKS_HELD", 5000)
        for number in range(1000):
            run = ("one", "", f"r{number}")[number % 3]
            seen = provenance.see_input(run, [sentence(number)], [])
            said = [sentence(rng.random(), 40), "short", f"again and again {number % 20}"]
            provenance.see_output(run, f"c{number}", said, [f"t{number}"], seen.marks)
            assert provenance.held <= 5000
    held = sum(module._weight(said) for scope in provenance._scopes.values() for said in scope.calls.values())
    assert held == provenance.held
    assert sum(len(scope.calls) for scope in provenance._scopes.values()) == len(provenance._order) < 120
    for scope in provenance._scopes.values():
        for index in (scope.marks, scope.messages, scope.tools):
            assert all(index.values())
            assert {owner for owners in index.values() for owner in owners} <= scope.calls.keys()


def test_a_long_prompt_leaves_nothing_behind():
    provenance = Provenance(b"k")
    before = psutil.Process().memory_info().rss
    for number in range(3):
        seen = provenance.see_input("r", [random.Random(number).randbytes(4 * 1024**2).hex()], [])
        assert seen.input_bytes == 8 * 1024**2
    del seen
    assert psutil.Process().memory_info().rss - before < 48 * 1024**2
    assert len(provenance._windows._powers) <= 2 * module.PREFIX_BYTES * module.MAX_PREFIXES


def test_of_equal_outputs_the_latest_are_all_sources():
    provenance = Provenance(b"k")
    for number in range(MAX_CALLS_OF_ONE_TEXT + 3):
        provenance.see_output("r", f"c{number}", [sentence(1)], [])
    for text in (sentence(1), "> " + sentence(1)):
        sources = provenance.see_input("r", [text], []).sources
        assert {source.call for source in sources} == {f"c{number}" for number in range(3, MAX_CALLS_OF_ONE_TEXT + 3)}


def test_short_outputs_are_found_as_whole_messages_and_trivial_ones_never():
    provenance = Provenance(b"k")
    assert not provenance.see_output("r", "a", ["Paris, France"], [])
    assert not provenance.see_output("r", "b", ["7"], [])
    assert [s.call for s in provenance.see_input("r", ["user", " Paris, France\n", "7"], []).sources] == ["a"]


def naive_sources(windows, outputs, text):
    """By the definition, one window at a time: the marks of each output, and the part of them in the text."""

    def marks(data):
        return sorted({value for value in naive_window_hashes(windows, squeeze(data)) if value < 2**64 // WINDOWS_PER_MARK})

    mine, found = set(marks(text)), {}
    kept = {call: marks(output)[:MAX_MARKS] for call, output in outputs.items()}
    said_by = Counter(mark for marks_of in kept.values() for mark in marks_of)
    for call, marks_of in kept.items():
        hits = mine & set(marks_of)
        whole = len(marks_of) >= MIN_MARKS and len(hits) / len(marks_of) >= MIN_CONTAINED
        if whole or sum(1 / said_by[mark] for mark in hits) >= MIN_QUOTED:
            found[call] = round(100 * len(hits) / len(marks_of))
    return found


@given(st.integers(0, 10**6), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300), st.integers(0, 1000)), max_size=3))
@settings(max_examples=40, deadline=None)
def test_sources_are_those_of_the_definition(seed, quotes):
    provenance = Provenance(b"k")
    outputs = {f"c{n}": sentence(seed + n, 5 + 40 * n) for n in range(4)}
    for call, output in outputs.items():
        kept = [
            value for value in naive_window_hashes(provenance._windows, squeeze(output)) if value < 2**64 // WINDOWS_PER_MARK
        ]
        assert provenance.see_output("r", call, [output], []) == (len(set(kept)) >= MIN_MARKS)
    text = "Judge: " + " or ".join(outputs[f"c{which}"][start : start + length] for which, start, length in quotes)
    found = provenance.see_input("r", [text], []).sources
    assert {source.call: source.contained_pct for source in found} == naive_sources(provenance._windows, outputs, text)


def test_of_very_many_calls_the_oldest_are_forgotten_and_leave_nothing(monkeypatch):
    monkeypatch.setattr(module, "MAX_CALLS_PER_RUN", 3)
    provenance = Provenance(b"k")
    for number, said in enumerate((0, 1, 2, 3, 1)):
        provenance.see_output("r", f"c{number}", [sentence(said)], [])
    run = provenance._scopes["r"]
    assert set().union(*run.marks.values()) == set(run.calls) == {"c2", "c3", "c4"}
    assert provenance.see_input("r", ["> " + sentence(0)], []).sources == ()
    assert [source.call for source in provenance.see_input("r", ["> " + sentence(1)], []).sources] == ["c4"]


def test_tool_results_point_to_the_call_that_asked():
    provenance = Provenance(b"k")
    assert provenance.see_output("r", "a", [""], ["call_1"])
    (source,) = provenance.see_input("r", ["sunny"], ["call_1"]).sources
    assert (source.call, source.by) == ("a", "tool")


# --- what is read from bodies and replies ----------------------------------------------------------------------------


@pytest.mark.parametrize("body", ['{"model":"m","stream":true}', '{"model":"m","stream_options":{"x":1}, "stream":true}'])
def test_usage_is_asked_for_and_nothing_else_changes(body):
    changed = json.loads(ask_for_usage(body.encode(), read_body(body.encode())))
    assert changed.pop("stream_options")["include_usage"] is True
    expected = json.loads(body)
    expected.pop("stream_options", None)
    assert changed == expected


def test_texts_of_a_conversation_with_tools():
    body = read_body(
        json.dumps(
            {
                "model": "m",
                "messages": [
                    {"role": "system", "content": "be brief"},
                    {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
                    {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1"}]},
                    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
                ],
            }
        ).encode()
    )
    texts = prompt_texts(body)
    assert {"be brief", "weather?", "sunny"} <= set(texts)
    assert tool_result_ids(body) == ["call_1"]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.sampled_from([b"\n\n", b"\r\n\r\n"]))
def test_a_stream_cut_anywhere_is_put_together_unchanged(cuts, separator):
    events = [b'data: {"choices":[{"index":0,"delta":{"content":"t%d"}}]}' % i for i in range(6)]
    data = separator.join(
        [*events, b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":6}}', b"data: [DONE]", b""]
    )
    splitter, output, forwarded, stripped, at = EventSplitter(), Output(), b"", b"", 0
    for cut in [*cuts, len(data)]:
        events_now = splitter.feed(data[at : at + cut])
        at += cut
        output.read_events(events_now)
        forwarded += events_now
        stripped += without_usage(events_now)
    assert forwarded + splitter.rest() == data
    assert stripped == separator.join([*events, b"data: [DONE]", b""])
    assert output.texts == ["t0t1t2t3t4t5"]
    assert (output.usage.input_tokens, output.usage.output_tokens) == (3, 6)


PAYLOADS = st.sampled_from(
    [
        '{"choices":[{"index":0,"delta":{"role":"assistant","content":"a "}}]}',
        '{"choices":[{"index":1,"delta":{"reasoning_content":"b ","content":"c "}}]}',
        '{"choices":[{"delta":{"tool_calls":[{"id":"t1","function":{"name":"f","arguments":"{}"}}]}}],"usage":null}',
        '{"choices":[{"index":0,"text":"d \\n"}], "usage":{"prompt_tokens":3,"completion_tokens":6}}',
        '{"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":2}}}',
        '{"error":{"message":"as asked"}}',
        '{"type":"response.output_text.delta","delta":"e "}',
        '{"response":{"usage":{"input_tokens":4},"output":[{"call_id":"t2","content":[{"text":"f"}]}]}}',
        '{"choices":[{"index":"zero"}]}',
        '{"choices":[{"index":0,',
        '"text":"split"}]}',
        "[]",
        "null",
        "[DONE]",
        "",
        "\xff",
    ]
)
LINES = st.tuples(st.sampled_from(["data: ", "data:", "data:  ", "event: ", ": ", "id"]), PAYLOADS, st.sampled_from(["", "\r"]))


@example([("data: ", '{"choices":[{"index":0,', ""), ("data: ", '"text":"split"}]}', "")], [], 500)
@given(st.lists(LINES, max_size=30), st.lists(st.integers(1, 30), max_size=30), st.integers(1, 500))
def test_events_read_together_say_what_they_say_one_by_one(lines, cuts, at_once):
    data = "".join(f"{field}{payload}{end}\n{end}\n" for field, payload, end in lines).encode("latin-1")
    one_by_one = Output()
    for line in data.split(b"\n"):
        if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
            one_by_one.read(line[5:].strip())
    together, events = Output(), data.split(b"\n\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_module, "READ_BYTES", at_once)
        for cut in [*cuts, len(events)]:
            now, events = events[:cut], events[cut:]
            together.read_events(b"".join(event + b"\n\n" for event in now))
    for field in ("texts", "tool_call_ids", "usage", "failed"):
        assert getattr(together, field) == getattr(one_by_one, field), field


def naive_without_usage(events: bytes) -> bytes:
    separator = b"\r\n\r\n" if b"\r\n\r\n" in events else b"\n\n"
    kept = []
    for event in events.split(separator):
        try:
            found = json.loads(event.removeprefix(b"data:")) if event.startswith(b"data:") else {}
        except ValueError:
            found = {}
        if not (isinstance(found, dict) and found.get("choices") == [] and found.get("usage") is not None):
            kept.append(event)
    return separator.join(kept)


USAGES = st.sampled_from(
    [
        'data: {"choices":[],"usage":{"prompt_tokens":3}}',
        'data: {"id":"x", "choices": [ ] , "usage": {"prompt_tokens":3,"details":{"x":1}}}',
        'data: {"choices":[],"usage":null}',
        'data: {"choices":[{"index":0,"delta":{"content":"the \\"usage\\" of"}}],"usage":null}',
        'data: {"choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":3}}',
        'data: {"choices":[],"usage"',
        ': "usage" in a comment',
        "data: [DONE]",
    ]
)


@given(st.lists(USAGES, max_size=6), st.sampled_from(["\n\n", "\r\n\r\n"]))
def test_only_events_that_carry_nothing_but_usage_are_kept_back(events, separator):
    data = separator.join([*events, ""]).encode()
    assert without_usage(data) == naive_without_usage(data)


def test_a_responses_stream_is_read():
    output = Output()
    output.read_events(
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"hi"}\n\n'
        b'event: response.completed\ndata: {"type":"response.completed","response":{"usage":{"input_tokens":4,'
        b'"output_tokens":1,"input_tokens_details":{"cached_tokens":2}},"output":[{"content":[{"text":"hi"}]}]}}\n\n'
    )
    assert output.texts == ["hi"]
    assert (output.usage.input_tokens, output.usage.cached_tokens) == (4, 2)


# --- the file --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2000))
@settings(max_examples=60, deadline=None)
def test_a_file_cut_anywhere_loads_all_whole_records(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("log") / "calls.jsonl"
    log = RecordLog(path, HEADER)
    for number in range(6):
        log.write(record(f"c{number}", number, number + 1))
    log.close()
    data = path.read_bytes()
    cut = max(data.index(b"\n") + 1, len(data) - cut)
    path.write_bytes(data[:cut])
    recorded = load_recording(path)
    assert len(recorded.calls) == data[:cut].count(b"\n") - 1 + (data[cut : cut + 1] == b"\n")
    assert recorded.torn_lines == (data[cut - 1 : cut] != b"\n" and data[cut : cut + 1] != b"\n")


def test_a_foreign_file_and_a_wrong_field_are_refused(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(InputError, match=r"x\.jsonl: line 1:"):
        load_recording(path)
    path.write_bytes(msgspec.json.encode(record("a", 0, 1)) + b"\n")
    with pytest.raises(InputError, match="format is missing"):
        load_recording(path)


def test_text_is_kept_only_when_asked(tmp_path):
    for text in (False, True):
        recorder = Recorder(Recording(path=f"{text}.jsonl", text=text), tmp_path)
        body = read_body(b'{"model":"m","messages":[{"role":"user","content":"a very secret question"}]}')
        call = recorder.begin("chat/completions", {}, body, "run", "", "")
        output = Output()
        output.read(b'{"choices":[{"message":{"content":"a very secret answer"}}],"usage":{"prompt_tokens":1}}')
        recorder.end(call, outcome="completed", output=output)
        recorder.end(call, outcome="failed", output=output)  # ended already: no second record
        recorder.close()
        written = (tmp_path / f"{text}.jsonl").read_text()
        assert ("secret question" in written) == ("secret answer" in written) == text
        assert len(load_recording(tmp_path / f"{text}.jsonl").calls) == 1


def test_forgetting_marks_costs_no_more_the_longer_it_goes_on():
    provenance, rng = Provenance(b"k"), random.Random(1)

    def cost_s() -> float:
        marks = [rng.randrange(module._SKETCHED) for _ in range(module.MAX_INPUT_MARKS_COUNTED)]
        began_s = time.thread_time()
        provenance._sketch(marks, None)
        return time.thread_time() - began_s

    filling = [cost_s() for _ in range(module.MAX_MARKS_COUNTED // module.MAX_INPUT_MARKS_COUNTED)]
    full = [cost_s() for _ in filling]
    assert len(provenance._counts) == module.MAX_MARKS_COUNTED
    assert statistics.median(full) < 6 * statistics.median(filling)


@pytest.mark.slow
@pytest.mark.parametrize("run_of", ["one for ever", "r{}", ""], ids=["one run for ever", "a run a call", "no run"])
def test_memory_does_not_grow_over_a_hundred_thousand_calls(tmp_path, run_of):
    """Once all that is remembered is full (``MAX_MARKS_HELD``), more calls need no more memory."""
    recorder = Recorder(Recording(path="calls.jsonl"), tmp_path)
    rng, process, sizes = random.Random(1), psutil.Process(), []
    for number in range(100_000):
        # Texts of their own: what many calls say alike is remembered once.
        question, said = (rng.randbytes(60).hex() for _ in range(2))
        data = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % question.encode()
        call = recorder.begin("chat/completions", {"x-scepsy-run": run_of.format(number)}, read_body(data), "", "", "", data)
        recorder.see_input(call)
        output = Output()
        output.read(b'{"choices":[{"message":{"content":"%b"}}],"usage":{"prompt_tokens":9}}' % said.encode())
        recorder.end(call, outcome="completed", output=output)
        if number % 25_000 == 24_999:
            sizes.append(process.memory_info().rss)
    recorder.close()
    assert recorder.written == 100_000
    assert sizes[-1] - sizes[1] < 24 * 1024**2, [f"{size / 1024**2:.0f} MiB" for size in sizes]


# --- dependencies ----------------------------------------------------------------------------------------------------


def test_a_chain_by_time_alone():
    calls = [record("a", 0, 1), record("b", 1.5, 2), record("c", 3, 4)]
    assert pairs(calls) == [("a", "b", "time"), ("b", "c", "time")]
    assert {edge.confidence for edge in infer_edges(calls)} == {LONE}


def test_a_fan_out_and_its_join_by_time_alone():
    calls = [record("a", 0, 1), *(record(f"b{i}", 1.1, 2 + i / 10) for i in range(3)), record("c", 2.5, 3)]
    edges = infer_edges(calls)
    assert {(e.parent, e.child) for e in edges} == {("a", f"b{i}") for i in range(3)} | {(f"b{i}", "c") for i in range(3)}
    assert {e.confidence for e in edges if e.child == "c"} == {JOIN}


def test_two_chains_side_by_side_are_told_apart_by_content():
    calls = [
        record("a1", 0, 1),
        record("a2", 0, 1.2),
        record("b1", 1.3, 2, sources=["a1"]),
        record("b2", 1.4, 2, sources=["a2"]),
    ]
    assert pairs(calls) == [("a1", "b1", "text"), ("a2", "b2", "text")]
    blind = [record(c.id, c.start_s, c.end_s) for c in calls]
    assert len(pairs(blind)) == 4, "time alone cannot tell them apart"


def test_scores_that_no_hash_can_show_are_waited_for_too():
    """A beam-search step: its input holds the last step's text, and it waited for that text's scores."""
    calls = [
        record("step1", 0, 1),
        record("score1", 1.1, 1.5, kind="rerank", llm="prm"),
        record("step2", 1.6, 2, sources=["step1"]),
    ]
    assert pairs(calls) == [("step1", "score1", "time"), ("score1", "step2", "time")]


def test_a_longer_path_replaces_the_shortcut():
    calls = [record("a", 0, 1), record("b", 1.1, 2, sources=["a"]), record("c", 2.1, 3, sources=["a", "b"])]
    assert pairs(calls) == [("a", "b", "text"), ("b", "c", "text")]


def test_a_source_still_running_is_no_parent():
    assert pairs([record("a", 0, 5), record("b", 1, 2, sources=["a"])]) == []


def test_a_lone_finisher_beside_a_running_call_is_a_guess():
    (edge,) = infer_edges([record("a", 0, 1), record("long", 0, 9), record("b", 2, 3)])
    assert (edge.parent, edge.confidence) == ("a", GUESS)


def naive_latest_finishers(child, over):
    return [a for a in over if not any(c is not a and c.start_s >= a.end_s and c.end_s <= child.start_s for c in over)]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), min_size=1, max_size=25))
def test_latest_finishers_as_defined(spans):
    calls = [record(f"c{i}", float(start), float(start + length)) for i, (start, length) in enumerate(spans)]
    child = record("child", 20.0, 21.0)
    over = [call for call in calls if call.end_s <= child.start_s]
    assert latest_finishers(child, over) == naive_latest_finishers(child, over)


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 10), st.lists(st.integers(0, 20), max_size=3)), min_size=1, max_size=20
    )
)
def test_inferred_graphs_are_reduced_and_respect_time(spans):
    calls = [
        record(f"c{i}", float(start), float(start + length), sources=sorted({f"c{s}" for s in sources} - {f"c{i}"}))
        for i, (start, length, sources) in enumerate(spans)
    ]
    by_id = {call.id: call for call in calls}
    edges = infer_edges(calls)
    for edge in edges:
        assert by_id[edge.parent].end_s <= by_id[edge.child].start_s
    graph = nx.DiGraph((edge.parent, edge.child) for edge in edges)
    assert set(nx.transitive_reduction(graph).edges) == set(graph.edges)


# --- the trace -------------------------------------------------------------------------------------------------------


def test_gaps_lengths_and_times_of_a_recorded_run():
    calls = [
        record("x", 100.0, 101.0, input_tokens=50),
        record("y", 101.5, 103.0, sources=["x"], llm="judge"),
        record("z", 100.2, 100.4, run="other"),
        record("w", 104.0, 105.0, outcome="failed"),
    ]
    trace = to_trace(calls, "test")
    first, second = trace.runs
    assert (first.id, first.arrival_s, second.id, second.arrival_s) == ("r", 0.0, "other", pytest.approx(0.2))
    assert [(c.llm, c.parents, c.input_tokens) for c in first.calls] == [("m", (), 50), ("judge", ("c0",), 100)]
    assert first.calls[1].gap_s == pytest.approx(0.5)
    assert (first.calls[1].start_s, first.calls[1].end_s) == (pytest.approx(1.5), pytest.approx(3.0))
    assert "left out: 1 failed calls" in trace.source.notes


def test_prefix_blocks_are_shared_as_far_as_the_prompts_agree():
    windows = Windows(b"k")
    text = random.Random(2).randbytes(640)
    other = text[:320] + random.Random(3).randbytes(320)
    calls = [
        record(name, number, number + 0.5, input_tokens=640, input_bytes=640, prefix=windows.prefixes(data))
        for number, (name, data) in enumerate((("a", text), ("b", other)))
    ]
    a, b = to_trace(calls, "test").runs[0].calls
    assert len(a.prefix_hashes) == 40  # one byte a token: 16 tokens, 16 bytes a block
    shared = sum(x == y for x, y in zip(a.prefix_hashes, b.prefix_hashes, strict=True))
    assert shared == 320 // 16
    assert len(set(a.prefix_hashes)) == 40


def test_a_recording_without_a_completed_call_is_no_trace():
    with pytest.raises(InputError, match="no completed call"):
        to_trace([record("a", 0, 1, outcome="failed")], "test")
