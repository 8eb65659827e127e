"""One gateway: who may call, how much, where to. Sending is ``relay``, connections are ``server``."""

import logging
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import msgspec
from aiohttp import web

from executor.gateway.config import GatewayConfig, is_loopback
from executor.gateway.headers import forwarded, sent_keys
from executor.gateway.intake import Budget, HeldBodies, read_request
from executor.gateway.keys import KeyRing
from executor.gateway.metrics import Metrics
from executor.gateway.pool import InstancePool
from executor.gateway.relay import GatewayCall, Relay
from executor.gateway.replies import (
    Dialect,
    Refusal,
    bad_request,
    no_such_path,
    too_many,
    unauthorized,
    unavailable,
    wrong_method,
)
from executor.recording.recorder import Recorder
from executor.wire.body import read_body
from scepsy.errors import InputError

log = logging.getLogger("scepsy.gateway")

ENDPOINTS = frozenset(("chat/completions", "completions", "responses", "embeddings", "score", "rerank", "messages"))

UNRECORDED = frozenset(("messages/count_tokens",))
"""Passed on like calls, but they are none: nothing is generated."""

BARE = {"/score": "score", "/rerank": "rerank"}
"""vLLM serves these without /v1 too."""

_PATH = re.compile(r"(?:/workflow/(?P<workflow>[^/]+))?(?:/run/(?P<run>[^/]+))?/v1/(?P<rest>.+)")
"""What may stand before /v1: a base_url that names the run, for programs where nothing else can be set."""


class CallTarget(NamedTuple):
    """What a URL asks for."""

    endpoint: str
    """Below /v1; models/<id> included."""
    run: str = ""
    workflow: str = ""


def target_of(raw_path: str) -> CallTarget | None:
    """Read a URL's path; None when it is none of ours.

    >>> target_of("/workflow/w/run/r%201/v1/chat/completions")
    CallTarget(endpoint='chat/completions', run='r 1', workflow='w')
    """
    if raw_path in BARE:
        return CallTarget(BARE[raw_path])
    match = _PATH.fullmatch(raw_path)
    if match is None:
        return None
    return CallTarget(unquote(match["rest"]), unquote(match["run"] or ""), unquote(match["workflow"] or ""))


class Gateway:
    """One gateway: its instances, keys, limits and recorder. ``handle`` is what a server runs."""

    def __init__(self, config: GatewayConfig, keys: KeyRing, recorder: Recorder | None = None) -> None:
        self.config, self.keys, self.recorder = config, keys, recorder
        self.pool = InstancePool(config.endpoints)
        self.metrics = Metrics()
        self.in_flight = 0
        self.draining = False
        self.exposed = False
        """Whether others than this machine can reach it: what is bound decides (``bind``), not what a file says."""
        self._budget = Budget(config.limits.held_bytes)
        self._relay: Relay | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look after the instances; at the end, close the recording."""
        self._relay = Relay(self.config, self.pool, self.metrics, self.recorder)
        try:
            async with self._relay.running():
                yield
        finally:
            if self.recorder is not None:
                self.recorder.close()

    def bind(self, hosts: Iterable[str]) -> None:
        """Take note of the addresses that it listens on. Raises ``InputError`` when anyone could call."""
        self.exposed = not all(map(is_loopback, hosts))
        self._refuse_strangers(self.config, self.keys)

    def _refuse_strangers(self, config: GatewayConfig, keys: KeyRing) -> None:
        if self.exposed and not len(keys) and not config.allow_unauthenticated:
            raise InputError(
                "api_keys_file: no keys, and the gateway listens on an address that others can reach: must be given "
                "(or api_keys_env, or allow_unauthenticated: true, or a restart with host: 127.0.0.1)"
            )

    def reload(self, config: GatewayConfig, keys: KeyRing) -> None:
        """Take over new instances and keys. Where to listen, limits and recording stay until a restart.

        Raises ``InputError``, and changes nothing, when what is bound would be open to strangers.
        """
        self._refuse_strangers(config, keys)
        if self.exposed and not len(keys) and len(self.keys):
            log.warning("open to anyone from now on: allow_unauthenticated is true and no key is configured")
        self.pool.replace(config.endpoints)
        self.keys = keys
        for field in ("host", "port", "limits", "recording"):
            if getattr(config, field) != getattr(self.config, field):
                log.warning("%s changed: takes effect when the gateway is restarted", field)
        log.info("serving %s", ", ".join(f"{llm} ({n} ready)" for llm, n in self.pool.ready().items()) or "nothing")

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request. Whatever it is, its key comes first, and its body only after that."""
        path = request.rel_url.raw_path
        try:
            if path == "/health":
                _only_get(request)
                return self._health()
            if path == "/metrics":
                _only_get(request)
                return self._exposition()
            key_run = self._admit(request)
            target = target_of(path)
            if target is not None and target.endpoint in ENDPOINTS | UNRECORDED:
                if request.method != "POST":
                    raise wrong_method("POST")
                return await self._call(request, target, key_run)
            if target is not None and (target.endpoint == "models" or target.endpoint.startswith("models/")):
                _only_get(request)
                return self._models(target.endpoint)
            raise no_such_path(request.method if request.method in ("GET", "POST") else "this method")
        except Refusal as refusal:
            self.metrics.refused(refusal.status)
            answer = refusal.response(_dialect(request))
            if not request.content.is_eof():
                answer.force_close()  # the rest of its body is not waited for
            return answer
        except ConnectionError:  # the client has gone
            gone = web.Response(status=400)
            gone.force_close()
            return gone

    def _admit(self, request: web.BaseRequest) -> str:
        """Check the key, on headers alone; the run that it names, if any."""
        for sent in sent_keys(request.headers) or [""]:
            known, run = self.keys.split(sent)
            if known:
                break
        else:
            raise unauthorized()
        if self.draining:
            raise unavailable("The gateway is shutting down.")
        return run

    async def _call(self, request: web.BaseRequest, target: CallTarget, key_run: str) -> web.StreamResponse:
        limits = self.config.limits
        held = self._budget.hold()
        try:
            data = await read_request(request, limits.body_bytes, limits.body_s, held)
            # A slot is taken only now, so that slow bodies keep nobody else out.
            if self.draining:
                raise unavailable("The gateway is shutting down.")
            if self.in_flight >= limits.concurrent:
                raise too_many(limits.concurrent)
            self.in_flight += 1
            try:
                return await self._send(request, target, key_run, data, held)
            finally:
                self.in_flight -= 1
        finally:
            held.release()

    async def _send(
        self, request: web.BaseRequest, target: CallTarget, key_run: str, data: bytes, held: HeldBodies
    ) -> web.StreamResponse:
        assert self._relay is not None
        try:
            body = read_body(data)
        except ValueError as error:
            raise bad_request(str(error)) from None
        self.pool.require(body.model)  # before anything is recorded
        call = GatewayCall(target.endpoint, body, data, forwarded(request.headers, self.keys), held, _dialect(request))
        if self.recorder is not None and target.endpoint not in UNRECORDED:
            call.record = self.recorder.begin(
                target.endpoint, request.headers, body, target.run, target.workflow, key_run, data
            )
        return await self._relay.send(request, call)

    def _models(self, endpoint: str) -> web.Response:
        """All models, or one by its id, which may hold slashes."""
        models = {llm: {"id": llm, "object": "model", "created": 0, "owned_by": "scepsy"} for llm in self.pool.llms}
        if endpoint == "models":
            return _json({"object": "list", "data": list(models.values())})
        model = endpoint.removeprefix("models/")
        self.pool.require(model)
        return _json(models[model])

    def _health(self) -> web.Response:
        """200 while every LLM has an instance that takes calls, else 503; open to all, so it names no addresses."""
        ready = self.pool.ready()
        well = bool(ready) and all(ready.values()) and not self.draining
        status = "draining" if self.draining else "ok" if well else "unavailable"
        document: dict[str, object] = {"status": status, "ready": ready}
        if self.recorder is not None:
            document["recording"] = f"failing: {self.recorder.failing}" if self.recorder.failing else "ok"
        return _json(document, 200 if well else 503)

    def _exposition(self) -> web.Response:
        recorder = self.recorder
        body = self.metrics.render(self.pool, recorder.written if recorder else 0, recorder.lost if recorder else 0)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _only_get(request: web.BaseRequest) -> None:
    if request.method not in ("GET", "HEAD"):
        raise wrong_method("GET")


def _dialect(request: web.BaseRequest) -> Dialect:
    path = request.rel_url.raw_path
    return "anthropic" if path.endswith(("/v1/messages", "/v1/messages/count_tokens")) else "openai"


def _json(document: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(document), content_type="application/json")


def make_recorder(config: GatewayConfig, folder: Path) -> Recorder | None:
    """The recorder that a configuration asks for."""
    return Recorder(config.recording, folder) if config.recording is not None else None
