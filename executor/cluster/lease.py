"""One writer per release: a ``coordination.k8s.io`` Lease is held from before the first write until after the last.

Two applies at once would each see the GPUs that the other is about to fill. The holder renews before writes and while it
waits. Nobody compares clocks: a lease is free when its record has not changed for its duration *as watched from here*,
or when its holder is a process of this host that no longer runs.
"""

import datetime
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from executor.cluster.api import Api, Object
from executor.cluster.kinds import LEASE
from executor.cluster.problems import Failed
from executor.manifests.names import labels
from scepsy.errors import BackendError

_CONFLICT, _ABSENT = 409, 404


class LeaseLost(BackendError):
    """Somebody else writes this release now: stop, and undo nothing."""


def lease_name(release: str) -> str:
    """Name of the Lease of one release."""
    return f"{release}-writer"


@contextmanager
def writing(
    api: Api, release: str, duration_s: float, waiting_for: Callable[[str], None] = lambda holder: None
) -> Iterator[None]:
    """Hold the release's lease within the block; every write of ``api`` checks that we still do.

    Raises ``BackendError`` when somebody else holds and renews it, and ``LeaseLost`` from a write when it was taken from us. A
    holder that died is waited for, at most ``duration_s``; ``waiting_for`` is called once with its name before that.
    """
    mine = _Held(api, release, duration_s)
    mine.take(waiting_for)
    api.guard = mine.keep
    try:
        yield
    finally:
        api.guard = lambda: None
        mine.drop()


class _Held:
    """The lease as we know it."""

    def __init__(self, api: Api, release: str, duration_s: float) -> None:
        self._api = api
        self._release = release
        self._duration_s = duration_s
        self._path = LEASE.path(api.namespace, lease_name(release))
        self._me = identity()
        self._version = ""
        self._renewed_s = 0.0

    def take(self, waiting_for: Callable[[str], None]) -> None:
        seen, since_s, told = "", self._api.clock(), False
        while True:
            held = self._api.get(LEASE, lease_name(self._release))
            if held is None:
                if self._write("POST", LEASE.path(self._api.namespace), None):
                    return
                continue
            holder = str(held.get("spec", {}).get("holderIdentity", ""))
            version = str(held["metadata"].get("resourceVersion", ""))
            if seen and version != seen:
                raise BackendError(
                    f"release {self._release} of namespace {self._api.namespace} is being changed by {holder}: "
                    f"wait until that ends, then run this again"
                )
            seen = version
            waited_s = self._api.clock() - since_s
            limit_s = max(self._duration_s, float(held.get("spec", {}).get("leaseDurationSeconds", 0)))
            if holder == self._me or not holder or _dead(holder) or waited_s > limit_s:
                if self._write("PUT", self._path, version):
                    return
                seen, since_s = "", self._api.clock()
                continue
            if not told:
                waiting_for(holder)
                told = True
            self._api.sleep(min(1.0, self._duration_s / 4))

    def keep(self) -> None:
        """Renew when a third of the duration has passed. Raises ``LeaseLost`` when it is not ours any more."""
        if self._api.clock() - self._renewed_s < self._duration_s / 3:
            return
        if not self._write("PUT", self._path, self._version):
            # Our own write may have been stored and its answer lost: then the record still names us.
            held = self._api.get(LEASE, lease_name(self._release))
            mine = held is not None and held.get("spec", {}).get("holderIdentity") == self._me
            if held is None or not mine or not self._write("PUT", self._path, str(held["metadata"]["resourceVersion"])):
                raise LeaseLost(
                    f"release {self._release}: another apply or delete took over while this one could not renew its lease: "
                    f"look at `scepsy status`, then run this again"
                )

    def drop(self) -> None:
        """Delete the record, if it is still as we left it; never fails, since it expires by itself."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"resourceVersion": self._version}}
        try:
            self._api.call("DELETE", self._path, body=body, absent_ok=True, final=(_CONFLICT,))
        except (Failed, BackendError):
            return

    def _write(self, method: str, path: str, version: str | None) -> bool:
        """Write the record; whether it is ours now."""
        try:
            stored = self._api.call(method, path, body=self._record(version), final=(_CONFLICT, _ABSENT))
        except Failed as failure:
            if failure.problem.status == _ABSENT and version is None:
                raise BackendError(
                    f"namespace {self._api.namespace} is not in cluster {self._api.host}: create the namespace"
                ) from failure
            return False
        assert stored is not None
        self._version = str(stored["metadata"]["resourceVersion"])
        self._renewed_s = self._api.clock()
        return True

    def _record(self, version: str | None) -> Object:
        now = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        metadata: dict[str, Any] = {"name": lease_name(self._release), "labels": labels(self._release, "writer", "writer")}
        if version is not None:
            metadata["resourceVersion"] = version
        return {
            "apiVersion": LEASE.api,
            "kind": LEASE.name,
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._me,
                "leaseDurationSeconds": max(1, round(self._duration_s)),
                "renewTime": now,
            },
        }


def identity() -> str:
    """This process and this attempt: ``<host>/<boot>/<pid>/<start>/<random>``; a process id alone is used again one day."""
    return f"{socket.gethostname()}/{_boot()}/{os.getpid()}/{_start(os.getpid())}/{uuid.uuid4().hex[:8]}"


def _dead(holder: str) -> bool:
    """Whether ``holder`` is a process of this very host and boot that no longer runs."""
    parts = holder.split("/")
    if len(parts) != 5 or (parts[0], parts[1]) != (socket.gethostname(), _boot()) or not parts[2].isdigit():
        return False
    return _start(int(parts[2])) != parts[3]


def _start(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return ""


def _boot() -> str:
    """The boot and, in a container, its process namespace: elsewhere the same number means another process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        return f"{boot}-{os.readlink('/proc/self/ns/pid').strip('pid:[]')}"
    except OSError:
        return f"{psutil.boot_time():.0f}"
