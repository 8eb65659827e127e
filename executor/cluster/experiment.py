"""A cluster as a ``Backend``: apply the plan, replay the workload from within as a Job, collect records, take all down."""

from collections.abc import Callable

import pyarrow as pa

from executor.cluster.api import Api
from executor.cluster.apply import apply
from executor.cluster.delete import delete
from executor.cluster.kinds import CONFIG_MAP, JOB, POD
from executor.cluster.snapshot import component
from executor.cluster.waits import Event, OnEvent, PodFeed, WaitLimits, wait_gone
from executor.manifests import Rendered, RenderOptions, render
from executor.manifests.replay import replay_objects
from executor.replay_job import unpack
from scepsy.backend import Backend, Workload
from scepsy.errors import BackendError
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.records import CALL_SCHEMA, Records

_REPLAY = "replay"


def backend(
    api: Api,
    profiles: ProfileSet,
    options: RenderOptions,
    *,
    limits: WaitLimits | None = None,
    deadline_s: int = 3600,
    keep: bool = False,
    on_event: OnEvent = lambda event: None,
) -> Backend:
    """A ``Backend`` that measures on the cluster of ``api``. ``keep`` leaves the plan running, for the next measurement."""

    def measure(plan: Plan, workload: Workload) -> Records:
        rendered = render(plan, profiles, options)
        try:
            apply(api, rendered, limits=limits, on_event=on_event)
            return replay_on(api, plan, rendered, workload, profiles, limits=limits, deadline_s=deadline_s, on_event=on_event)
        finally:
            if not keep:
                delete(api, options.release, limits=limits, on_event=on_event)

    return measure


def replay_on(
    api: Api,
    plan: Plan,
    rendered: Rendered,
    workload: Workload,
    profiles: ProfileSet,
    *,
    limits: WaitLimits | None = None,
    deadline_s: int = 3600,
    on_event: OnEvent = lambda event: None,
) -> Records:
    """Replay against a plan that serves. Raises ``BackendError`` with the client's own last line when it fails."""
    limits = limits or WaitLimits()
    config, job = replay_objects(plan, rendered, workload, profiles, deadline_s=deadline_s)
    name = job["metadata"]["name"]

    def clear() -> None:
        api.delete(JOB, name, foreground=True)
        api.delete(CONFIG_MAP, name)
        wait_gone(api, rendered.options.release, JOB, [name], limits, on_event)

    clear()  # what an earlier run that was cut off has left would be taken for this one's result
    try:
        api.apply(config)
        api.apply(job)
        on_event(Event("replaying", name))
        log = _wait_log(api, rendered.options.release, deadline_s, limits)
        records = unpack(log)
    finally:
        clear()
    names = {engine.name: engine.instance for engine in rendered.engines}
    return Records(runs=records.runs, calls=_rename(records.calls, lambda each: names.get(each, each)), meta=records.meta)


def _wait_log(api: Api, release: str, deadline_s: int, limits: WaitLimits) -> str:
    feed = PodFeed(api, release, key=component)
    started = api.clock()
    for _ in feed.changes(limits.tick_s):
        state = feed.states.get(_REPLAY)
        if state is not None and state.phase in ("Succeeded", "Failed"):
            log = api.text(POD.path(api.namespace, state.name, "log"))
            if log is None:
                api.sleep(limits.poll_s)
                log = api.text(POD.path(api.namespace, state.name, "log"))
            if state.phase == "Succeeded" and log is not None:
                return log
            last = (log or "").strip().splitlines()[-1:] or [state.problem or "its log cannot be read"]
            raise BackendError(f"replay: pod {state.name} {state.phase.lower()}: {last[0][:300]}")
        if state is not None and state.hopeless:
            raise BackendError(f"replay: pod {state.name} does not start: {state.problem}")
        if api.clock() - started > deadline_s + limits.start_s:
            raise BackendError(f"replay: not done after {deadline_s} s: {(state and state.problem) or 'still running'}")
    raise AssertionError("the feed never ends")


def _rename(calls: pa.Table, name: Callable[[str], str]) -> pa.Table:
    """The plan's instance names for the Deployments' names, which the gateway reports."""
    column = [None if each is None else name(each) for each in calls["instance"].to_pylist()]
    at = calls.schema.get_field_index("instance")
    return calls.set_column(at, CALL_SCHEMA.field("instance"), pa.array(column, type=pa.string()))
