"""The recorder inside a gateway: begins a call when its request is read, writes its record when it ends."""

import errno
import itertools
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from executor.recording.attribution import WORKFLOW_HEADER, Isolated, attribute, tidy
from executor.recording.config import Recording
from executor.recording.log import RecordLog
from executor.recording.provenance import ANYWHERE, NOTHING_SEEN, Provenance, Seen
from executor.wire.body import Body, prompt_texts, tool_result_ids, turns_of
from executor.wire.stream import Output, Usage
from scepsy.importers.recorded.record import CallRecord, Header, Outcome, Rung, Text
from scepsy.workload import CallKind

log = logging.getLogger("scepsy.recording")

KINDS: Mapping[str, CallKind] = {"embeddings": "embed", "score": "rerank", "rerank": "rerank"}
"""Endpoints whose calls generate nothing."""

RETRY_HEADER = "x-stainless-retry-count"
"""What the clients of OpenAI and Anthropic say when they send a request again."""

MAX_RECENT = 8192
"""Requests remembered, to know a repetition."""

BYTES_PER_TOKEN = 4
"""English text and common tokenizers; only used when nothing else tells (assumed, marked in the record)."""


@dataclass
class Open:
    """A call in flight."""

    id: str
    run: str
    rung: Rung
    workflow: str
    llm: str
    endpoint: str
    stream: bool
    start_s: float
    traceparent: str
    body: Body | None
    """None once its input has been seen."""
    seen: Seen = NOTHING_SEEN
    request: str = ""
    first_byte_s: float | None = None
    closed: bool = field(default=False)
    attempt: int = 0
    retry_of: str = ""
    fate: "Fate | None" = None
    turns: int = 0

    @property
    def scope(self) -> str:
        """The run that it says it belongs to; else it is compared with all calls that say nothing either."""
        return ANYWHERE if self.rung in ("none", "isolated") else self.run


@dataclass(slots=True)
class Fate:
    """What became of a request, for the client's next attempt at it."""

    call: str
    gone_wrong: bool = False
    repeated: bool = False


class Recorder:
    """Records the calls of one gateway process.

    A record that cannot be written (a full disk) is counted in ``lost`` and said once in the log; calls go on, and so does
    recording as soon as the disk takes records again.
    """

    def __init__(
        self, config: Recording, folder: Path, clock: Callable[[], float] | None = None, secret: bytes | None = None
    ) -> None:
        self._config = config
        self.session = secrets.token_hex(6)
        offset = time.time() - time.perf_counter()
        self.now_s = clock or (lambda: time.perf_counter() + offset)
        self._log = RecordLog(folder / config.path, Header(session=self.session, started_s=self.now_s()))
        self._provenance = Provenance(secret)
        self._isolated = Isolated(config.isolated_gap_s, f"isolated-{self.session}")
        self._numbers = itertools.count(1)
        self._recent: OrderedDict[tuple[str, str, int], Fate] = OrderedDict()
        self.written = 0
        self.lost = 0
        self.failing = ""
        """Why the latest record could not be written; empty when it could."""

    def begin(
        self,
        endpoint: str,
        headers: Mapping[str, str],
        body: Body,
        path_run: str,
        path_workflow: str,
        key_run: str,
        data: bytes = b"",
    ) -> Open:
        """A request was read and is about to be sent; what it says is for ``see_input``."""
        start_s = self.now_s()
        call = f"{self.session}-{next(self._numbers)}"
        run, rung = attribute(headers, body, path_run, key_run)
        attempt, retry_of, fate = self._repetition(run, endpoint, headers, data, call)
        if not run and self._config.isolated:
            run, rung = self._isolated.begin(start_s), "isolated"
        run = run or f"call-{call}"
        return Open(
            id=call,
            run=run,
            rung=rung,
            workflow=tidy(headers.get(WORKFLOW_HEADER)) or tidy(path_workflow) or self._config.workflow,
            llm=body.model,
            endpoint=endpoint,
            stream=bool(body.stream),
            start_s=start_s,
            traceparent=tidy(headers.get("traceparent")),
            body=body,
            attempt=attempt,
            retry_of=retry_of,
            fate=fate,
            turns=turns_of(body),
        )

    def _repetition(
        self, run: str, endpoint: str, headers: Mapping[str, str], data: bytes, call: str
    ) -> tuple[int, str, Fate | None]:
        """Which attempt it is, by the client's word; which call it repeats; and where its own end is noted.

        The same bytes again are a repetition when the client says so, or when the attempt before went wrong. Otherwise they
        are a call of their own: programs do ask the same thing several times.
        """
        said = headers.get(RETRY_HEADER, "")
        attempt = min(int(said), 1000) if said.isascii() and said.isdigit() and len(said) < 10 else 0
        if not data:
            return attempt, "", None
        key = (run, endpoint, hash(data))
        before = self._recent.pop(key, None)
        retry_of = ""
        if before is not None and not before.repeated and (attempt or before.gone_wrong):
            retry_of, before.repeated = before.call, True
        fate = self._recent[key] = Fate(call)
        if len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)
        return attempt, retry_of, fate

    def see_input(self, call: Open) -> None:
        """Look, once, at what a call says; soon after ``begin``, since it finds outputs of calls that ended until now."""
        body, call.body = call.body, None
        if body is None:
            return
        texts = prompt_texts(body)
        call.seen = self._provenance.see_input(call.scope, texts, tool_result_ids(body))
        call.request = "".join(texts) if self._config.text else ""

    def end(
        self,
        call: Open,
        *,
        outcome: Outcome,
        output: Output,
        instance: str = "",
        http_status: int = 0,
        counted: Usage | None = None,
        end_s: float | None = None,
    ) -> None:
        """The call ended: write its record, once. ``counted`` is what /tokenize said where the reply had no usage."""
        if call.closed:
            return
        call.closed = True
        self.see_input(call)
        end_s = self.now_s() if end_s is None else end_s
        if call.rung == "isolated":
            self._isolated.end(end_s)
        texts = output.texts
        output_bytes = sum(len(text.encode(errors="surrogatepass")) for text in texts) + output.dropped_bytes
        kind = KINDS.get(call.endpoint, "generate")
        findable = False
        if call.fate is not None:
            call.fate.gone_wrong = outcome != "completed"
        if outcome == "completed" and kind == "generate":
            findable = self._provenance.see_output(
                call.scope, call.id, texts, output.tool_call_ids, call.seen.marks, call.seen.sources
            )
        usage = (
            output.usage or counted or Usage(-(-call.seen.input_bytes // BYTES_PER_TOKEN), -(-output_bytes // BYTES_PER_TOKEN))
        )
        record = CallRecord(
            id=call.id,
            session=self.session,
            run=call.run,
            rung=call.rung,
            workflow=call.workflow,
            llm=call.llm,
            endpoint=call.endpoint,
            kind=kind,
            instance=instance,
            start_s=call.start_s,
            first_byte_s=call.first_byte_s,
            end_s=end_s,
            outcome=outcome,
            http_status=http_status,
            stream=call.stream,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens if kind == "generate" else 0,
            cached_tokens=usage.cached_tokens,
            counted_by="usage" if output.usage else "tokenize" if counted else "bytes",
            input_bytes=call.seen.input_bytes,
            output_bytes=output_bytes,
            sources=call.seen.sources,
            can_be_source=findable,
            prefix=call.seen.prefix,
            traceparent=call.traceparent,
            attempt=call.attempt,
            retry_of=call.retry_of,
            marks=call.seen.sketch,
            heads=call.seen.heads,
            turns=call.turns,
            text=Text(request=call.request, outputs=tuple(texts)) if self._config.text else None,
        )
        call.seen = NOTHING_SEEN
        self._write(record)

    def _write(self, record: CallRecord) -> None:
        try:
            self._log.write(record)
        except OSError as error:
            self.lost += 1
            reason = error.strerror or errno.errorcode.get(error.errno or 0, "unknown error")
            if not self.failing:
                log.error(
                    "recording to %s fails: %s; calls go on unrecorded until it takes records again", self._log.path, reason
                )
            self.failing = reason
            return
        self.written += 1
        if self.failing:
            log.warning("recording to %s works again; %d calls were not recorded", self._log.path, self.lost)
            self.failing = ""

    def close(self) -> None:
        """Flush to disk and close."""
        try:
            self._log.sync()
        except OSError as error:
            log.error("recording to %s: %s", self._log.path, error.strerror)
        self._log.close()
