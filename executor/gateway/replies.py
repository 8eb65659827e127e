"""What the gateway itself answers: errors as OpenAI gives them, under /v1/messages as Anthropic does, for client libraries."""

from typing import Literal

import msgspec
from aiohttp import web

Dialect = Literal["openai", "anthropic"]
"""Whose error format a client expects: Anthropic's under /v1/messages, else OpenAI's."""

ANTHROPIC_KINDS = {
    "model_not_found": "not_found_error",
    "invalid_api_key": "authentication_error",
    "request_too_large": "request_too_large",
    "rate_limit_error": "rate_limit_error",
    "unavailable": "overloaded_error",
    "server_error": "api_error",
}
"""OpenAI's code or type to Anthropic's type; all others are ``invalid_request_error``."""


def error_body(message: str, kind: str, code: str | None = None, dialect: Dialect = "openai") -> bytes:
    """The JSON body of an error."""
    if dialect == "anthropic":
        theirs = ANTHROPIC_KINDS.get(code or "") or ANTHROPIC_KINDS.get(kind, "invalid_request_error")
        return msgspec.json.encode({"type": "error", "error": {"type": theirs, "message": message}})
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})


def error_event(message: str, kind: str = "server_error", code: str | None = None, dialect: Dialect = "openai") -> bytes:
    """An error as a server-sent event, for a stream that has already begun."""
    name = b"event: error\n" if dialect == "anthropic" else b""
    return name + b"data: " + error_body(message, kind, code, dialect) + b"\n\n"


class Refusal(Exception):
    """A call that the gateway answers itself. ``headers`` go with the answer."""

    def __init__(
        self, status: int, message: str, kind: str, code: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.headers = status, message, kind, code, headers

    def response(self, dialect: Dialect = "openai") -> web.Response:
        """The answer, in the words of the API that the client speaks."""
        return web.Response(
            status=self.status,
            body=error_body(self.message, self.kind, self.code, dialect),
            content_type="application/json",
            headers=self.headers,
        )


def bad_request(message: str) -> Refusal:
    """400."""
    return Refusal(400, message, "invalid_request_error")


def unauthorized() -> Refusal:
    """401, which says nothing about the key that was sent."""
    return Refusal(
        401, "Incorrect API key provided.", "invalid_request_error", "invalid_api_key", {"WWW-Authenticate": "Bearer"}
    )


def unknown_model(model: str, known: list[str]) -> Refusal:
    """404, in OpenAI's words, and what is served instead."""
    served = ", ".join(known) or "none"
    told = f"The model `{model[:200]}` does not exist or you do not have access to it. Served here: {served}."
    return Refusal(404, told, "invalid_request_error", "model_not_found")


def no_such_path(method: str) -> Refusal:
    """404. The path itself is not repeated: it may hold anything."""
    return Refusal(404, f"Unknown request URL for {method}: look at the base_url.", "invalid_request_error", "unknown_url")


def wrong_method(allowed: str) -> Refusal:
    """405."""
    return Refusal(405, f"This URL takes {allowed} only.", "invalid_request_error", "method_not_allowed", {"Allow": allowed})


def body_too_slow(limit_s: float) -> Refusal:
    """408."""
    return Refusal(408, f"The request body did not arrive within {limit_s:g} s.", "invalid_request_error", "request_timeout")


def unsupported_encoding(encoding: str) -> Refusal:
    """415."""
    return Refusal(
        415, f"Content-Encoding {encoding[:40]!r} is not read here: send gzip, deflate or none.", "invalid_request_error"
    )


def held_too_much(limit: int) -> Refusal:
    """503: memory is kept for the calls that are here already."""
    return Refusal(
        503,
        f"Calls in flight hold {limit} bytes already; try again.",
        "server_error",
        "too_many_bytes",
        {"Retry-After": "1"},
    )


def reply_too_large(instance: str, limit: int) -> Refusal:
    """502."""
    return Refusal(502, f"The reply of instance {instance} exceeds {limit} bytes.", "server_error", "reply_too_large")


def redirected(instance: str) -> Refusal:
    """502: following it would send the prompt to wherever an engine says."""
    return Refusal(502, f"Instance {instance} answered with a redirect, which is not followed.", "server_error", "redirected")


def too_large(limit: int) -> Refusal:
    """413."""
    return Refusal(413, f"The request body exceeds {limit} bytes.", "invalid_request_error", "request_too_large")


def too_many(limit: int) -> Refusal:
    """429."""
    return Refusal(
        429, f"{limit} calls are in flight already; try again.", "rate_limit_error", "too_many_requests", {"Retry-After": "1"}
    )


def unavailable(message: str) -> Refusal:
    """503."""
    return Refusal(503, message, "server_error", "unavailable", {"Retry-After": "2"})


def engine_lost(instance: str) -> Refusal:
    """502: the engine went away after the call had been sent, so it is not repeated."""
    return Refusal(502, engine_lost_message(instance), "server_error", "engine_lost")


def event_too_large_message(instance: str, limit: int) -> str:
    """What a client is told when one event of its stream is longer than anybody could use."""
    return f"Instance {instance} sent an event of more than {limit} bytes; the stream was ended."


def incomplete_message(instance: str) -> str:
    """What a client is told when its stream ends before it says that it is complete."""
    return f"Instance {instance} ended the stream before it was complete."


def engine_lost_message(instance: str) -> str:
    """What a client is told when the engine of its call goes away."""
    return f"Instance {instance} went away while answering; the call was not repeated."
