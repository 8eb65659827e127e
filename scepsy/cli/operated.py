"""What ``operate`` is pointed at: a deployment on this host, or a release on Kubernetes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from scepsy.cli.deploy_inputs import connect, read_limits, read_options, require_client
from scepsy.errors import InputError

if TYPE_CHECKING:
    from executor.cluster.api import Api
    from executor.operate.target import Target
    from scepsy.profile.model import ProfileSet


class Operated(Protocol):
    """A deployment, before anything of it was looked at."""

    @property
    def folder(self) -> Path:
        """Where its state is kept."""

    def target(self, profiles: "ProfileSet") -> "Target":
        """The deployment itself."""

    def recording(self) -> Path:
        """Where its gateway records. Raises ``InputError`` when that cannot be told."""


@dataclass(frozen=True)
class OnThisHost:
    """A deployment of ``apply --target local``."""

    folder: Path

    def target(self, profiles: "ProfileSet") -> "Target":
        """Its own profiles lie in its folder."""
        from executor.operate.target import LocalTarget

        return LocalTarget(self.folder)

    def recording(self) -> Path:
        """As its options say."""
        from executor.operate.target import LocalTarget

        return LocalTarget(self.folder).recording()


@dataclass(frozen=True)
class OnKubernetes:
    """A release on a cluster."""

    api: "Api"
    release: str
    timeout_s: float | None

    @property
    def folder(self) -> Path:
        """On this host, by server, namespace and release."""
        from executor.operate.cluster_target import release_folder

        return release_folder(self.api, self.release)

    def target(self, profiles: "ProfileSet") -> "Target":
        """The profiles must know every degree that a new plan may have."""
        from executor.operate.cluster_target import ClusterTarget

        limits = None if self.timeout_s is None else read_limits(self.timeout_s, "ready")
        return ClusterTarget(self.api, self.release, profiles, limits)

    def recording(self) -> Path:
        """Not known: the claim may be mounted anywhere."""
        raise InputError(
            "--kubernetes: give --recording FILE: calls.jsonl of the claim that the gateway records into (recording_claim of "
            "the deploy file), as it is mounted here"
        )


def operated(
    *, kubernetes: bool, namespace: str | None, context: str, release: str | None, timeout_s: float | None
) -> Operated:
    """From the options. Raises ``InputError`` where they do not go together."""
    if kubernetes:
        require_client()
        options = read_options(None, None, namespace, release)
        return OnKubernetes(connect(options, context), options.release, timeout_s)
    given = {"--namespace": namespace is not None, "--context": bool(context), "--timeout": timeout_s is not None}
    for name, is_given in given.items():
        if is_given:
            raise InputError(f"{name}: goes with --kubernetes only")
    from executor.local.deployment import default_folder

    return OnThisHost(default_folder(release if release is not None else "default"))
