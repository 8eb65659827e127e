"""Spans in and out: what is exported comes back, and spans of other tools are read as their conventions say."""

import json

import pytest

from scepsy.errors import InputError
from scepsy.files.otlp import save_otlp
from scepsy.generate import generate
from scepsy.importers.registry import find_importer
from scepsy.workload import Call, Run, Trace, TraceSource


def attribute(key, value):
    kind = "intValue" if isinstance(value, int) else "stringValue"
    return {"key": key, "value": {kind: str(value) if isinstance(value, int) else value}}


def span(span_id, start_s, end_s, *, trace="t1", parent="", name="chat m", status=None, **attributes):
    found = {
        "traceId": trace,
        "spanId": span_id,
        "parentSpanId": parent,
        "name": name,
        "startTimeUnixNano": str(int(start_s * 1e9)),
        "endTimeUnixNano": str(int(end_s * 1e9)),
        "attributes": [attribute(key.replace("__", "."), value) for key, value in attributes.items()],
    }
    return {**found, **({"status": {"code": status}} if status else {})}


def write(path, *spans):
    path.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}))
    return path


GENAI = {"gen_ai__operation__name": "chat", "gen_ai__request__model": "m", "gen_ai__usage__input_tokens": 10,
         "gen_ai__usage__output_tokens": 5}  # fmt: skip


@pytest.mark.parametrize("convention", ["otel", "openinference"])
@pytest.mark.parametrize("workflow", ["rag-rerank", "beam-search", "map-reduce"])
def test_an_exported_trace_comes_back(tmp_path, convention, workflow):
    trace = generate(workflow, runs=4, seed=1)
    save_otlp(tmp_path / "spans.jsonl", trace, convention)
    back = find_importer(convention)([tmp_path / "spans.jsonl"])
    assert len(back.runs) == 4
    for before, after in zip(
        sorted(trace.runs, key=lambda run: len(run.calls)), sorted(back.runs, key=lambda run: len(run.calls)), strict=True
    ):
        assert after.workflow == before.workflow
        assert sorted((c.llm, c.kind, c.input_tokens, c.output_tokens) for c in after.calls) == sorted(
            (c.llm, c.kind, c.input_tokens, c.output_tokens) for c in before.calls
        )


@pytest.mark.parametrize("convention", ["otel", "openinference"])
def test_links_keep_the_graph_the_gaps_and_the_tail(tmp_path, convention):
    calls = (
        Call(id="a", llm="m", input_tokens=5, output_tokens=2, start_s=0.0, end_s=1.0),
        Call(id="b", llm="m", input_tokens=5, output_tokens=2, parents=("a",), gap_s=0.5, start_s=1.5, end_s=2.0),
        Call(id="c", llm="e", kind="embed", input_tokens=5, parents=("a",), start_s=1.0, end_s=1.2),
        Call(id="d", llm="m", input_tokens=5, output_tokens=2, parents=("b",), start_s=2.0, end_s=3.0),
    )
    run = Run(id="r", workflow="w", calls=calls, arrival_s=0.0, tail_s=0.25)
    save_otlp(tmp_path / "s.jsonl", Trace(source=TraceSource(origin="test"), runs=(run,)), convention)
    (back,) = find_importer(convention)([tmp_path / "s.jsonl"]).runs
    order = ["a", "c", "b", "d"]  # by start
    names = {f"c{index}": name for index, name in enumerate(order)}
    assert {names[c.id]: tuple(names[p] for p in c.parents) for c in back.calls} == {
        "a": (),
        "c": ("a",),
        "b": ("a",),
        "d": ("b",),
    }
    assert [round(c.gap_s, 6) for c in back.calls] == [0.0, 0.0, 0.5, 0.0]
    assert back.tail_s == pytest.approx(0.25)


def test_genai_spans_of_an_agent(tmp_path):
    """An agent span, a framework's span around the client's, a failed call, a call that says no tokens."""
    path = write(
        tmp_path / "s.json",
        span("root", 0, 9, name="my agent", gen_ai__operation__name="invoke_agent", gen_ai__agent__name="planner"),
        span("outer", 1, 2.1, parent="root", **GENAI),
        span("inner", 1.05, 2, parent="outer", **GENAI),
        span("tool", 2.1, 3, parent="root", name="execute_tool search", gen_ai__operation__name="execute_tool"),
        span("second", 3, 4, parent="root", **GENAI),
        span("broken", 5, 6, parent="root", status=2, **GENAI),
        span("mute", 6, 7, parent="root", gen_ai__operation__name="chat", gen_ai__request__model="m"),
    )
    importer = find_importer("otel")
    trace = importer([path])
    (run,) = trace.runs
    assert run.workflow == "planner"
    assert [(c.parents, round(c.gap_s, 3)) for c in run.calls] == [
        ((), 1.05),
        (("c0",), 1.0),
    ]  # the agent took 1.05 s before its first call
    notes = "\n".join(trace.source.notes)
    assert "calls that only wrap another call, left out: 1" in notes
    assert "calls without an input token count or text: 1" in notes
    assert "failed calls: 1" in notes


def test_vllms_own_spans_are_read(tmp_path):
    own = {"gen_ai__request__model": "m", "gen_ai__usage__prompt_tokens": 7, "gen_ai__usage__completion_tokens": 3}
    path = write(tmp_path / "s.json", span("a", 0, 1, name="llm_request", **own))
    (run,) = find_importer("otel")([path]).runs
    assert (run.calls[0].input_tokens, run.calls[0].output_tokens) == (7, 3)


def test_runs_by_session(tmp_path):
    path = write(
        tmp_path / "s.json",
        span("a", 0, 1, trace="t1", session__id="s", **GENAI),
        span("b", 2, 3, trace="t2", session__id="s", **GENAI),
    )
    assert len(find_importer("otel")([path]).runs) == 2
    assert len(find_importer("otel")([path], {"run": "session"}).runs) == 1


def test_openinference_spans(tmp_path):
    path = write(
        tmp_path / "s.json",
        span("r", 0, 1, openinference__span__kind="RERANKER", reranker__model_name="x", llm__token_count__prompt=50),
        span("g", 1, 2, openinference__span__kind="LLM", llm__model_name="m", llm__token_count__prompt=9,
             llm__token_count__completion=4),
    )  # fmt: skip
    (run,) = find_importer("openinference")([path]).runs
    assert [(c.kind, c.input_tokens, c.output_tokens) for c in run.calls] == [("rerank", 50, 0), ("generate", 9, 4)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "spanId or traceId is missing"),
        ('{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "t"}]}]}]}', "spanId or traceId is missing"),
        ('{"resourceSpans": []}', "holds no run"),
    ],
)
def test_what_is_no_span_file_is_named(tmp_path, text, message):
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        find_importer("otel")([path])
