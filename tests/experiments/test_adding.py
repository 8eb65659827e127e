"""The guide's example works as written: a new system and a new experiment, run end to end."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from experiments.runner import QUICK, run_experiment
from experiments.systems import registry as systems
from scepsy.generate import WORKFLOWS

GUIDE = Path(__file__).parents[2] / "docs" / "adding.md"


def examples() -> dict[str, Any]:
    space: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(GUIDE), "exec"), space)
    return space


def test_the_guides_experiment_runs_with_the_guides_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    space = examples()
    registry: Mapping[str, systems.System] = {**systems.SYSTEMS, "wide": space["WIDE"]}
    monkeypatch.setattr(systems, "SYSTEMS", registry)
    study = space["STUDY"]
    task = study.tasks(QUICK)[0]
    rows = run_experiment(study, QUICK, folder=tmp_path, jobs=1)
    assert list(rows["system"]) == ["scepsy"]
    assert rows["latency_mean_s"].iloc[0] > 0
    # In this process, where the registry was changed: workers would import it from its file.
    wide = study.run({**task.params, "system": "wide", "option": {"degree": 2}})
    assert [row["option"] for row in wide] == ["degree=2"]
    assert "TP 2" in wide[0]["decided"]


def test_the_guide_names_a_workflow_that_exists() -> None:
    assert "reflection" in WORKFLOWS
