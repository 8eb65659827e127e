"""Which run a call belongs to: a ladder of what clients send, first match wins.

1. ``x-scepsy-run``.  2. Session headers of common agent tools.  3. ``traceparent`` (its trace id).  4. ``baggage``
(session.id, run.id, …).  5. The body's ``session_id`` or ``metadata``.  6. The URL, ``/run/<id>/v1/…``.  7. The API key,
``<key>#<run>``.  8. Isolated recording: whatever runs now.  Else the call stands alone.

Rungs 6 and 7 need nothing but another ``base_url`` or ``api_key`` from an agent program.
"""

import re
from collections.abc import Mapping
from urllib.parse import unquote

from executor.wire.body import Body
from scepsy.importers.recorded.record import Rung

RUN_HEADER, WORKFLOW_HEADER = "x-scepsy-run", "x-scepsy-workflow"

SESSION_HEADERS = (
    "x-litellm-trace-id",
    "x-litellm-session-id",
    "x-session-id",
    "session-id",
    "x-claude-code-session-id",
)

BAGGAGE_KEYS = ("scepsy.run", "session.id", "run.id", "gen_ai.conversation.id")

METADATA_KEYS = ("scepsy_run", "run_id", "session_id", "trace_id", "conversation_id", "thread_id")

MAX_ID = 128
"""Longer ids are cut: an id is a name, not a place to store things."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_UNSEEMLY = re.compile(r"[^\x20-\x7e]")


def tidy(identifier: object) -> str:
    """An id as it is recorded: printable ASCII, at most ``MAX_ID`` characters; empty when there is nothing.

    >>> tidy("  run 7\\n")
    'run 7'
    """
    if not isinstance(identifier, (str, int)) or isinstance(identifier, bool):
        return ""
    return _UNSEEMLY.sub("", str(identifier).strip())[:MAX_ID].strip()


def attribute(headers: Mapping[str, str], body: Body, path_run: str = "", key_run: str = "") -> tuple[str, Rung]:
    """The run id and the rung that gave it; ("", "none") when nothing did. ``headers`` is case-insensitive."""
    if run := tidy(headers.get(RUN_HEADER)):
        return run, "header"
    for name in SESSION_HEADERS:
        if run := tidy(headers.get(name)):
            return run, "session-header"
    traceparent = headers.get("traceparent")
    if traceparent and (match := _TRACEPARENT.fullmatch(traceparent.strip().lower())) and match[1].strip("0"):
        return match[1], "traceparent"
    if run := _from_baggage(headers.get("baggage", "")):
        return run, "baggage"
    if run := _from_body(body):
        return run, "body"
    if run := tidy(path_run):
        return run, "path"
    if run := tidy(key_run):
        return run, "key"
    return "", "none"


def _from_baggage(baggage: str) -> str:
    if not baggage:
        return ""
    members = {}
    for member in baggage.split(","):
        name, _, value = member.partition(";")[0].partition("=")
        members[name.strip()] = unquote(value.strip())
    return next((run for key in BAGGAGE_KEYS if (run := tidy(members.get(key)))), "")


def _from_body(body: Body) -> str:
    if run := tidy(body.session_id):
        return run
    if isinstance(body.metadata, dict):
        return next((run for key in METADATA_KEYS if (run := tidy(body.metadata.get(key)))), "")
    return ""


class Isolated:
    """Rung 8: one run at a time. Calls belong to the run in flight; after ``gap_s`` of silence a new one begins."""

    def __init__(self, gap_s: float, prefix: str) -> None:
        self._gap_s, self._prefix = gap_s, prefix
        self._number = 0
        self._in_flight = 0
        self._last_end_s = float("-inf")

    def begin(self, now_s: float) -> str:
        """A call begins: the id of its run."""
        if self._in_flight == 0 and now_s - self._last_end_s > self._gap_s:
            self._number += 1
        self._in_flight += 1
        return f"{self._prefix}-{self._number}"

    def end(self, now_s: float) -> None:
        """A call ended."""
        self._in_flight -= 1
        self._last_end_s = now_s
