"""A release on Kubernetes as what is operated. A switch is ``executor.cluster.apply``: it drains first and rolls back."""

import os
import re
from datetime import datetime
from pathlib import Path

from executor.cluster.api import Api, Object
from executor.cluster.apply import RolledBack, apply
from executor.cluster.kinds import CONFIG_MAP
from executor.cluster.problems import Unreachable
from executor.cluster.snapshot import annotation, take
from executor.cluster.waits import WaitLimits
from executor.manifests import RenderOptions, read_plan_config_map, render
from executor.manifests.names import SINCE
from executor.operate.target import Unfinished
from scepsy.cluster import Gpu
from scepsy.errors import BackendError, InputError
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.progress import Notify, no_notice

LEAST_START_S, SPARE_S = 900.0, 60.0
"""An instance may take so long to start, or by its model's size and a little more (as for ``scepsy apply``)."""


def release_folder(api: Api, release: str) -> Path:
    """Where what operates a release keeps its state: ``$XDG_STATE_HOME/scepsy/kubernetes/<server>/<namespace>/<release>``."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    server = re.sub(r"[^A-Za-z0-9.]+", "-", api.host.partition("://")[2] or api.host).strip("-")[:200]
    return base / "scepsy" / "kubernetes" / server / api.namespace / release


class ClusterTarget:
    """One release. The plan's ConfigMap tells what it serves, so any process can go on with an act that was cut off."""

    def __init__(self, api: Api, release: str, profiles: ProfileSet, limits: WaitLimits | None = None) -> None:
        self._api, self._release, self._limits = api, release, limits
        # The record holds the profiles of what runs only, and another plan may run other degrees.
        self._profiles = profiles

    def _active(self) -> Object:
        record = take(self._api, self._release, [CONFIG_MAP]).active_plan
        if record is None:
            where = f"namespace {self._api.namespace} of {self._api.host}"
            raise InputError(f"release {self._release}: no plan serves in {where}: apply one first")
        return record

    def _recorded(self) -> tuple[Plan, ProfileSet, RenderOptions]:
        return read_plan_config_map(self._active()["data"])

    def running(self) -> Plan:
        """The plan that was last brought to readiness."""
        return self._recorded()[0]

    def options(self) -> RenderOptions:
        """What that plan was applied with."""
        return self._recorded()[2]

    def since_s(self) -> float:
        """When it came to serve; of a plan that an older version applied, when its record was made."""
        record = self._active()
        stamp = annotation(record, SINCE) or str(record["metadata"].get("creationTimestamp", ""))
        try:
            return datetime.fromisoformat(stamp).timestamp()
        except ValueError:
            return float("inf")

    def lost(self) -> tuple[Gpu, ...]:
        """Nothing: a node that is away is waited for, since its pods may come back with it. Not planned around yet."""
        return ()

    def half_done(self) -> bool:
        """Whether the record of another plan is still there: what only that plan wanted goes with it."""
        return len(take(self._api, self._release, [CONFIG_MAP]).plans) > 1

    def switch(self, plan: Plan, token: str, notify: Notify = no_notice) -> None:
        """Apply the plan with the options of the one that serves. Applying twice changes nothing."""
        try:
            made = render(plan, self._profiles, self.options())
            apply(
                self._api,
                made,
                limits=self._limits or WaitLimits(start_s=max(LEAST_START_S, made.start_timeout_s + SPARE_S)),
                on_event=lambda event: notify(f"{event.name}: {event.what}"),
            )
        except RolledBack:
            raise
        except Unreachable as error:
            raise Unfinished(str(error)) from error
        except BackendError as error:  # refused before the first write, or another writer has taken over: nothing is undone
            raise InputError(str(error)) from error
