"""Which program made a row: a hash of its sources, and the repository's commit."""

import functools
import hashlib
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ("scepsy", "sim", "experiments")
UNRELATED = (
    "scepsy/cli",
    "scepsy/report",
    "scepsy/importers",
    "experiments/demo",
    "experiments/plan_page",
    "experiments/report",
)
"""Sources that no row depends on."""


@functools.cache
def code_hash() -> str:
    """Hash of the sources that rows depend on, data files included."""
    digest = hashlib.sha256()
    for package in SOURCES:
        for path in sorted((ROOT / package).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            if path.suffix in (".py", ".yaml") and not name.startswith(UNRELATED):
                digest.update(name.encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def commit() -> str:
    """The repository's commit, ``-dirty`` when sources differ from it; empty outside a checkout."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        state = subprocess.run(["git", "status", "--porcelain", *SOURCES], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("-dirty" if state.stdout.strip() else "")
