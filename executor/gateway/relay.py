"""One call through the gateway: choose an instance, send, pass the answer on as it comes, record."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
import msgspec
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from executor.gateway.config import GatewayConfig
from executor.gateway.metrics import Metrics
from executor.gateway.pool import Pool, Upstream
from executor.gateway.replies import Refusal, engine_lost, engine_lost_message, error_event
from executor.recording.recorder import Open, Recorder
from executor.wire.body import Body, ask_for_usage, wants_usage
from executor.wire.stream import EventSplitter, Output, Usage, without_usage
from scepsy.importers.recorded.record import Outcome

HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade")
)
KEPT_HERE = HOP_BY_HOP | {"host", "content-length", "authorization", "cookie", "accept-encoding", "expect"}
"""Request headers that do not travel: the key is for the gateway, and answers must come uncompressed to be read."""

NOT_RETURNED = HOP_BY_HOP | {"content-length", "date", "server"}

USAGE_ON_REQUEST = frozenset(("chat/completions", "completions"))
"""Endpoints whose streams tell usage only when asked; /responses always does."""

CALL_HEADER, INSTANCE_HEADER = "x-scepsy-call", "x-scepsy-instance"
"""Told to the client: the id of its record, and who answered."""

ENDS = (b"data: [DONE]", b"event: response.completed")
"""What tells a client that its stream is complete."""

_REFUSED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""The connection never stood, so nothing was sent and another instance may be tried."""


@dataclass
class Call:
    """What one request needs on its way."""

    endpoint: str
    body: Body
    data: bytes
    headers: CIMultiDictProxy[str]
    strip_usage: bool = False
    record: Open | None = None
    output: Output = field(default_factory=Output)


class _ClientGone(Exception):
    """The client closed its connection."""


class Relay:
    """Sends calls to the instances of a pool."""

    def __init__(self, config: GatewayConfig, pool: Pool, metrics: Metrics, recorder: Recorder | None) -> None:
        self._pool, self._metrics, self._recorder = pool, metrics, recorder
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
        self._urls: dict[tuple[str, str], URL] = {}

    async def close(self) -> None:
        """Close the connections to the engines."""
        await self._session.close()

    async def send(self, request: web.Request, call: Call) -> web.StreamResponse:
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
            try:
                return await self._attempt(request, call, upstream)
            except _REFUSED:
                upstream.up = False
                tried.append(upstream)
                self._metrics.retries.inc()
            finally:
                upstream.outstanding -= 1

    def _give_up(self, call: Call) -> None:
        """No instance could be reached: the call ends unsent, and is recorded as rejected."""
        if call.record is not None and self._recorder is not None:
            self._recorder.end(call.record, outcome="rejected", output=call.output, http_status=503)

    async def _attempt(self, request: web.Request, call: Call, upstream: Upstream) -> web.StreamResponse:
        started_s = asyncio.get_running_loop().time()
        outcome: Outcome = "cancelled"  # unless something else happens, the client went away
        status, first_s, sent = 0, None, False
        if call.record is not None and self._recorder is not None:
            # When this task next waits, for a connection or the engine: its input is hashed meanwhile.
            asyncio.get_running_loop().call_soon(self._recorder.see_input, call.record)
        try:
            async with self._session.post(
                self._url(upstream, call.endpoint), data=call.data, headers=_forwarded(call.headers)
            ) as answer:
                sent = True
                status = answer.status
                first_s = asyncio.get_running_loop().time() - started_s
                if call.record is not None and self._recorder is not None:
                    call.record.first_byte_s = self._recorder.now_s()
                if answer.content_type == "text/event-stream" and status == 200:
                    response, outcome = await self._stream(request, call, upstream, answer)
                else:
                    response, outcome = await self._whole(call, upstream, answer)
                upstream.served += 1
                return response
        except _REFUSED:
            if sent:
                raise engine_lost(upstream.name) from None
            outcome = "rejected"
            raise
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            # The request had been sent, so it may have run: telling the client beats running it twice.
            outcome = "failed"
            raise engine_lost(upstream.name) from None
        finally:
            if sent or outcome != "rejected":
                self._end(call, upstream, outcome, status)
                self._metrics.ended(
                    call.body.model, upstream.name, outcome, asyncio.get_running_loop().time() - started_s, first_s
                )

    async def _whole(self, call: Call, upstream: Upstream, answer: aiohttp.ClientResponse) -> tuple[web.Response, Outcome]:
        data = await answer.read()
        outcome: Outcome = "completed" if answer.status < 400 else "rejected" if answer.status in (429, 503) else "failed"
        if call.record is not None and self._recorder is not None:
            end_s = self._recorder.now_s()
            counted = None
            if outcome == "completed":
                call.output.read(data)
                if call.output.usage is None:
                    counted = await self._count(call, upstream)
            self._end(call, upstream, outcome, answer.status, counted, end_s)
        response = web.Response(status=answer.status, body=data, headers=_returned(answer.headers, upstream))
        if call.record is not None:
            response.headers[CALL_HEADER] = call.record.id
        return response, outcome

    async def _stream(
        self, request: web.Request, call: Call, upstream: Upstream, answer: aiohttp.ClientResponse
    ) -> tuple[web.StreamResponse, Outcome]:
        response = web.StreamResponse(status=answer.status, headers=_returned(answer.headers, upstream))
        if call.record is not None:
            response.headers[CALL_HEADER] = call.record.id
        await response.prepare(request)
        try:
            outcome = await self._pass_on(response, call, upstream, answer)
            await response.write_eof()
        except (_ClientGone, ConnectionError):
            outcome = "cancelled"
        return response, outcome

    async def _pass_on(
        self, response: web.StreamResponse, call: Call, upstream: Upstream, answer: aiohttp.ClientResponse
    ) -> Outcome:
        """Every event as it comes; the record is written before the client can know that its stream is complete."""
        splitter, recording = EventSplitter(), call.record is not None
        try:
            async for chunk in answer.content.iter_any():
                events = splitter.feed(chunk)
                if not events:
                    continue
                if recording:
                    call.output.read_events(events)
                    if any(end in events for end in ENDS):
                        await self._finish(call, upstream, answer.status)
                if call.strip_usage:
                    events = without_usage(events)
                if events:
                    await _put(response, events)
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, TimeoutError):
            self._end(call, upstream, "failed", answer.status)
            await _put(response, error_event(engine_lost_message(upstream.name), code="engine_lost"))
            return "failed"
        rest = splitter.rest()
        if recording:
            call.output.read_events(rest)
            await self._finish(call, upstream, answer.status)
        if rest:
            await _put(response, rest)
        return "failed" if call.output.failed else "completed"

    async def _finish(self, call: Call, upstream: Upstream, status: int) -> None:
        if call.record is None or self._recorder is None or call.record.closed:
            return
        end_s, counted = self._recorder.now_s(), None
        if call.output.usage is None and not call.output.failed:
            counted = await self._count(call, upstream)
        self._end(call, upstream, "failed" if call.output.failed else "completed", status, counted, end_s)

    def _end(
        self,
        call: Call,
        upstream: Upstream,
        outcome: Outcome,
        status: int,
        counted: Usage | None = None,
        end_s: float | None = None,
    ) -> None:
        if call.record is not None and self._recorder is not None:
            self._recorder.end(
                call.record,
                outcome=outcome,
                output=call.output,
                instance=upstream.name,
                http_status=status,
                counted=counted,
                end_s=end_s,
            )

    async def _count(self, call: Call, upstream: Upstream) -> Usage | None:
        """Ask the engine's /tokenize where its reply did not tell; None when it cannot say."""
        body = call.body
        if isinstance(body.messages, list):
            prompt: dict[str, object] = {"model": body.model, "messages": body.messages}
        elif isinstance(body.prompt if body.prompt is not None else body.input, str):
            prompt = {"model": body.model, "prompt": body.prompt if body.prompt is not None else body.input}
        else:
            return None
        counts = []
        output = {"model": body.model, "prompt": "".join(call.output.texts), "add_special_tokens": False}
        for question in (prompt, output) if output["prompt"] else (prompt,):
            try:
                async with self._session.post(
                    upstream.base + "/tokenize",
                    data=msgspec.json.encode(question),
                    headers={"Content-Type": "application/json"},
                    timeout=aiohttp.ClientTimeout(total=10),
                ) as answer:
                    if answer.status != 200:
                        return None
                    counts.append(int(msgspec.json.decode(await answer.read())["count"]))
            except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError, KeyError, TypeError, ValueError):
                return None
        return Usage(counts[0], counts[1] if len(counts) > 1 else 0)

    def _url(self, upstream: Upstream, endpoint: str) -> URL:
        key = (upstream.base, endpoint)
        url = self._urls.get(key)
        if url is None:
            url = self._urls[key] = URL(f"{upstream.base}/v1/{endpoint}")
        return url

    async def probe(self, upstream: Upstream) -> None:
        """Look at /health once. A refused connection takes an instance out; an answer brings it back; slowness says nothing."""
        try:
            async with self._session.get(
                upstream.base + "/health", timeout=aiohttp.ClientTimeout(total=5, sock_connect=2)
            ) as answer:
                upstream.up = answer.status < 500
        except _REFUSED:
            upstream.up = False
        except (aiohttp.ClientError, TimeoutError):
            return


def _forwarded(headers: Mapping[str, str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in KEPT_HERE)


def _returned(headers: Mapping[str, str], upstream: Upstream) -> CIMultiDict[str]:
    kept = CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in NOT_RETURNED)
    kept[INSTANCE_HEADER] = upstream.name
    return kept


async def _put(response: web.StreamResponse, data: bytes) -> None:
    try:
        await response.write(data)
    except ConnectionError:
        raise _ClientGone from None
