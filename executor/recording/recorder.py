"""The recorder inside a gateway: begins a call when its request is read, writes its record when it ends."""

import errno
import itertools
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from executor.recording.attribution import WORKFLOW_HEADER, Isolated, attribute, tidy
from executor.recording.config import Recording
from executor.recording.log import RecordLog
from executor.recording.provenance import NOTHING_SEEN, Provenance, Seen
from executor.wire.body import Body, prompt_texts, tool_result_ids
from executor.wire.stream import Output, Usage
from scepsy.importers.recorded.record import CallRecord, Header, Outcome, Rung, Text
from scepsy.workload import CallKind

log = logging.getLogger("scepsy.recording")

KINDS: Mapping[str, CallKind] = {"embeddings": "embed", "score": "rerank", "rerank": "rerank"}
"""Endpoints whose calls generate nothing."""

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


class Recorder:
    """Records the calls of one gateway process.

    A record that cannot be written (a full disk) is counted in ``lost`` and said once in the log; calls go on, and so does
    recording as soon as the disk takes records again.
    """

    def __init__(self, config: Recording, folder: Path, clock: Callable[[], float] | None = None) -> None:
        self._config = config
        self.session = secrets.token_hex(6)
        offset = time.time() - time.perf_counter()
        self.now_s = clock or (lambda: time.perf_counter() + offset)
        self._log = RecordLog(folder / config.path, Header(session=self.session, started_s=self.now_s()))
        self._provenance = Provenance()
        self._isolated = Isolated(config.isolated_gap_s, f"isolated-{self.session}")
        self._numbers = itertools.count(1)
        self.written = 0
        self.lost = 0
        self.failing = ""
        """Why the latest record could not be written; empty when it could."""

    def begin(
        self, endpoint: str, headers: Mapping[str, str], body: Body, path_run: str, path_workflow: str, key_run: str
    ) -> Open:
        """A request was read and is about to be sent; what it says is for ``see_input``."""
        start_s = self.now_s()
        call = f"{self.session}-{next(self._numbers)}"
        run, rung = attribute(headers, body, path_run, key_run)
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
        )

    def see_input(self, call: Open) -> None:
        """Look, once, at what a call says; soon after ``begin``, since it finds outputs of calls that ended until now."""
        body, call.body = call.body, None
        if body is None:
            return
        texts = prompt_texts(body)
        call.seen = self._provenance.see_input(call.run, texts, tool_result_ids(body))
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
        if outcome == "completed" and call.rung != "none" and kind == "generate":
            findable = self._provenance.see_output(call.run, call.id, texts, output.tool_call_ids)
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
            text=Text(request=call.request, outputs=tuple(texts)) if self._config.text else None,
        )
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
