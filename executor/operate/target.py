"""What is operated: a deployment that says what it runs and can be brought to another plan."""

from pathlib import Path
from typing import Protocol

from executor.local import deployment
from executor.local.options import LocalOptions
from executor.local.state import ask, is_child, load_state
from executor.local.supervisor import left_options
from scepsy.cluster import Gpu
from scepsy.errors import BackendError, InputError, ScepsyError
from scepsy.files.plan import load_plan
from scepsy.files.profiles import load_profiles
from scepsy.operate.naming import fingerprint
from scepsy.plans import Plan
from scepsy.progress import Notify, no_notice


class Unfinished(ScepsyError):
    """It cannot be told what becomes of a switch: ask for it again with its token."""


class Target(Protocol):
    """A deployment."""

    def running(self) -> Plan:
        """The plan that serves. Raises ``InputError`` when nothing was deployed."""

    def since_s(self) -> float:
        """When that plan was put into use (Unix seconds)."""

    def lost(self) -> tuple[Gpu, ...]:
        """GPUs whose engines were given up."""

    def half_done(self) -> bool:
        """Whether something of a switch is left to do although the new plan serves."""

    def switch(self, plan: Plan, token: str, notify: Notify) -> None:
        """Bring it to a plan; the same token again goes on with it. Raises ``BackendError`` when the old plan serves again,
        ``InputError`` when nothing was tried or somebody else took over, ``Unfinished`` when that cannot be told."""


class LocalTarget:
    """A deployment on this host (``executor.local``)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def recording(self) -> Path:
        """Where its gateway records. Raises ``InputError`` when it does not."""
        options = self._options()
        if not options.record:
            raise InputError(
                f"{self.folder / 'options.json'}: record is not set: the gateway must record (apply with `record:`)"
            )
        return Path(options.record)

    def _options(self) -> LocalOptions:
        return left_options(self.folder)

    def running(self) -> Plan:
        """The plan that the supervisor serves."""
        state = load_state(self.folder) if self.folder.is_dir() else None
        if state is None:
            raise InputError(f"{self.folder}: no deployment: apply a plan first")
        return load_plan(self.folder / "plan.yaml")

    def since_s(self) -> float:
        """When it began to serve; where the state does not tell, when the plan was written into the state folder."""
        state = load_state(self.folder)
        return (state.since_s if state is not None else 0.0) or (self.folder / "plan.yaml").stat().st_mtime

    def lost(self) -> tuple[Gpu, ...]:
        """GPUs (or cores) of engines that the supervisor gave up after their restarts."""
        state = load_state(self.folder)
        told = ask(state.deployment) if state is not None else None
        if told is None:
            return ()
        failed = {child.name for child in told.children if child.phase == "failed"}
        return tuple(
            dict.fromkeys(gpu for instance in self.running().instances if instance.name in failed for gpu in instance.gpus)
        )

    def half_done(self) -> bool:
        """No: the supervisor says that a plan serves when all is done."""
        return False

    def switch(self, plan: Plan, token: str, notify: Notify = no_notice) -> None:
        """In place where a supervisor runs; else by applying the plan, and the one before it when that fails."""
        state = load_state(self.folder)
        if state is not None and is_child(state.supervisor, state.deployment):
            try:
                deployment.switch(self.folder, plan, notify, token)
            except deployment.SupervisorGone as error:
                raise Unfinished(str(error)) from error
            return
        before = self.running()
        profiles, options = load_profiles(self.folder / "profiles.yaml"), self._options()
        try:
            deployment.apply(plan, profiles, options, self.folder, notify)
        except BackendError as error:
            if fingerprint(before) == fingerprint(plan):
                raise
            deployment.apply(before, profiles, options, self.folder, notify)
            raise BackendError(f"{error}; the plan before it serves") from error
