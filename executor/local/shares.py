"""Shares of CPU cores: affinity says which cores, a cgroup how much of them."""

import os
from pathlib import Path
from typing import Literal

from scepsy.errors import BackendError

PERIOD_US = 10_000
"""The shortest period that schedulers keep well: a share is then even over a few engine steps."""

Flavour = Literal["v2", "v1"]


class CoreShares:
    """One cgroup per deployment, one child per instance, in cgroup v2 or (older hosts) in v1's cpu controller.

    ``root`` is the mount point to look at (tests use a folder). ``available`` says whether this process may make groups.
    """

    def __init__(self, name: str, root: Path = Path("/sys/fs/cgroup")) -> None:
        self._name = f"scepsy-{name}"
        self.flavour: Flavour | None = None
        self._parent: Path | None = None
        for flavour, folder in (("v2", root), ("v2", root / "unified"), ("v1", root / "cpu")):
            if _has_cpu(folder, flavour) and os.access(folder, os.W_OK):
                self.flavour, self._parent = ("v2" if flavour == "v2" else "v1"), folder / self._name
                break

    @property
    def available(self) -> bool:
        """Whether shares below 100 % can be enforced."""
        return self._parent is not None

    def make(self, instance: str, share_pct: int, cores: int) -> Path:
        """Make (or change) the group of one instance: ``share_pct`` of each of ``cores`` cores. Raises ``BackendError``."""
        if self._parent is None:
            raise BackendError(f"instance {instance}: no cgroup can be made here: must be allowed for shares below 100 %")
        quota_us = PERIOD_US * share_pct * cores // 100
        group = self._parent / instance
        try:
            self._parent.mkdir(exist_ok=True)
            if self.flavour == "v2":
                (self._parent / "cgroup.subtree_control").write_text("+cpu")
            group.mkdir(exist_ok=True)
            if self.flavour == "v2":
                (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
            else:
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        except OSError as error:
            raise BackendError(
                f"instance {instance}: cgroup {group}: {error.strerror} (run as root, or delegate it)"
            ) from error
        return group

    def remove(self) -> None:
        """Remove the deployment's groups; those that still hold processes stay."""
        if self._parent is None or not self._parent.is_dir():
            return
        for group in [*(child for child in self._parent.iterdir() if child.is_dir()), self._parent]:
            try:
                group.rmdir()
            except OSError:
                continue


def _has_cpu(folder: Path, flavour: str) -> bool:
    if flavour == "v1":
        return (folder / "cpu.cfs_quota_us").exists()
    try:
        return "cpu" in (folder / "cgroup.controllers").read_text().split()
    except OSError:
        return False


def enter(group: Path | None, cores: tuple[int, ...]) -> None:
    """Move this process into its group and onto its cores; runs in the child before it becomes the engine."""
    if group is not None:
        (group / "cgroup.procs").write_text(str(os.getpid()))
    if cores:
        os.sched_setaffinity(0, cores)
