"""The gateway as an aiohttp application: who may call, how much, where to; the rest is ``relay``."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from aiohttp import web

from executor.gateway.config import GatewayConfig, KeyRing
from executor.gateway.metrics import Metrics
from executor.gateway.pool import Pool
from executor.gateway.relay import Call, Relay
from executor.gateway.replies import Refusal, bad_request, error_body, too_large, too_many, unauthorized, unavailable
from executor.recording.attribution import split_key
from executor.recording.recorder import Recorder
from executor.wire.body import read_body

log = logging.getLogger("scepsy.gateway")

ENDPOINTS = ("chat/completions", "completions", "responses", "embeddings", "score", "rerank")

PREFIXES = ("", "/run/{run}", "/workflow/{workflow}", "/workflow/{workflow}/run/{run}")
"""What may stand before /v1: a base_url that names the run, for programs where nothing else can be set."""


@web.middleware
async def openai_errors(request: web.Request, handler):  # type: ignore[no-untyped-def]
    """Errors that aiohttp itself raises (404, 405, a bad header) in the form that OpenAI clients expect."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        body = error_body(error.reason, "invalid_request_error" if error.status < 500 else "server_error")
        return web.Response(status=error.status, body=body, content_type="application/json")


class Gateway:
    """One gateway: its instances, keys, limits and recorder. ``app`` is what a server runs."""

    def __init__(self, config: GatewayConfig, keys: KeyRing, recorder: Recorder | None = None) -> None:
        self.config, self.keys, self.recorder = config, keys, recorder
        self.pool = Pool(config.endpoints)
        self.metrics = Metrics()
        self.in_flight = 0
        self.draining = False
        self._relay: Relay | None = None
        self.app = web.Application(client_max_size=config.limits.body_bytes, middlewares=[openai_errors])
        self._routes()
        self.app.cleanup_ctx.append(self._lifetime)

    def _routes(self) -> None:
        router = self.app.router
        for prefix in PREFIXES:
            for endpoint in ENDPOINTS:
                router.add_post(f"{prefix}/v1/{endpoint}", self._handler(endpoint))
            router.add_get(f"{prefix}/v1/models", self._models)
        for endpoint in ("score", "rerank"):  # vLLM serves them without /v1 too
            router.add_post(f"/{endpoint}", self._handler(endpoint))
        router.add_get("/health", self._health)
        router.add_get("/metrics", self._metrics)

    async def _lifetime(self, app: web.Application) -> AsyncIterator[None]:
        self._relay = Relay(self.config, self.pool, self.metrics, self.recorder)
        watcher = asyncio.create_task(self._watch_health())
        yield
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
        await self._relay.close()
        if self.recorder is not None:
            self.recorder.close()

    async def _watch_health(self) -> None:
        assert self._relay is not None
        while True:
            await asyncio.gather(*(self._relay.probe(upstream) for upstream in self.pool.upstreams))
            await asyncio.sleep(self.config.limits.health_s)

    def reload(self, config: GatewayConfig, keys: KeyRing) -> None:
        """Take over new instances and keys. Where to listen, limits and recording stay until a restart."""
        self.pool.replace(config.endpoints)
        self.keys = keys
        for field in ("host", "port", "limits", "recording"):
            if getattr(config, field) != getattr(self.config, field):
                log.warning("%s changed: takes effect when the gateway is restarted", field)
        log.info("serving %s", ", ".join(f"{llm} ({n} ready)" for llm, n in self.pool.ready().items()) or "nothing")

    def _handler(self, endpoint: str):  # type: ignore[no-untyped-def]  # aiohttp's own handler type
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                key_run = self._admit(request)
                self.in_flight += 1
                try:
                    return await self._call(request, endpoint, key_run)
                finally:
                    self.in_flight -= 1
            except Refusal as refusal:
                self.metrics.refused(refusal.status)
                return refusal.response()

        return handle

    def _admit(self, request: web.Request) -> str:
        """Check the key and the number of calls in flight; the run that the key names, if any."""
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        key, key_run = split_key(bearer.strip()) if scheme.lower() == "bearer" else ("", "")
        if not self.keys.admits(key):
            raise unauthorized()
        if self.draining:
            raise unavailable("The gateway is shutting down.")
        if self.in_flight >= self.config.limits.concurrent:
            raise too_many(self.config.limits.concurrent)
        return key_run

    async def _call(self, request: web.Request, endpoint: str, key_run: str) -> web.StreamResponse:
        assert self._relay is not None
        try:
            data = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise too_large(self.config.limits.body_bytes) from None
        try:
            body = read_body(data)
        except ValueError as error:
            raise bad_request(str(error)) from None
        self.pool.require(body.model)  # before anything is recorded
        call = Call(endpoint, body, data, request.headers)
        if self.recorder is not None:
            match = request.match_info
            call.record = self.recorder.begin(
                endpoint, request.headers, body, match.get("run", ""), match.get("workflow", ""), key_run
            )
        return await self._relay.send(request, call)

    async def _models(self, request: web.Request) -> web.Response:
        try:
            self._admit(request)
        except Refusal as refusal:
            return refusal.response()
        models = [{"id": llm, "object": "model", "created": 0, "owned_by": "scepsy"} for llm in self.pool.llms]
        return _json({"object": "list", "data": models})

    async def _health(self, request: web.Request) -> web.Response:
        """200 while every LLM has an instance that takes calls, else 503; open to all, so it names no addresses."""
        ready = self.pool.ready()
        well = bool(ready) and all(ready.values()) and not self.draining
        status = "draining" if self.draining else "ok" if well else "unavailable"
        document: dict[str, object] = {"status": status, "ready": ready}
        if self.recorder is not None:
            document["recording"] = f"failing: {self.recorder.failing}" if self.recorder.failing else "ok"
        return _json(document, 200 if well else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        recorder = self.recorder
        body = self.metrics.render(self.pool, recorder.written if recorder else 0, recorder.lost if recorder else 0)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _json(document: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(document), content_type="application/json")


def make_recorder(config: GatewayConfig, folder: Path) -> Recorder | None:
    """The recorder that a configuration asks for."""
    return Recorder(config.recording, folder) if config.recording is not None else None
