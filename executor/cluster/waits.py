"""Waiting for pods to serve and for objects to go, across lost watches and restarting servers."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from executor.cluster.api import Api, Gone, Object
from executor.cluster.kinds import DEPLOYMENT, POD, Kind
from executor.cluster.pods import Gate, PodState, best, pod_state
from executor.cluster.problems import refusal
from executor.cluster.snapshot import engine_of
from executor.manifests import Engine
from executor.manifests.names import release_selector
from scepsy.errors import BackendError


@dataclass(frozen=True)
class Event:
    """One thing that happened, for whoever shows progress."""

    what: str
    """started, serving, kept, drained, deleted, applied, rolled back, …"""
    name: str
    """The plan's name of an instance, or kind/name of another object."""
    after_s: float = 0.0


OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class WaitLimits:
    """How long each kind of waiting may take."""

    start_s: float = 900.0
    """From an engine's creation until it serves: image pull, weights, compilation."""
    stop_s: float = 300.0
    """From a deletion until the object is gone."""
    drain_s: float = 150.0
    """Until every gateway replica has read its new configuration (a kubelet takes up to 90 s) and its calls have ended."""
    refused_s: float = 10.0
    """How long the server may refuse an engine's pod before that is taken for final; quotas settle within seconds."""
    lease_s: float = 30.0
    """How long a run that writes a release may be silent before another one takes over."""
    gate: Gate = "ready"
    tick_s: float = 5.0
    """Longest time between two looks at the clock while nothing happens."""
    poll_s: float = 1.0
    """Between two lists while something goes away; begins shorter."""


class NotReady(BackendError):
    """An engine did not come to serve; the message says which, where, and why."""


class PodFeed:
    """The pods of a release, kept current by list and watch; ``states`` holds the best pod of each engine."""

    def __init__(self, api: Api, release: str, *, key: Callable[[Object], str] = engine_of) -> None:
        self.states: dict[str, PodState] = {}
        self._api = api
        self._selector = release_selector(release)
        self._key = key
        self._pods: dict[str, dict[str, PodState]] = {}

    def changes(self, tick_s: float) -> Iterator[set[str]]:
        """Engines whose pods may have changed: all after a list, one after an event, none at a tick. Never ends."""
        version = ""
        while True:
            if not version:
                version = self._relist()
                yield set(self.states)
            try:
                for kind, obj in self._api.watch(POD, self._selector, version, longest_s=tick_s):
                    version = str(obj["metadata"].get("resourceVersion", version))
                    if kind != "BOOKMARK":
                        yield {self._take(obj, removed=kind == "DELETED")}
            except Gone:
                version = ""
                self._api.sleep(self._api.patience.first_s)
            self._api.guard()
            yield set()

    def _relist(self) -> str:
        pods, version = self._api.list_all(POD, self._selector)
        self._pods = {}
        self.states = {}
        for pod in pods:
            self._take(pod, removed=False)
        return version

    def _take(self, pod: Object, *, removed: bool) -> str:
        engine = self._key(pod)
        mine = self._pods.setdefault(engine, {})
        mine.pop(pod["metadata"]["name"], None)
        if not removed:
            mine[pod["metadata"]["name"]] = pod_state(pod)
        state = best(mine.values())
        if state is None:
            self.states.pop(engine, None)
        else:
            self.states[engine] = state
        return engine


class Refusals:
    """Pods that the server refuses to store (Pod Security, quota, a webhook): the Deployment's ReplicaFailure says why."""

    def __init__(self, api: Api, release: str) -> None:
        self._api = api
        self._selector = release_selector(release)
        self._since: dict[str, tuple[float, str]] = {}
        self._asked_s = -1e9

    def of(self, deployment: str, after_s: float) -> str:
        """Why a Deployment's pods have been refused for ``after_s`` seconds by now; empty when they have not."""
        now_s = self._api.clock()
        if now_s - self._asked_s >= max(after_s / 5, 0.5):
            self._ask(now_s)
        since_s, reason = self._since.get(deployment, (now_s, ""))
        return reason if reason and now_s - since_s >= after_s else ""

    def _ask(self, now_s: float) -> None:
        self._asked_s = now_s
        found: dict[str, tuple[float, str]] = {}
        for obj in self._api.list_all(DEPLOYMENT, self._selector)[0]:
            for condition in obj.get("status", {}).get("conditions", []):
                if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
                    name = str(obj["metadata"]["name"])
                    since_s, _ = self._since.get(name, (now_s, ""))
                    found[name] = (since_s, refusal(str(condition.get("message", condition.get("reason", "")))))
        self._since = found


def bring_up(
    api: Api,
    release: str,
    start: Iterable[Engine],
    kept: Iterable[Engine],
    begin: Callable[[Engine], None],
    limits: WaitLimits,
    on_event: OnEvent,
) -> None:
    """Start engines, each as soon as its earlier neighbours on the same GPUs serve, and wait until all do.

    Raises ``NotReady`` when one takes longer than ``limits.start_s`` or cannot come up.
    """
    todo, here = tuple(start), tuple(kept)
    engines = {engine.name: engine for engine in (*here, *todo)}
    blockers: dict[str, set[str]] = {e.name: {name for name in e.after if name in engines} for e in todo}
    followers: dict[str, list[str]] = {}
    for name, before in blockers.items():
        for earlier in before:
            followers.setdefault(earlier, []).append(name)
    refusals = Refusals(api, release)
    begun: dict[str, float] = {engine.name: api.clock() for engine in here}
    serving: set[str] = set()

    def launch(name: str) -> None:
        begin(engines[name])
        begun[name] = api.clock()
        on_event(Event("started", engines[name].instance))

    for name in [e.name for e in todo if not blockers[e.name]]:
        launch(name)
    feed = PodFeed(api, release)
    for changed in feed.changes(limits.tick_s):
        for name in changed & begun.keys():
            state = feed.states.get(name)
            if state is None:
                serving.discard(name)
            elif state.passes(limits.gate) and name not in serving:
                serving.add(name)
                on_event(Event("serving", engines[name].instance, api.clock() - begun[name]))
                for follower in followers.get(name, ()):
                    blockers[follower].discard(name)
                    if not blockers[follower] and follower not in begun:
                        launch(follower)
            elif not state.passes(limits.gate):
                serving.discard(name)
        if len(serving) == len(engines):
            return
        _give_up(api, engines, begun, serving, feed.states, refusals, limits)


def _give_up(
    api: Api,
    engines: Mapping[str, Engine],
    begun: Mapping[str, float],
    serving: set[str],
    states: Mapping[str, PodState],
    refusals: Refusals,
    limits: WaitLimits,
) -> None:
    for name, since in begun.items():
        if name in serving:
            continue
        state, waited_s = states.get(name), api.clock() - since
        # A pod appears within moments; only an engine that has none for long is asked about.
        refused = "" if state or waited_s < limits.refused_s else refusals.of(name, limits.refused_s)
        if waited_s > limits.start_s or (state is not None and state.hopeless) or refused:
            reason = (
                refused
                or (state.problem if state else "")
                or ("no pod was made for it" if state is None else "it is still loading")
            )
            where = f"{engines[name].instance} on {engines[name].node}"
            raise NotReady(
                f"instance {where} does not serve after {waited_s:.0f} s: {reason} (pod {state.name if state else '–'})"
            )


def wait_gone(api: Api, release: str, kind: Kind, names: Iterable[str], limits: WaitLimits, on_event: OnEvent) -> None:
    """Wait until none of ``names`` is listed any more. Raises ``BackendError`` naming what stays, after ``limits.stop_s``."""
    left = set(names)
    started, pause_s = api.clock(), limits.poll_s / 32
    while left:
        present = {obj["metadata"]["name"] for obj in api.list_all(kind, release_selector(release))[0]}
        for name in sorted(left - present):
            on_event(Event("deleted", f"{kind.name.lower()}/{name}", api.clock() - started))
        left &= present
        if left and api.clock() - started > limits.stop_s:
            raise BackendError(
                f"{kind.name} {sorted(left)[0]}{f' and {len(left) - 1} more' if len(left) > 1 else ''} still there "
                f"{limits.stop_s:.0f} s after deletion: is its node up? (kubectl describe it, then run this again)"
            )
        if left:
            api.guard()
            api.sleep(pause_s)
            pause_s = min(2 * pause_s, limits.poll_s)
