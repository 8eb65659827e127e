"""Whole or not at all, whatever happens while writing."""

import errno
import os
from pathlib import Path

import pytest

from scepsy.errors import InputError
from scepsy.files.atomic import atomic_path, write_bytes


def test_the_target_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "x.runs.parquet"
    with atomic_path(target) as aside:
        aside.write_text("new")
        assert aside.parent == tmp_path
        assert aside.name.endswith(".runs.parquet")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_the_old_file_stays_when_the_block_fails(tmp_path, error):
    target = tmp_path / "x"
    target.write_text("old")

    def interrupted() -> None:
        with atomic_path(target) as aside:
            aside.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_one_line(tmp_path):
    def fill() -> None:
        with atomic_path(tmp_path / "x"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match="x: cannot be written: No space left on device"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_block_are_its_own(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x"):
        (tmp_path / "input").read_text()


@pytest.mark.parametrize("target", ["", "none/x"])
def test_impossible_targets(tmp_path, target):
    with pytest.raises(InputError, match=r"is a directory|cannot be written"):
        write_bytes(tmp_path / target, b"x")


def test_devices_are_never_replaced():
    with pytest.raises(InputError, match="is no regular file"):
        write_bytes("/dev/null", b"x")
    assert not Path("/dev/null").is_file()


def test_permissions_follow_the_umask(tmp_path):
    write_bytes(tmp_path / "x", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode
