"""What is to be seen of a controller: a live page, Prometheus metrics and the same as JSON, on loopback only.

Served by the controller's own process and a thread of the standard library's server, so the gateway has nothing to do with it.
Numbers and names of plans, LLMs and GPUs are shown; no text of calls is known here.
"""

import json
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from executor.operate.html_page import page
from executor.operate.journal import explained
from executor.operate.operator import WINDOW_S, Operator
from scepsy.errors import InputError
from scepsy.operate.controller import fresh
from scepsy.operate.drift import arrival_drift, content_drifts, limit_of
from scepsy.plans import Plan

LAST = 10
"""Decisions on the page."""
NO_THRESHOLD = 1e-9
"""Makes a test tell how far a number has departed, however little."""


def snapshot(one: Operator) -> dict[str, Any]:
    """Everything that the page and the metrics show."""
    running = one.target.running()
    entries = one.journal.entries
    outcomes = [entry for entry in entries if entry.kind == "outcome"]
    switches = [entry for entry in outcomes if entry.result == "serving"]
    started = next((entry.at_s for entry in entries), one.clock())
    return {
        "mode": one.mode,
        "window_s": WINDOW_S,
        "frozen": one.frozen,
        "plan": entries[-1].plan if entries else "",
        "problem": one.problem or one.blind,
        "looks": one.looks,
        "seconds_since_plan": one.clock() - (switches[-1].at_s if switches else started),
        "outcomes": {kind: sum(e.result == kind for e in outcomes) for kind in ("serving", "rolled back", "refused", "left")},
        "calls": {
            "read": one.live.calls,
            "unnamed": one.live.unnamed,
            "strangers": one.live.strangers,
            "failed": one.live.failed,
            "damaged": one.tail.damaged,
        },
        "resumed": one.live.resumed,
        "gpus": gpu_map(running),
        "workflows": _workflows(one, running),
        "decisions": [explained(entry) for entry in reversed(entries[-LAST:])],
    }


def gpu_map(plan: Plan) -> dict[str, list[str]]:
    """GPU → what stands on it."""
    return {str(gpu): [f"{i.name} ({i.share_pct} %)" for i in plan.instances if gpu in i.gpus] for gpu in plan.cluster.gpus}


def _workflows(one: Operator, running: Plan) -> dict[str, Any]:
    if one.facts is None or one.memory is None:
        return {}
    predicted = {each.workflow: each.latency_s for each in running.expected}
    if one.report is not None:  # the plan's own prediction is of another load: where nothing was planned, there is none
        predicted = {**predicted, **one.report.answer.running.latency_s} if one.report.answer is not None else {}
    found: dict[str, Any] = {}
    for window in one.windows(one.facts):
        reference = one.memory.references.get(window.workflow)
        if reference is None:
            continue
        h = limit_of(reference, one.settings.alarms_per_week, len(one.memory.references))
        times, ended = fresh(one.memory, one.facts, window.workflow)
        drifts = content_drifts(ended, reference, h, every=True)
        rate = arrival_drift(times, one.memory.since_s[window.workflow], one.facts.until_s, reference, NO_THRESHOLD)
        found[window.workflow] = {
            "rate_per_s": window.rate_per_s.value,
            "planned_rate_per_s": reference.rate_per_s,
            "latency_s": window.latency_s.value if window.latency_s is not None else None,
            "predicted_latency_s": predicted.get(window.workflow),
            "open_runs": sum(each.end_s is None for each in one.facts.seen[window.workflow]),
            "drift": {
                **({rate.number: abs(rate.z) / h} if rate is not None else {}),
                **{drift.number: drift.strength for drift in drifts},
            },
        }
    return found


def metrics(seen: dict[str, Any]) -> str:
    """Prometheus' text format."""
    lines: list[str] = []

    def gauge(name: str, about: str, rows: Sequence[tuple[dict[str, str], float | None]], kind: str = "gauge") -> None:
        lines.append(f"# HELP scepsy_operate_{name} {about}")
        lines.append(f"# TYPE scepsy_operate_{name} {kind}")
        for labels, value in rows:
            if value is not None:
                inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
                lines.append(f"scepsy_operate_{name}{{{inside}}} {value:g}" if inside else f"scepsy_operate_{name} {value:g}")

    every = seen["workflows"].items()
    drifts = [({"workflow": w, **_number(n)}, v) for w, one in every for n, v in one["drift"].items()]
    gauge("drift", "Departure of a number from the plan's, over its alarm threshold: 1 is an alarm.", drifts)
    for name, field, about in (
        ("rate_per_second", "rate_per_s", "Runs that arrived, last ten minutes."),
        ("planned_rate_per_second", "planned_rate_per_s", "Runs per second that are tested against."),
        ("latency_seconds", "latency_s", "Mean latency of runs, last ten minutes."),
        ("predicted_latency_seconds", "predicted_latency_s", "Mean latency predicted of the running plan."),
        ("open_runs", "open_runs", "Runs that have arrived and not ended."),
    ):
        gauge(name, about, [({"workflow": w}, one[field]) for w, one in every])
    gauge("seconds_since_plan", "Since the running plan began to serve.", [({}, seen["seconds_since_plan"])])
    gauge("frozen", "1: the freeze file is there.", [({}, float(seen["frozen"]))])
    gauge("acting", "1: --act, 0: --advise.", [({}, float(seen["mode"] == "act"))])
    gauge("failing", "1: the latest look came to nothing.", [({}, float(bool(seen["problem"])))])
    gauge("looks_total", "Looks at the load.", [({}, seen["looks"])], "counter")
    rows = [({"result": result}, float(count)) for result, count in seen["outcomes"].items()]
    gauge("switches_total", "Switches by what became of them.", rows, "counter")
    gauge("calls_total", "Records read, by kind.", [({"kind": k}, float(v)) for k, v in seen["calls"].items()], "counter")
    about = "Runs that counted as ended while a call of theirs was under way."
    gauge("resumed_runs_total", about, [({}, float(seen["resumed"]))], "counter")
    return "\n".join(lines) + "\n"


def _number(name: str) -> dict[str, str]:
    """What drifts, and of which LLM; a rate and tool time are of none.

    >>> _number("calls:judge"), _number("rate")
    ({'number': 'calls', 'llm': 'judge'}, {'number': 'rate', 'llm': ''})
    """
    number, _, llm = name.partition(":")
    return {"number": number, "llm": llm}


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


PATHS: dict[str, tuple[str, Callable[[dict[str, Any]], str] | None]] = {
    "/": ("text/html; charset=utf-8", page),
    "/metrics": ("text/plain; version=0.0.4; charset=utf-8", metrics),
    "/state.json": ("application/json", json.dumps),
}


class Server:
    """Serves one controller's page until closed. ``port`` 0: any free one."""

    def __init__(self, one: Operator, port: int) -> None:
        self._one = one

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                self._answer(handler)

            def log_message(handler, format: str, *args: object) -> None:
                """Nothing is logged."""

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise InputError(f"--port is {port}: {error.strerror} (choose another, or 0 for any free one)") from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        try:
            seen = snapshot(self._one)
            kind, body = PATHS.get(handler.path.partition("?")[0], ("", None))
            data = body(seen).encode() if body is not None else b""
            handler.send_response(200 if body is not None else 404)
        except Exception as error:  # a page that cannot be made is no reason to stop
            kind, data = "text/plain; charset=utf-8", f"{type(error).__name__}: {error}".encode()
            handler.send_response(500)
        handler.send_header("Content-Type", kind or "text/plain")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
