"""A release on Kubernetes as what is operated. A switch is ``executor.cluster.apply``: it drains first and rolls back."""

from datetime import datetime

from executor.cluster.api import Api
from executor.cluster.apply import RolledBack, apply
from executor.cluster.problems import Unreachable
from executor.cluster.snapshot import take
from executor.cluster.waits import WaitLimits
from executor.manifests import RenderOptions, read_plan_config_map, render
from executor.operate.target import Unfinished
from scepsy.cluster import Gpu
from scepsy.errors import BackendError, InputError
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.progress import Notify, no_notice


class ClusterTarget:
    """One release. The plan's ConfigMap tells what it serves, so any process can go on with an act that was cut off."""

    def __init__(self, api: Api, release: str, profiles: ProfileSet, limits: WaitLimits | None = None) -> None:
        self._api, self._release, self._limits = api, release, limits
        # The record holds the profiles of what runs only, and another plan may run other degrees.
        self._profiles = profiles

    def _recorded(self) -> tuple[Plan, ProfileSet, RenderOptions]:
        record = take(self._api, self._release).active_plan
        if record is None:
            raise InputError(f"release {self._release}: no plan serves: apply one first")
        return read_plan_config_map(record["data"])

    def running(self) -> Plan:
        """The plan that was last brought to readiness."""
        return self._recorded()[0]

    def since_s(self) -> float:
        """When its record was made."""
        record = take(self._api, self._release).active_plan
        stamp = record["metadata"].get("creationTimestamp", "") if record is not None else ""
        try:
            return datetime.fromisoformat(str(stamp)).timestamp()
        except ValueError:
            return float("inf")

    def lost(self) -> tuple[Gpu, ...]:
        """Nothing: a node that is away is waited for, since its pods may come back with it. Not planned around yet."""
        return ()

    def switch(self, plan: Plan, token: str, notify: Notify = no_notice) -> None:
        """Apply the plan with the options of the one that serves. Applying twice changes nothing."""
        try:
            _, _, options = self._recorded()
            apply(
                self._api,
                render(plan, self._profiles, options),
                limits=self._limits,
                on_event=lambda event: notify(f"{event.name}: {event.what}"),
            )
        except RolledBack:
            raise
        except Unreachable as error:
            raise Unfinished(str(error)) from error
        except BackendError as error:  # refused before the first write, or another writer has taken over: nothing is undone
            raise InputError(str(error)) from error
