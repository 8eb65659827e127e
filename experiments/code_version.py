"""Which program made a row: a hash of the sources that rows depend on, and the repository's commit."""

import functools
import subprocess

import pandas as pd

from scepsy.files.sources import ROOT, sources_hash
from scepsy.version import __version__

ROWS = ("experiments.points.measured", "experiments.studies", "experiments.studies.evaluation", "experiments.systems.registry")
"""What computes rows. Everything that these import counts, however deep."""


@functools.cache
def code_hash() -> str:
    """Hash of the sources that rows depend on, data files included."""
    return sources_hash(*ROWS)


@functools.cache
def commit() -> str:
    """The repository's commit, ``-dirty`` when sources differ from it; empty outside a checkout."""
    sources = ("scepsy", "sim", "experiments")
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        state = subprocess.run(["git", "status", "--porcelain", *sources], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("-dirty" if state.stdout.strip() else "")


def stamped(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with the version and the commit that made them, which every committed table has."""
    return frame.assign(version=__version__, commit=commit())
