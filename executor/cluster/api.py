"""One connection to one API server: the only place that sends it anything.

Every request is safe to send again (reads, server-side apply, delete by name), so whatever may pass is retried with
backoff: a dropped connection, 409, 429, 500 to 504, and 401 after reading the credentials anew. What will not pass by
waiting (403, 404, 422, and a 500 that says that the object is wrong) is said at once, in one line with its remedy.
"""

import json
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import urllib3.exceptions
from kubernetes.client import ApiClient
from kubernetes.client.exceptions import ApiException

from executor.cluster.kinds import Kind, kind_of
from executor.cluster.problems import AttemptFailure, Failed, Unreachable, explain, read_problem, shorten
from executor.manifests.names import FIELD_MANAGER
from scepsy.errors import BackendError

Object = dict[str, Any]

_PASSING = {408, 409, 410, 429, 500, 502, 503, 504}
"""Statuses that a later attempt may not meet. 409: somebody wrote at the same moment, or the old object is still going."""
_PAGE = 500
_CREDENTIAL_TRIES = 3


class Gone(Exception):
    """410: the server no longer has the version that we were reading from; list again."""


@dataclass(frozen=True)
class Patience:
    """How long an API server may be away or overloaded before we give up."""

    total_s: float = 120.0
    """Longest time one request is tried for; an API server that restarts is back within a minute."""
    first_s: float = 0.25
    """Pause after the first failure; it doubles, up to ``longest_s``."""
    longest_s: float = 10.0
    request_s: float = 30.0
    """Longest time without an answer to one attempt."""

    def pause_s(self, attempt: int) -> float:
        """Pause after failed attempt number ``attempt`` (from 0).

        >>> [Patience().pause_s(n) for n in (0, 1, 2, 9)]
        [0.25, 0.5, 1.0, 10.0]
        """
        return min(self.first_s * 2.0 ** min(attempt, 30), self.longest_s)


class Api:
    """Requests within one namespace. ``connect`` makes a client with fresh credentials; it is called again after a 401."""

    def __init__(
        self,
        connect: Callable[[], ApiClient],
        namespace: str,
        *,
        patience: Patience | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.namespace = namespace
        self.patience = patience or Patience()
        self.sleep = sleep
        self.clock = clock
        self.guard: Callable[[], None] = lambda: None
        """Called before every write that stores something; raises when we may not write any more (see ``lease``)."""
        self._connect = connect
        self._client = connect()

    @property
    def host(self) -> str:
        """The server's address, for messages."""
        return str(self._client.configuration.host)

    def get(self, kind: Kind, name: str) -> Object | None:
        """One object, or None when there is none."""
        return self.call("GET", kind.path(self.namespace, name), absent_ok=True)

    def get_path(self, path: str, *, patience: Patience | None = None) -> Object | None:
        """Any document by its path, or None when the server has no such path."""
        return self.call("GET", path, absent_ok=True, patience=patience)

    def list_all(self, kind: Kind, selector: str = "") -> tuple[list[Object], str]:
        """All objects that ``selector`` matches, and the version to watch from; a kind the server lacks has none."""
        while True:
            try:
                return self._list(kind, selector)
            except Gone:
                self.sleep(self.patience.first_s)

    def apply(self, manifest: Object, *, dry_run: bool = False) -> Object:
        """Server-side apply: create or change, taking fields over from whoever set them. Returns the stored object."""
        kind = kind_of(manifest)
        query = [("fieldManager", FIELD_MANAGER), ("force", "true"), *([("dryRun", "All")] if dry_run else [])]
        path = kind.path(self.namespace, manifest["metadata"]["name"])
        if not dry_run:
            self.guard()
        stored = self.call("PATCH", path, query=query, body=manifest, content_type="application/apply-patch+yaml")
        assert stored is not None
        return stored

    def delete(self, kind: Kind, name: str, *, foreground: bool = False) -> None:
        """Delete one object; none is no error. ``foreground``: it stays visible until everything it owns is gone."""
        policy = "Foreground" if foreground else "Background"
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy}
        self.guard()
        self.call("DELETE", kind.path(self.namespace, name), body=body, absent_ok=True)

    def create(self, kind: Kind, body: Object, *, dry_run: bool = False) -> Object:
        """POST: only for reviews and rehearsals, which store nothing."""
        query = [("dryRun", "All")] if dry_run else []
        made = self.call("POST", kind.path(self.namespace), query=query, body=body)
        assert made is not None
        return made

    def text(self, path: str, query: Sequence[tuple[str, str]] = ()) -> str | None:
        """A plain-text document (metrics through the proxy, a log), or None when it cannot be had right now."""
        try:
            return self._send("GET", path, query, None, "", self.patience.request_s).decode(errors="replace")
        except Failed:
            return None

    def watch(self, kind: Kind, selector: str, version: str, *, longest_s: float) -> Iterator[tuple[str, Object]]:
        """Changes since ``version`` as (type, object), for at most ``longest_s`` seconds; a lost watch ends early.

        Raises ``Gone`` when ``version`` is too old: list again.
        """
        query = [
            ("watch", "true"),
            ("labelSelector", selector),
            ("resourceVersion", version),
            ("timeoutSeconds", str(max(1, round(longest_s)))),
            ("allowWatchBookmarks", "true"),
        ]
        try:
            response = self._open("GET", kind.path(self.namespace), query, None, "", (self.patience.request_s, longest_s + 15))
            yield from _events(response)
        except Failed as failure:
            if failure.problem.status == 410:
                raise Gone from failure
            if failure.problem.status in (401, 403):
                self._settle(failure.problem, "GET", kind.path(self.namespace), attempt=0, started=self.clock(), patience=None)
            self.sleep(self.patience.first_s)
        except (urllib3.exceptions.HTTPError, ConnectionError, json.JSONDecodeError):
            self.sleep(self.patience.first_s)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Object | None = None,
        content_type: str = "application/json",
        absent_ok: bool = False,
        raise_gone: bool = False,
        final: Container[int] = (),
        patience: Patience | None = None,
    ) -> Object | None:
        """Send until it is done, or until it is clear that it will not be.

        Raises ``BackendError`` with one line and its remedy, ``Gone`` on 410 if that is asked for, and ``Failed`` on the
        statuses of ``final``, which the caller knows what to do about.
        """
        started, attempt = self.clock(), 0
        while True:
            try:
                raw = self._send(method, path, query, body, content_type, (patience or self.patience).request_s)
                return json.loads(raw) if raw else {}
            except json.JSONDecodeError:
                problem = AttemptFailure(0, "the answer was cut off or is not JSON")
            except Failed as failure:
                problem = failure.problem
            if problem.status == 404 and absent_ok:
                return None
            if problem.status == 410 and raise_gone:
                raise Gone
            if problem.status in final:
                raise Failed(problem)
            self._settle(problem, method, path, attempt=attempt, started=started, patience=patience)
            attempt += 1

    def _settle(
        self, problem: AttemptFailure, method: str, path: str, *, attempt: int, started: float, patience: Patience | None
    ) -> None:
        """Wait before the next attempt, or raise when there is no point in one."""
        patience = patience or self.patience
        unknown = problem.status == 401
        if unknown and attempt < _CREDENTIAL_TRIES:
            self._client = self._connect()
        elif (problem.status not in _PASSING and problem.status != 0) or problem.about_the_object:
            raise BackendError(explain(problem, method, path, self.host))
        pause = max(patience.pause_s(attempt), problem.retry_after_s)
        if self.clock() - started + pause > patience.total_s:
            kind = BackendError if problem.status in range(1, 500) else Unreachable
            raise kind(explain(problem, method, path, self.host, tried_s=self.clock() - started))
        self.sleep(pause)

    def _list(self, kind: Kind, selector: str) -> tuple[list[Object], str]:
        found: list[Object] = []
        token = ""
        while True:
            query = [("limit", str(_PAGE)), *([("labelSelector", selector)] if selector else [])]
            query += [("continue", token)] if token else []
            page = self.call("GET", kind.path(self.namespace), query=query, absent_ok=True, raise_gone=bool(token))
            if page is None:
                return [], ""
            # Items of a list carry neither of these, and everything downstream wants both.
            found += [{"apiVersion": kind.api, "kind": kind.name, **item} for item in page["items"]]
            token = page["metadata"].get("continue", "")
            if not token:
                return found, page["metadata"].get("resourceVersion", "")

    def _send(
        self, method: str, path: str, query: Sequence[tuple[str, str]], body: Object | None, content_type: str, limit_s: float
    ) -> bytes:
        try:
            return bytes(self._open(method, path, query, body, content_type, (limit_s, limit_s)).data)
        except (urllib3.exceptions.HTTPError, ConnectionError) as error:
            raise Failed(AttemptFailure(0, shorten(error))) from error

    def _open(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        body: Object | None,
        content_type: str,
        limits_s: tuple[float, float],
    ) -> Any:
        """Send once; the response is not read yet. Raises ``Failed`` for every answer that is not 2xx."""
        headers = {"Accept": "application/json, */*"}
        if body is not None:
            headers["Content-Type"] = content_type
        # The client serialises JSON types itself; other types it takes as text.
        payload: Any = body if content_type.endswith("json") else json.dumps(body)
        try:
            request = self._client.param_serialize(
                method, path, query_params=list(query), header_params=headers, body=payload, auth_settings=["BearerToken"]
            )
            response = self._client.call_api(*request, _request_timeout=limits_s).response
        except ApiException as error:
            raise Failed(AttemptFailure(error.status or 0, str(error.reason))) from error
        except (urllib3.exceptions.HTTPError, ConnectionError) as error:
            raise Failed(AttemptFailure(0, shorten(error))) from error
        if response.status >= 300:
            raise Failed(read_problem(response))
        return response


def _events(response: Any) -> Iterator[tuple[str, Object]]:
    """Lines of a watch as they come; a line that a dropped connection cut is never parsed."""
    buffer = b""
    try:
        for chunk in response.stream(amt=None, decode_content=False):
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in filter(None, lines):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise Failed(AttemptFailure(int(status.get("code", 0)), str(status.get("message", ""))))
                yield event["type"], event["object"]
    finally:
        response.close()
