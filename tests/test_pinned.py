"""Pinned packages install on every Python that README promises, patch releases included."""

import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def test_no_pin_asks_for_a_later_python_than_we_do() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = SpecifierSet(project["requires-python"])
    oldest = "3.11.0"  # what Debian 12 has is 3.11.2, and some packages ask for 3.11.5
    assert oldest in asked
    assert "3.10.99" not in asked
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split() if "==" in line)
    here = {canonicalize_name(each.metadata["Name"]): each for each in distributions()}
    seen = [each for name, version in pins.items() if (each := here.get(canonicalize_name(name))) and each.version == version]
    assert len(seen) > len(pins) / 2, "too few of the pinned versions are installed here to say anything"
    late = [
        f"{each.metadata['Name']} {each.version}"
        for each in seen
        if not SpecifierSet(each.metadata.get("Requires-Python") or "").contains(oldest)
    ]
    assert late == []
