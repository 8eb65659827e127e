"""Take a release down and leave nothing, whatever state it is in."""

from executor.cluster.api import Api
from executor.cluster.kinds import CONFIG_MAP, DEPLOYMENT, JOB, OWNED
from executor.cluster.lease import writing
from executor.cluster.preflight import check_version
from executor.cluster.snapshot import component, take
from executor.cluster.waits import Event, OnEvent, WaitLimits, wait_gone
from scepsy.errors import BackendError


def delete(api: Api, release: str, *, limits: WaitLimits | None = None, on_event: OnEvent = lambda event: None) -> int:
    """Delete every object of ``release`` and wait until they are gone; returns how many there were.

    Pods go before the claims that they use, and the records of the plans go last, so that a run that was cut off is
    recognised and finished by the next. Raises ``BackendError`` naming what does not go.
    """
    limits = limits or WaitLimits()
    check_version(api)
    with writing(api, release, limits.lease_s, lambda holder: on_event(Event("waiting for another writer", holder))):
        return _delete(api, release, limits, on_event)


def _delete(api: Api, release: str, limits: WaitLimits, on_event: OnEvent) -> int:
    found = take(api, release)
    for kind in OWNED:
        mine = [obj for obj in found.of(kind) if component(obj) != "plan"]
        names = [obj["metadata"]["name"] for obj in mine]
        for name in names:
            api.delete(kind, name, foreground=kind in (DEPLOYMENT, JOB))
        wait_gone(api, release, kind, names, limits, on_event)
    records = [obj["metadata"]["name"] for obj in found.plans]
    for name in records:
        api.delete(CONFIG_MAP, name)
    wait_gone(api, release, CONFIG_MAP, records, limits, on_event)
    left = [f"{kind.lower()}/{name}" for kind, name in take(api, release).objects]
    if left:
        raise BackendError(f"release {release}: {', '.join(sorted(left))} came back after deletion: is another apply running?")
    return len(found.objects)
