"""The core's machine code: made once, kept, loaded again; made anew where the file is damaged or the folder is of no use."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from scepsy.errors import SimulationError
from sim.compiled import build
from sim.compiled.build import advance
from tests.sim.compiled.test_refusals import a_case

pytest.importorskip("llvmlite")


@pytest.fixture
def cold(tmp_path, monkeypatch):
    """As in a process that has loaded nothing, with an empty cache folder and a core soon compiled. Gives what was compiled."""
    advance()  # the real one, for all other tests of this process
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "advance", build.cache(build.advance.__wrapped__))
    monkeypatch.setattr(build, "_path", build.cache(build._path.__wrapped__))
    made = []

    def quickly(text, real=build.machine_code):
        made.append(text)
        return real("define i64 @advance(i64 %m, i64 %begin) { ret i64 %m }")

    monkeypatch.setattr(build, "machine_code", quickly)
    return made


def again():
    """As in the next process."""
    build.advance.cache_clear()
    build._path.cache_clear()


def test_made_once_and_loaded_from_then_on(cold):
    assert not build.is_kept()
    build.advance()
    assert len(cold) == 1
    build.advance()
    again()
    assert build.is_kept()
    assert build.advance()(41, 0) == 41
    assert len(cold) == 1
    (file,) = build._path().parent.iterdir()
    assert file == build._path()


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_file_is_made_again(cold, damage):
    build.advance()
    path = build._path()
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-100], "changed": whole[:-1] + bytes([whole[-1] ^ 1]), "empty": b""}[damage])
    again()
    assert not build.is_kept()
    build.advance()
    assert len(cold) == 2
    assert path.read_bytes() == whole


def test_another_compiler_or_processor_have_another_file(cold, monkeypatch):
    names = [build._path().name]
    build._path.cache_clear()
    monkeypatch.setattr(build, "_processor", lambda: ("x86_64-pc-linux-gnu", "generic", ""))
    names.append(build._path().name)
    build._path.cache_clear()
    monkeypatch.setattr("llvmlite.__version__", "0.0.1")
    names.append(build._path().name)
    assert len(set(names)) == 3


@pytest.mark.parametrize("trouble", ["a file is in its place", "it may only be read"])
def test_without_a_cache_folder_it_works(cold, tmp_path, monkeypatch, trouble):
    def only_read(dir):
        raise OSError(errno.EROFS, "Read-only file system")

    if trouble.startswith("a file"):
        (tmp_path / "cache").write_text("not a folder")
    else:
        monkeypatch.setattr("tempfile.mkstemp", only_read)
    assert build.advance()(41, 0) == 41
    again()
    assert not build.is_kept()
    assert build.advance()(42, 0) == 42
    assert len(cold) == 2


def test_what_cannot_be_compiled_is_said_in_one_line_or_left_to_simpy(cold, monkeypatch):
    def refuses(text):
        raise RuntimeError("Unable to find target for this triple\n(no targets are registered)")

    monkeypatch.setattr(build, "machine_code", refuses)
    monkeypatch.setattr("sim.compiled.machine.advance", build.advance)
    why = "the core cannot be compiled here: Unable to find target for this triple"
    with pytest.raises(SimulationError) as refused:
        a_case()(engine="compiled")
    assert str(refused.value) == f"{why} (use engine 'simpy')"
    monkeypatch.setattr("sim.world.choice.WORTH_COMPILING_CALLS", 0)
    auto = a_case()(engine="auto")
    assert (auto.meta["engine"], auto.meta["engine_why"]) == ("simpy", f"{why} (use engine 'simpy')")
    assert auto.calls.equals(a_case()(engine="simpy").calls)


def test_few_calls_are_left_to_simpy_until_together_they_are_worth_a_compilation(cold, monkeypatch):
    monkeypatch.setattr("sim.world.choice._waived", 0.0)
    monkeypatch.setattr("sim.world.choice.WORTH_COMPILING_CALLS", 30)
    monkeypatch.setattr("sim.compiled.machine.advance", advance)
    found = [a_case()(engine="auto").meta for _ in range(3)]  # 12 calls each
    assert [meta["engine"] for meta in found] == ["simpy", "simpy", "compiled"]
    assert found[0]["engine_why"] == "the core is not compiled yet, and for some 12 calls that takes longer"
    assert found[2]["engine_why"] == "it models this case"
    assert a_case()(engine="compiled").meta["engine_why"] == a_case()(engine="simpy").meta["engine_why"] == "asked for"


def test_what_is_kept_is_used_for_the_smallest_case(cold, monkeypatch):
    monkeypatch.setattr("sim.compiled.machine.advance", advance)
    assert a_case()(engine="auto").meta["engine"] == "simpy"
    build.advance()
    again()
    assert a_case()(engine="auto").meta["engine"] == "compiled"


def test_two_processes_that_begin_together_leave_one_good_file(tmp_path):
    script = "from tests.sim.compiled.test_refusals import a_case; print(a_case()(engine='compiled').calls.num_rows)"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate()[0].split() for process in both] == [[b"12"]] * 2
    assert [process.returncode for process in both] == [0, 0]
    assert len(list((tmp_path / "scepsy" / "core").iterdir())) == 1
