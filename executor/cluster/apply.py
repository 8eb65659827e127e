"""Bring a cluster to a plan, from whatever state it is in: first time, half done, another plan, or nothing to do.

Every step looks at what is there and does what is missing, so a run that was cut off anywhere is finished by the next.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from executor.cluster.api import Api, Object
from executor.cluster.drain import drain
from executor.cluster.drift import differences
from executor.cluster.kinds import BY_NAME, CONFIG_MAP, DEPLOYMENT, SERVICE_ACCOUNT
from executor.cluster.preflight import preflight, rehearse
from executor.cluster.snapshot import Snapshot, annotation, going, take
from executor.cluster.transition import Transition, transition
from executor.cluster.waits import Event, Limits, NotReady, PodFeed, Tell, bring_up, wait_gone
from executor.manifests import Rendered, read_plan_config_map, render
from executor.manifests.names import CONTENT, DOMAIN, PLAN, STATE
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


def apply(api: Api, rendered: Rendered, *, limits: Limits | None = None, tell: Tell = lambda event: None) -> Applied:
    """Make the cluster run ``rendered``, and return when every instance serves.

    What both the running and the new plan contain is not touched. Engines whose GPUs are needed are drained and go
    first, the others when the new plan serves. When it does not come to serve, the plan that ran before is
    restored. Raises ``BackendError`` (one line) for all that fails; run it again to go on from there.
    """
    limits = limits or Limits()
    preflight(api, rendered)
    now = take(api, rendered.options.release)
    rehearse(api, _to_rehearse(now, rendered))
    before = now.active_plan
    try:
        return _converge(api, rendered, limits, tell)
    except NotReady as failure:
        if before is None or before["metadata"]["name"] == rendered.plan["metadata"]["name"]:
            raise
        tell(Event("rolling back", str(before["metadata"]["name"])))
        raise BackendError(f"{failure}; {_roll_back(api, before, limits, tell)}") from failure


def _roll_back(api: Api, before: Object, limits: Limits, tell: Tell) -> str:
    name = before["metadata"]["name"]
    try:
        _converge(api, render(*read_plan_config_map(before["data"])), limits, tell)
    except ScepsyError as error:
        return f"rolling back to {name} failed too: {error}"
    return f"rolled back to {name}"


def _converge(api: Api, rendered: Rendered, limits: Limits, tell: Tell) -> Applied:
    release = rendered.options.release
    now = take(api, release)
    steps = transition(now, rendered)
    writer = _Writer(api, rendered, now)
    writer.begin()
    for obj in rendered.base:
        writer.put(obj)
    if steps.evict or steps.release:
        drain(api, steps.evict, rendered.options, limits, tell)
        _remove(api, release, [(DEPLOYMENT.name, name) for name in steps.evict], limits, tell)
        _remove(api, release, steps.release, limits, tell)
    for obj in rendered.holders:
        writer.put(obj)
    if rendered.options.target == "mps":
        _wait_daemons(api, rendered, limits)
    if now.has(rendered.gateway_config) is None:  # a first apply: the gateway loads while the engines do
        writer.put_gateway()
    kept = [engine for engine in rendered.engines if engine.name in steps.keep]
    for engine in kept:
        writer.put(engine.deployment)
        tell(Event("kept", engine.instance))
    bring_up(api, release, steps.start, kept, lambda engine: writer.put(engine.deployment), limits, tell)
    if not steps.retire:
        writer.put_gateway()
    _wait_gateway(api, rendered, limits)
    _retire(api, rendered, steps, limits, tell)
    writer.put_gateway()
    writer.finish(now)
    return Applied(rendered.plan_hash, len(steps.keep), len(steps.start), len(steps.evict) + len(steps.retire), writer.written)


def _retire(api: Api, rendered: Rendered, steps: Transition, limits: Limits, tell: Tell) -> None:
    """Take down what only the old plan wanted: engines drained first, then what held their GPUs, then the rest."""
    release = rendered.options.release
    if steps.retire:
        drain(api, steps.retire, rendered.options, limits, tell, onto=rendered.gateway_config)
        _remove(api, release, [(DEPLOYMENT.name, name) for name in steps.retire], limits, tell)
    _remove(api, release, steps.discard, limits, tell)


def _remove(api: Api, release: str, keys: Iterable[tuple[str, str]], limits: Limits, tell: Tell) -> None:
    by_kind: dict[str, list[str]] = {}
    for kind_name, name in keys:
        by_kind.setdefault(kind_name, []).append(name)
    # Deployments before claims: a claim stays until the last pod that uses it is gone.
    for kind_name, kind in BY_NAME.items():
        names = by_kind.get(kind_name, [])
        for name in names:
            api.delete(kind, name, foreground=kind == DEPLOYMENT)
        wait_gone(api, release, kind, names, limits, tell)


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
            annotations = {**metadata["annotations"], STATE: state}
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


def _to_rehearse(now: Snapshot, rendered: Rendered) -> list[Object]:
    """One account, every new holder, and one engine of each LLM: what admission may refuse, without sending all twice."""
    engines = {engine.llm: engine for engine in reversed(rendered.engines) if (DEPLOYMENT.name, engine.name) not in now.objects}
    return [
        *(obj for obj in rendered.base if obj["kind"] == SERVICE_ACCOUNT.name),
        *(obj for obj in rendered.holders if now.has(obj) is None),
        *(engine.deployment for engine in engines.values()),
    ]


def _wait_daemons(api: Api, rendered: Rendered, limits: Limits) -> None:
    names = [obj["metadata"]["name"] for obj in rendered.holders]
    _wait_pods(api, rendered, names, DOMAIN, "MPS daemon", limits)


def _wait_gateway(api: Api, rendered: Rendered, limits: Limits) -> None:
    _wait_pods(api, rendered, ["gateway"], "app.kubernetes.io/component", "gateway", limits)


def _wait_pods(api: Api, rendered: Rendered, names: list[str], label: str, what: str, limits: Limits) -> None:
    feed = PodFeed(api, rendered.options.release, key=lambda pod: str(pod["metadata"].get("labels", {}).get(label, "")))
    started = api.clock()
    for _ in feed.changes(limits.tick_s):
        missing = [name for name in names if name not in feed.states or not feed.states[name].passes(limits.gate)]
        if not missing:
            return
        state = feed.states.get(missing[0])
        if api.clock() - started > limits.start_s or (state is not None and state.hopeless):
            reason = (state.problem if state else "") or "no pod is ready"
            raise NotReady(f"{what} {missing[0]} does not serve after {api.clock() - started:.0f} s: {reason}")
