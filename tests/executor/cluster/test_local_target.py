"""``--target local`` reaches the local executor with the plan, its profiles and its options."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from executor.local import deployment
from scepsy.cli import app
from scepsy.files.plan import save_plan
from scepsy.files.profiles import save_profiles
from tests.builders import plans


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the local executor was asked for; it answers that one healthy instance runs."""
    found: list[tuple[Any, ...]] = []
    row = {"instance": "embedder-0", "phase": "healthy", "url": "http://127.0.0.1:1", "restarts": 0, "problem": ""}
    state = {"phase": "healthy", "gateway": "http://127.0.0.1:2", "instances": [row], "notes": [], "problem": ""}
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(deployment, "apply", lambda *args: found.append(("apply", *args)))
    monkeypatch.setattr(deployment, "status", lambda folder: state)
    monkeypatch.setattr(deployment, "delete", lambda folder, force: found.append(("delete", folder)) or True)
    save_profiles(tmp_path / "p.yaml", plans.profiles())
    save_plan(tmp_path / "x.plan.yaml", msgspec.structs.replace(plans.one_node(), profiles="p.yaml"))
    (tmp_path / "local.yaml").write_text("format: scepsy.local\nversion: 1\ndevice: cpu\n")
    return found


def test_the_local_target(tmp_path: Path, asked: list[tuple[Any, ...]]) -> None:
    run = CliRunner().invoke
    target = ["--target", "local", "--release", "mine", "--json"]
    plan = [str(tmp_path / "x.plan.yaml"), "--no-validate", "--timeout", "7", "--options", str(tmp_path / "local.yaml")]
    applied = run(app, ["apply", *plan, *target])
    assert applied.exit_code == 0, applied.stderr
    assert json.loads(applied.stdout)["gateway"] == "http://127.0.0.1:2"
    [(_, given, profiles, options, folder, _)] = asked
    assert [i.name for i in given.instances] == [i.name for i in plans.one_node().instances]
    assert profiles == plans.profiles()
    assert (options.device, options.start_timeout_s) == ("cpu", 7.0)
    assert folder == tmp_path / "scepsy" / "local" / "mine"
    assert run(app, ["status", *target]).exit_code == 0
    assert json.loads(run(app, ["delete", *target]).stdout) == {"release": "mine", "stopped": True}
    refused = run(app, ["render", plan[0], "--target", "local"])
    assert (refused.exit_code, "no manifests for one host" in refused.stderr) == (2, True)
