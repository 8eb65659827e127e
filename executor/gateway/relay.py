"""One call through the gateway: choose an instance, send, pass the answer on as it comes, record."""

import asyncio
import io
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from executor.gateway.config import GatewayConfig
from executor.gateway.counting import count_tokens
from executor.gateway.headers import returned
from executor.gateway.health import REFUSED, HealthWatch
from executor.gateway.intake import HeldBodies
from executor.gateway.metrics import Metrics
from executor.gateway.pool import InstancePool, Upstream
from executor.gateway.replies import (
    Dialect,
    Refusal,
    engine_lost,
    engine_lost_message,
    error_event,
    event_too_large_message,
    incomplete_message,
    redirected,
    reply_too_large,
)
from executor.recording.recorder import Open, Recorder
from executor.wire.body import Body, ask_for_usage, wants_usage
from executor.wire.stream import EventSplitter, Output, Usage, ends_stream, without_usage
from scepsy.importers.recorded.record import Outcome

log = logging.getLogger("scepsy.gateway")

USAGE_ON_REQUEST = frozenset(("chat/completions", "completions"))
"""Endpoints whose streams tell usage only when asked; /responses and /messages always do."""

CALL_HEADER = "x-scepsy-call"
"""Told to the client: the id of its record."""

MAX_WHOLE_BODY_BYTES = 1024**2
"""Longer bodies are sent piece by piece."""

_LOST = (aiohttp.ClientError, TimeoutError, ConnectionError)


@dataclass
class GatewayCall:
    """What one request needs on its way."""

    endpoint: str
    body: Body
    data: bytes
    headers: CIMultiDict[str]
    """As the engine gets them."""
    held: HeldBodies
    dialect: Dialect = "openai"
    strip_usage: bool = False
    record: Open | None = None
    output: Output = field(default_factory=Output)
    outcome: Outcome = "cancelled"
    """Unless something else happens, the client went away."""


class _ClientGone(Exception):
    """The client closed its connection."""


class Relay:
    """Sends calls to the instances of a pool."""

    def __init__(self, config: GatewayConfig, pool: InstancePool, metrics: Metrics, recorder: Recorder | None) -> None:
        self._pool, self._metrics, self._recorder, self._limits = pool, metrics, recorder, config.limits
        limits = config.limits
        self._session = aiohttp.ClientSession(
            # Engines close idle connections after 5 s (uvicorn): ours are dropped first, so none is found dead by a call.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0, ttl_dns_cache=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s, sock_read=limits.idle_s),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            read_bufsize=2**16,
        )
        self._health = HealthWatch(self._session, pool, limits)
        self._urls: dict[tuple[str, str], URL] = {}
        self._absurd: set[str] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look after the instances; at the end, close the connections to them."""
        try:
            async with self._health.running():
                yield
        finally:
            await self._session.close()

    async def send(self, request: web.BaseRequest, call: GatewayCall) -> web.StreamResponse:
        """Relay one call. Raises ``Refusal`` when it could not be sent, or was lost before its answer began."""
        streams = bool(call.body.stream) and call.endpoint in USAGE_ON_REQUEST
        if self._recorder is not None and streams and not wants_usage(call.body):
            call.data, call.strip_usage = ask_for_usage(call.data, call.body), True
        tried: list[Upstream] = []
        while True:
            try:
                upstream = self._pool.choose(call.body.model, tried)
            except Refusal:
                self._give_up(call)
                raise
            upstream.outstanding += 1
            since_s = asyncio.get_running_loop().time()
            try:
                return await self._attempt(request, call, upstream)
            except REFUSED as error:
                await self._health.refused(upstream, error, since_s)
                tried.append(upstream)
                self._metrics.retries.inc()
            finally:
                upstream.outstanding -= 1

    def _give_up(self, call: GatewayCall) -> None:
        """No instance could be reached: the call ends unsent, and is recorded as rejected."""
        if call.record is not None and self._recorder is not None:
            self._recorder.end(call.record, outcome="rejected", output=call.output, http_status=503)

    async def _attempt(self, request: web.BaseRequest, call: GatewayCall, upstream: Upstream) -> web.StreamResponse:
        """Raises one of ``REFUSED`` when nothing was sent, so that another instance may be tried; else ``Refusal``."""
        loop = asyncio.get_running_loop()
        started_s, first_s, status, sent = loop.time(), None, 0, False
        call.outcome = "cancelled"
        if call.record is not None and self._recorder is not None:
            # When this task next waits, for a connection or the engine: its input is hashed meanwhile.
            loop.call_soon(self._recorder.see_input, call.record)
        data = call.data if len(call.data) <= MAX_WHOLE_BODY_BYTES else io.BytesIO(call.data)
        try:
            async with self._session.post(
                self._url(upstream, call.endpoint), data=data, headers=call.headers, allow_redirects=False
            ) as answer:
                sent, status = True, answer.status
                upstream.last_byte_s = loop.time()
                upstream.refusals = 0
                first_s = upstream.last_byte_s - started_s
                response = await self._answer(request, call, upstream, answer)
                upstream.served += 1
                return response
        except REFUSED:
            if not sent:
                call.outcome = "rejected"
                raise
            raise engine_lost(upstream.name) from None
        except _LOST:
            # The request had been sent, so it may have run: telling the client beats running it twice.
            call.outcome = "failed"
            raise engine_lost(upstream.name) from None
        finally:
            if sent or call.outcome != "rejected":
                self._end(call, upstream, status)
                self._metrics.ended(call.body.model, upstream.name, call.outcome, loop.time() - started_s, first_s)

    async def _answer(
        self, request: web.BaseRequest, call: GatewayCall, upstream: Upstream, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        if call.record is not None and self._recorder is not None:
            call.record.first_byte_s = self._recorder.now_s()
        if not 200 <= answer.status < 300 and answer.status < 400:
            call.outcome = "failed"
            answer.close()
            raise redirected(upstream.name)
        if answer.status == 200 and _is_stream(answer.headers.get("Content-Type", "")):
            return await self._stream(request, call, upstream, answer)
        return await self._whole(call, upstream, answer)

    async def _whole(self, call: GatewayCall, upstream: Upstream, answer: aiohttp.ClientResponse) -> web.Response:
        data = await self._read_whole(call, upstream, answer)
        call.outcome = "completed" if answer.status < 400 else "rejected" if answer.status in (429, 503) else "failed"
        if call.record is not None and self._recorder is not None:
            end_s, counted = self._recorder.now_s(), None
            if call.outcome == "completed":
                call.output.read(data)
                if call.output.usage is None:
                    counted = await count_tokens(self._session, upstream, call.body, call.output)
            self._end(call, upstream, answer.status, counted, end_s)
        response = web.Response(status=answer.status, body=data, headers=returned(answer.headers, upstream.name))
        if call.record is not None:
            response.headers[CALL_HEADER] = call.record.id
        return response

    async def _read_whole(self, call: GatewayCall, upstream: Upstream, answer: aiohttp.ClientResponse) -> bytes:
        """A reply that is no stream, held until it is whole, so that a lost engine can still be told. It is bounded."""
        limit, parts, size = self._limits.reply_bytes, [], 0
        try:
            async for part in answer.content.iter_any():
                size += len(part)
                if size > limit:
                    raise reply_too_large(upstream.name, limit)
                call.held.add(len(part))
                parts.append(part)
        except Refusal:
            call.outcome = "failed"
            answer.close()
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _stream(
        self, request: web.BaseRequest, call: GatewayCall, upstream: Upstream, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        response = _Streamed(status=answer.status, headers=returned(answer.headers, upstream.name))
        if call.record is not None:
            response.headers[CALL_HEADER] = call.record.id
        try:
            await response.prepare(request)
            if not answer.content.total_bytes:
                request.writer.send_headers()  # nothing to send with them is here yet
            await self._pass_on(response, call, upstream, answer)
            await response.write_eof()
        except (_ClientGone, ConnectionError):
            call.outcome = "cancelled"
        return response

    async def _pass_on(
        self, response: web.StreamResponse, call: GatewayCall, upstream: Upstream, answer: aiohttp.ClientResponse
    ) -> None:
        """Every event as it comes; the record is written before the client can know that its stream is complete."""
        splitter, loop, limit = EventSplitter(), asyncio.get_running_loop(), self._limits.event_bytes
        content, recording, ended = answer.content, call.record is not None, False
        try:
            while chunk := await content.readany():
                upstream.last_byte_s = loop.time()
                events = splitter.feed(chunk)
                if splitter.held_bytes > limit or len(events) > limit + len(chunk):
                    answer.close()
                    return await self._break_off(
                        response, call, upstream, event_too_large_message(upstream.name, limit), "event_too_large"
                    )
                if events:
                    last = content.at_eof() and not splitter.held_bytes
                    ended = await self._put_events(response, call, upstream, events, last=last) or ended
        except (aiohttp.ClientError, TimeoutError):
            return await self._break_off(response, call, upstream, engine_lost_message(upstream.name), "engine_lost")
        rest = splitter.rest()
        if rest:
            ended = await self._put_events(response, call, upstream, rest) or ended
        call.outcome = "failed" if call.output.failed else "completed"
        if not ended and call.outcome == "completed":
            return await self._break_off(response, call, upstream, incomplete_message(upstream.name), "stream_incomplete")
        if recording:
            await self._finish(call, upstream, answer.status)
        return None

    async def _put_events(
        self, response: web.StreamResponse, call: GatewayCall, upstream: Upstream, events: bytes, *, last: bool = False
    ) -> bool:
        """Pass whole events on; whether the stream's end was among them. After the ``last`` ones nothing comes."""
        ended = ends_stream(events)
        if call.record is not None:
            call.output.read_events(events)
            if ended:
                await self._finish(call, upstream, response.status)
        if call.strip_usage:
            events = without_usage(events)
        if events:
            await _put(response, events, last=last and ended)
        return ended

    async def _break_off(
        self, response: web.StreamResponse, call: GatewayCall, upstream: Upstream, message: str, code: str
    ) -> None:
        """A stream that cannot go on: recorded as failed, and its client is told why."""
        call.outcome = "failed"
        self._end(call, upstream, response.status)
        await _put(response, error_event(message, code=code, dialect=call.dialect))

    async def _finish(self, call: GatewayCall, upstream: Upstream, status: int) -> None:
        if call.record is None or self._recorder is None or call.record.closed:
            return
        end_s, counted = self._recorder.now_s(), None
        if call.output.usage is None and not call.output.failed:
            counted = await count_tokens(self._session, upstream, call.body, call.output)
        call.outcome = "failed" if call.output.failed else "completed"
        self._end(call, upstream, status, counted, end_s)

    def _end(
        self, call: GatewayCall, upstream: Upstream, status: int, counted: Usage | None = None, end_s: float | None = None
    ) -> None:
        if call.record is None or self._recorder is None or call.record.closed:
            return
        if call.output.absurd_usage and upstream.name not in self._absurd:
            self._absurd.add(upstream.name)
            log.warning("instance %s counts tokens that cannot be: such counts are not recorded", upstream.name)
        self._recorder.end(
            call.record,
            outcome=call.outcome,
            output=call.output,
            instance=upstream.name,
            http_status=status,
            counted=counted,
            end_s=end_s,
        )

    def _url(self, upstream: Upstream, endpoint: str) -> URL:
        key = (upstream.base, endpoint)
        url = self._urls.get(key)
        if url is None:
            url = self._urls[key] = URL(f"{upstream.base}/v1/{endpoint}")
        return url


class _Streamed(web.StreamResponse):
    """Its headers wait for its first event, to leave in one piece with it, or for ``send_headers``."""

    _send_headers_immediately = False  # aiohttp's own, for whole answers: were it gone, headers would leave at once


def _is_stream(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


async def _put(response: web.StreamResponse, data: bytes, *, last: bool = False) -> None:
    """Send a part of a stream; with its ``last`` one its end, in one piece."""
    try:
        await (response.write_eof(data) if last else response.write(data))
    except ConnectionError:
        raise _ClientGone from None
