"""``import scepsy`` gives the public names, lazily and quickly, and everything says the same about them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scepsy

ROOT = Path(__file__).parents[2]


def test_every_public_name_loads_and_is_documented() -> None:
    for name in scepsy.__all__:
        value = getattr(scepsy, name)
        assert name == "__version__" or value.__doc__, name
    assert set(dir(scepsy)) == set(scepsy.__all__)


def test_type_checkers_are_told_the_same_names() -> None:
    tree = ast.parse((ROOT / "scepsy" / "__init__.pyi").read_text())
    lines = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    stub = {alias.asname or alias.name: line.module for line in lines for alias in line.names}
    assert stub == {**scepsy._HOMES, "__version__": "scepsy.version"}


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'plna': public names are .*plan"):
        scepsy.plna  # noqa: B018


HEAVY = ("numpy", "pandas", "simpy", "scipy", "llvmlite", "matplotlib", "typer", "msgspec")


def test_the_import_loads_nothing_heavy() -> None:
    code = f"import sys, scepsy; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
