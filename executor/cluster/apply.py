"""Bring a cluster to a plan, from whatever state it is in: first time, half done, another plan, or nothing to do.

Every step looks at what is there and does what is missing, so a run that was cut off anywhere is finished by the next.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from executor.cluster.api import Api, Object
from executor.cluster.drain import drain
from executor.cluster.drift import differences
from executor.cluster.kinds import BY_NAME, CONFIG_MAP, DEPLOYMENT, SERVICE_ACCOUNT
from executor.cluster.lease import LeaseLost, writing
from executor.cluster.preflight import preflight, rehearse, rehearse_pods
from executor.cluster.problems import Unreachable
from executor.cluster.quota import check_quotas
from executor.cluster.snapshot import Snapshot, annotation, going, llm_of, take
from executor.cluster.transition import Transition, transition
from executor.cluster.waits import Event, NotReady, OnEvent, PodFeed, Refusals, WaitLimits, bring_up, wait_gone
from executor.manifests import Rendered, read_plan_config_map, render
from executor.manifests.gateway import gateway_name
from executor.manifests.names import CONTENT, DOMAIN, PLAN, SINCE, STATE, slug
from scepsy.errors import BackendError, ScepsyError


@dataclass(frozen=True)
class Applied:
    """What one apply did."""

    plan_hash: str
    kept: int
    started: int
    stopped: int
    requests: int
    """Objects that were written."""


class RolledBack(BackendError):
    """The plan did not come to serve, and the one before it was applied again: the message says whether that worked."""


def apply(api: Api, rendered: Rendered, *, limits: WaitLimits | None = None, on_event: OnEvent = lambda event: None) -> Applied:
    """Make the cluster run ``rendered``, and return when every instance serves.

    What both the running and the new plan contain is not touched. Engines whose GPUs are needed are drained and go
    first, the others when the new plan serves. When anything fails on the way, the plan that ran before is restored.
    Only one run at a time writes a release (``lease``). Raises ``BackendError`` (one line) for all that fails,
    ``RolledBack`` where something had been changed already; run it again to go on from there.
    """
    limits = limits or WaitLimits()
    preflight(api, rendered)
    release = rendered.options.release
    with writing(api, release, limits.lease_s, lambda holder: on_event(Event("waiting for another writer", holder))):
        now = take(api, release)
        _rehearse(api, rendered, now)
        before = _to_restore(now, rendered)
        try:
            return _converge(api, rendered, limits, on_event)
        except (LeaseLost, Unreachable):
            raise  # nothing can be undone from here: another run goes on from what is there
        except BackendError as failure:
            if before is None:
                raise
            on_event(Event("rolling back", str(before["metadata"]["name"])))
            raise RolledBack(f"{failure}; {_roll_back(api, before, limits, on_event)}") from failure


def _to_restore(now: Snapshot, rendered: Rendered) -> Object | None:
    """The plan to go back to. Where this very plan was under way when another run was cut off, it is the one before that."""
    plans = [obj for obj in (now.record, now.active_plan) if obj is not None]
    return next((obj for obj in plans if obj["metadata"]["name"] != rendered.plan["metadata"]["name"]), None)


def _rehearse(api: Api, rendered: Rendered, now: Snapshot) -> None:
    """Everything that admission, policies and quotas would refuse half-way, asked before the first write."""
    steps = transition(now, rendered)
    first = {(DEPLOYMENT.name, name) for name in steps.evict} | set(steps.release)
    arriving = [obj for obj in rendered.objects if now.has(obj) is None or (obj["kind"], obj["metadata"]["name"]) in first]
    check_quotas(api, arriving, [now.objects[key] for key in first if key in now.objects])
    rehearse(api, _to_rehearse(now, rendered))
    rehearse_pods(api, [*_one_of_each_llm(now, rendered), *(obj for obj in rendered.gateway if obj["kind"] == DEPLOYMENT.name)])


def _roll_back(api: Api, before: Object, limits: WaitLimits, on_event: OnEvent) -> str:
    name = before["metadata"]["name"]
    try:
        _converge(api, render(*read_plan_config_map(before["data"])), limits, on_event)
    except ScepsyError as error:
        return f"rolling back to {name} failed too: {error}"
    return f"rolled back to {name}"


def _converge(api: Api, rendered: Rendered, limits: WaitLimits, on_event: OnEvent) -> Applied:
    release = rendered.options.release
    now = take(api, release)
    steps = transition(now, rendered)
    _tell_outage(now, rendered, steps, on_event)
    writer = _Writer(api, rendered, now)
    writer.begin()
    for obj in rendered.base:
        writer.put(obj)
    if steps.evict or steps.release:
        drain(api, steps.evict, rendered.options, limits, on_event)
        _remove(api, release, [(DEPLOYMENT.name, name) for name in steps.evict], limits, on_event)
        _remove(api, release, steps.release, limits, on_event)
    for obj in rendered.holders:
        writer.put(obj)
    if rendered.options.target == "mps":
        _wait_daemons(api, rendered, limits)
    if now.has(rendered.gateway_config) is None:  # a first apply: the gateway loads while the engines do
        writer.put_gateway()
    kept = [engine for engine in rendered.engines if engine.name in steps.keep]
    for engine in kept:
        writer.put(engine.deployment)
        on_event(Event("kept", engine.instance))
    bring_up(api, release, steps.start, kept, lambda engine: writer.put(engine.deployment), limits, on_event)
    if not steps.retire:
        writer.put_gateway()
    _wait_gateway(api, rendered, limits)
    _retire(api, rendered, steps, limits, on_event)
    writer.put_gateway()
    writer.finish(now)
    return Applied(rendered.plan_hash, len(steps.keep), len(steps.start), len(steps.evict) + len(steps.retire), writer.written)


def _tell_outage(now: Snapshot, rendered: Rendered, steps: Transition, on_event: OnEvent) -> None:
    """Say which LLMs nobody serves from the first deletion until new engines have loaded."""
    served = {name: llm_of(obj) for obj in now.engines if (name := str(obj["metadata"]["name"])) not in steps.evict}
    staying = {llm for name, llm in served.items() if name in steps.keep or name in steps.retire}
    gone = sorted({llm_of(obj) for obj in now.engines if obj["metadata"]["name"] in steps.evict} - staying)
    for llm in gone:
        [full] = {e.llm for e in rendered.engines if slug(e.llm) == llm} or {llm}
        on_event(Event("no instance until the new ones have loaded", full))


def _retire(api: Api, rendered: Rendered, steps: Transition, limits: WaitLimits, on_event: OnEvent) -> None:
    """Take down what only the old plan wanted: engines drained first, then what held their GPUs, then the rest."""
    release = rendered.options.release
    if steps.retire:
        drain(api, steps.retire, rendered.options, limits, on_event, onto=rendered.gateway_config)
        _remove(api, release, [(DEPLOYMENT.name, name) for name in steps.retire], limits, on_event)
    _remove(api, release, steps.discard, limits, on_event)


def _remove(api: Api, release: str, keys: Iterable[tuple[str, str]], limits: WaitLimits, on_event: OnEvent) -> None:
    by_kind: dict[str, list[str]] = {}
    for kind_name, name in keys:
        by_kind.setdefault(kind_name, []).append(name)
    # Deployments before claims: a claim stays until the last pod that uses it is gone.
    for kind_name, kind in BY_NAME.items():
        names = by_kind.get(kind_name, [])
        for name in names:
            api.delete(kind, name, foreground=kind == DEPLOYMENT)
        wait_gone(api, release, kind, names, limits, on_event)


class _Writer:
    """Applies manifests as parts of one plan: owned by its ConfigMap, and only where they differ from what is stored."""

    def __init__(self, api: Api, rendered: Rendered, now: Snapshot) -> None:
        self.written = 0
        self._api = api
        self._rendered = rendered
        self._stored: dict[tuple[str, str], Object] = dict(now.objects)
        self._owner: Object = {}

    def begin(self) -> None:
        """Record the plan first: from now on it is known what was under way, and everything else has its owner."""
        stored = self._stored.get((CONFIG_MAP.name, self._rendered.plan["metadata"]["name"]))
        state = "active" if stored is not None and annotation(stored, STATE) == "active" else "applying"
        self._put_plan(state)

    def put(self, manifest: Object) -> None:
        """Apply one manifest unless the stored object is already exactly this, for this plan."""
        key = (manifest["kind"], manifest["metadata"]["name"])
        stored = self._stored.get(key)
        if stored is not None and not going(stored) and self._same(manifest, stored):
            return
        self._stored[key] = self._api.apply(
            {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [self._owner]}}
        )
        self.written += 1

    def put_gateway(self) -> None:
        """The gateway with its configuration naming every instance of the plan."""
        # Draining may have changed the stored configuration behind our back.
        name = self._rendered.gateway_config["metadata"]["name"]
        stored = self._api.get(CONFIG_MAP, name)
        self._stored = {key: obj for key, obj in self._stored.items() if key != (CONFIG_MAP.name, name)}
        if stored is not None:
            self._stored[CONFIG_MAP.name, name] = stored
        self.put(self._rendered.gateway_config)
        for obj in self._rendered.gateway:
            self.put(obj)

    def finish(self, now: Snapshot) -> None:
        """The plan serves: mark it, then drop the records of the plans that it replaced, which own nothing any more."""
        self._put_plan("active")
        for obj in now.plans:
            if obj["metadata"]["name"] != self._rendered.plan["metadata"]["name"]:
                self._api.delete(CONFIG_MAP, obj["metadata"]["name"])

    def _put_plan(self, state: str) -> None:
        metadata = self._rendered.plan["metadata"]
        stored = self._stored.get((CONFIG_MAP.name, metadata["name"]))
        if stored is None or annotation(stored, STATE) != state or not self._same(self._rendered.plan, stored, owned=False):
            annotations = {**metadata["annotations"], STATE: state, **_since(state, stored)}
            stored = self._api.apply({**self._rendered.plan, "metadata": {**metadata, "annotations": annotations}})
            self._stored[CONFIG_MAP.name, metadata["name"]] = stored
            self.written += 1
        self._owner = {
            "apiVersion": "v1",
            "kind": CONFIG_MAP.name,
            "name": metadata["name"],
            "uid": stored["metadata"]["uid"],
        }

    def _same(self, manifest: Object, stored: Object, *, owned: bool = True) -> bool:
        owners = [owner["uid"] for owner in stored["metadata"].get("ownerReferences", [])]
        return (
            annotation(stored, CONTENT) == manifest["metadata"]["annotations"][CONTENT]
            and stored["metadata"].get("labels", {}).get(PLAN) == manifest["metadata"]["labels"][PLAN]
            and (not owned or owners == [self._owner["uid"]])
            and not differences(manifest, stored)
        )


def _since(state: str, stored: Object | None) -> dict[str, str]:
    """When an active plan came to serve: now, unless it did already."""
    if state != "active":
        return {}
    known = annotation(stored, SINCE) if stored is not None and annotation(stored, STATE) == "active" else ""
    return {SINCE: known or datetime.now(tz=UTC).isoformat(timespec="milliseconds")}


def _one_of_each_llm(now: Snapshot, rendered: Rendered) -> list[Object]:
    engines = {engine.llm: engine for engine in reversed(rendered.engines) if (DEPLOYMENT.name, engine.name) not in now.objects}
    return [engine.deployment for engine in engines.values()]


def _to_rehearse(now: Snapshot, rendered: Rendered) -> list[Object]:
    """One account, every new holder, and one engine of each LLM: what admission may refuse, without sending all twice."""
    return [
        *(obj for obj in rendered.base if obj["kind"] == SERVICE_ACCOUNT.name),
        *(obj for obj in rendered.holders if now.has(obj) is None),
        *_one_of_each_llm(now, rendered),
    ]


def _wait_daemons(api: Api, rendered: Rendered, limits: WaitLimits) -> None:
    names = [obj["metadata"]["name"] for obj in rendered.holders]
    _wait_pods(api, rendered, names, DOMAIN, "MPS daemon", limits)


def _wait_gateway(api: Api, rendered: Rendered, limits: WaitLimits) -> None:
    _wait_pods(api, rendered, ["gateway"], "app.kubernetes.io/component", "gateway", limits)


def _wait_pods(api: Api, rendered: Rendered, names: list[str], label: str, what: str, limits: WaitLimits) -> None:
    release = rendered.options.release
    feed = PodFeed(api, release, key=lambda pod: str(pod["metadata"].get("labels", {}).get(label, "")))
    started, refusals = api.clock(), Refusals(api, release)
    for _ in feed.changes(limits.tick_s):
        missing = [name for name in names if name not in feed.states or not feed.states[name].passes(limits.gate)]
        if not missing:
            return
        state = feed.states.get(missing[0])
        name = missing[0] if label == DOMAIN else gateway_name(rendered.options)
        refused = "" if state else refusals.of(name, limits.refused_s)
        if api.clock() - started > limits.start_s or (state is not None and state.hopeless) or refused:
            reason = refused or (state.problem if state else "") or "no pod is ready"
            raise NotReady(f"{what} {missing[0]} does not serve after {api.clock() - started:.0f} s: {reason}")
