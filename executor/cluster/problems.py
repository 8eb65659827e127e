"""What can go wrong with one request, as a value, and as one line with its remedy. Pure."""

import json
from dataclasses import dataclass
from typing import Any

import urllib3.exceptions

from scepsy.errors import BackendError

_ABOUT_THE_OBJECT = ("failed to create typed patch object", "duplicate entries for key", "field not declared in schema")
"""What server-side apply answers with status 500 although the object itself is wrong (structured-merge-diff's words)."""

_REFUSALS = {
    "exceeded quota": "raise the ResourceQuota of the namespace, or plan fewer instances",
    "failed quota": "the ResourceQuota wants every container to state this: set a LimitRange with defaults in the namespace",
    "violates PodSecurity": "label the namespace with a Pod Security level that allows it (target mps needs privileged)",
    "being terminated": "the namespace is on its way out: wait until it is gone, then create it again",
    "unable to create new content": "the namespace is on its way out: wait until it is gone, then create it again",
    "denied the request": "ask who runs that admission webhook or policy",
}
"""What admission answers with status 403 although it is no question of rights: what to do about each."""


@dataclass(frozen=True)
class AttemptFailure:
    """Why one attempt failed."""

    status: int
    """0: no answer."""
    message: str
    retry_after_s: float = 0.0

    @property
    def about_the_object(self) -> bool:
        """Whether the answer says that what we sent is wrong: sending it again cannot help.

        >>> AttemptFailure(500, '.claims: duplicate entries for key [name="gpu"]').about_the_object
        True
        """
        return self.status in (400, 422) or any(words in self.message for words in _ABOUT_THE_OBJECT)


class Unreachable(BackendError):
    """The API server was away for longer than we wait: nothing more can be done from here now."""


class Failed(Exception):
    """An attempt that got no 2xx answer."""

    def __init__(self, problem: AttemptFailure) -> None:
        super().__init__(problem.message)
        self.problem = problem


def read_problem(response: Any) -> AttemptFailure:
    """The problem that an answer reports."""
    try:
        raw = bytes(response.data)
    except (urllib3.exceptions.HTTPError, ConnectionError) as error:
        return AttemptFailure(0, shorten(error))
    try:
        message = str(json.loads(raw).get("message", ""))
    except (json.JSONDecodeError, AttributeError):
        message = raw.decode(errors="replace")[:200]
    after = response.headers.get("Retry-After", "")
    return AttemptFailure(response.status, message, float(after) if after.isdigit() else 0.0)


def shorten(error: BaseException) -> str:
    """The cause without urllib3's own names around it."""
    return str(getattr(error, "reason", None) or error).rpartition(": ")[2]


def explain(problem: AttemptFailure, method: str, path: str, host: str, tried_s: float | None = None) -> str:
    """One line: what failed, why, and what to do about it."""
    what = f"{method} {path}"
    tried = "" if tried_s is None else f" (tried for {tried_s:.0f} s)"
    if problem.status == 0:
        return f"cluster {host} does not answer: {problem.message}{tried}: check the address, the network and KUBECONFIG"
    if problem.status == 401:
        return f"cluster {host} rejects the credentials (401){tried}: log in again, or check the user of the kubeconfig context"
    if problem.status == 403:
        known = refusal(problem.message)
        if known != problem.message:
            return f"cluster {host} refuses {what} (403): {known}"
        return f"cluster {host} forbids {what}: {problem.message}: grant what executor/cluster/rbac.yaml lists to this user"
    if problem.status == 404:
        remedy = "create the namespace" if "namespaces" in problem.message else "is the name right, and its API enabled?"
        return f"cluster {host} has no {path}: {problem.message}: {remedy}"
    if problem.about_the_object and problem.status not in (400, 422):
        return f"cluster {host} refuses {what} ({problem.status}): {problem.message}: the object is wrong, please report this"
    if problem.status in (400, 422):
        return f"cluster {host} refuses {what} ({problem.status}): {problem.message}: is the plan for this cluster?"
    return f"cluster {host} answers {problem.status} to {what}{tried}: {problem.message}: look at its log, then run this again"


def refusal(message: str) -> str:
    """What admission said, with what to do about it where that is known; on one line.

    >>> refusal('pods "a" is forbidden: exceeded quota: q').rpartition(": ")[2]
    'raise the ResourceQuota of the namespace, or plan fewer instances'
    """
    flat = " ".join(message.split())
    return next((f"{flat}: {remedy}" for words, remedy in _REFUSALS.items() if words in flat), flat)
