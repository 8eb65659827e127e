"""What the gateway itself answers: OpenAI-style errors, so that every client library understands them."""

import msgspec
from aiohttp import web


def error_body(message: str, kind: str, code: str | None = None) -> bytes:
    """The JSON body of an error."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})


def error_event(message: str, kind: str = "server_error", code: str | None = None) -> bytes:
    """An error as a server-sent event, for a stream that has already begun."""
    return b"data: " + error_body(message, kind, code) + b"\n\n"


class Refusal(Exception):
    """A call that the gateway answers itself. ``headers`` go with the answer."""

    def __init__(
        self, status: int, message: str, kind: str, code: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.headers = status, message, kind, code, headers

    def response(self) -> web.Response:
        """The answer."""
        return web.Response(
            status=self.status,
            body=error_body(self.message, self.kind, self.code),
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
    """404."""
    served = ", ".join(known) or "none"
    return Refusal(
        404, f"The model {model[:200]!r} is not served here (served: {served}).", "invalid_request_error", "model_not_found"
    )


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


def engine_lost_message(instance: str) -> str:
    """What a client is told when the engine of its call goes away."""
    return f"Instance {instance} went away while answering; the call was not repeated."
