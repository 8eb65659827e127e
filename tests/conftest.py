"""Fixtures that every package's tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A loaded machine must not fail a test by its clock; continuous integration looks at the same examples every time.
settings.register_profile("anywhere", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "anywhere")


@pytest.fixture(scope="session")
def scepsy_data() -> Path:
    """The folder of real traces; tests that ask for it are marked ``data`` and skip without it."""
    folder = os.environ.get("SCEPSY_DATA")
    if not folder:
        pytest.skip("SCEPSY_DATA is not set: the real traces are not here")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"SCEPSY_DATA is {folder!r}: no such folder")
    return path
