"""The picture of replays: written whole, and by what its panels count."""

import numpy as np
import pytest
from typer.testing import CliRunner

from scepsy.cli.profile import app
from scepsy.report.replays import _between
from tests.sim.recorded.test_validate import engine_run, folder


def test_how_many_intervals_hold_a_time():
    begins, ends = np.array([0.0, 1.0, 1.0]), np.array([2.0, 1.5, 9.0])
    assert _between(np.array([-1.0, 0.0, 1.2, 1.7, 3.0, 9.0]), begins, ends).tolist() == [0, 1, 3, 2, 1, 0]


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")])
def test_replays_are_drawn_in_the_format_asked_for(tmp_path, name, begins):
    paths = [str(folder(tmp_path / run, engine_run(count=40, seed=seed))) for run, seed in (("one", 1), ("two", 2))]
    done = CliRunner().invoke(app, ["validate", *paths, "--train", "0.5", "--picture", str(tmp_path / name)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["one", "two", name])


@pytest.mark.parametrize("arguments", [["--picture", "a.txt"], ["--silicon", "--picture", "a.png"]])
def test_what_cannot_be_drawn_is_refused(tmp_path, arguments):
    paths = [] if "--silicon" in arguments else [str(folder(tmp_path / "one", engine_run(count=20)))]
    done = CliRunner().invoke(app, ["validate", *paths, *arguments])
    assert done.exit_code == 2
