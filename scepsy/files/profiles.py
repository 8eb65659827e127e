"""Profiles files: ``format: scepsy.profiles`` as YAML, a whole ``ProfileSet`` each."""

from pathlib import Path

from scepsy.files.document import read_yaml, write_yaml
from scepsy.profile.model import ProfileSet

FORMAT, VERSION = "scepsy.profiles", 1


def load_profiles(path: str | Path) -> ProfileSet:
    """Read a profile set. Raises ``InputError`` naming file, line, field and remedy."""
    return read_yaml(path, ProfileSet, FORMAT, VERSION)


def save_profiles(path: str | Path, profiles: ProfileSet) -> None:
    """Write a profile set, atomically."""
    write_yaml(path, profiles, FORMAT, VERSION)
