"""Every command in every hostile circumstance: real processes, no traceback, nothing half-written, nobody left behind.

``python -m pytest tests/cli/test_hostile.py`` runs three commands, ``-m slow`` all of them; both print the number of cases.
"""

import contextlib
import os
import pty
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer.main
from typer.testing import CliRunner

from scepsy.cli import app
from scepsy.files.trace import save_trace
from scepsy.generate import generate

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "importers" / "fixtures"

COMMANDS: dict[str, list[str]] = {
    "gateway": ["--config", "gateway.yaml"],
    "plan": ["-t", "t.jsonl", "--rate", "1", "--gpus", "1", "--judge-budget", "0.1", "-o", "OUT/x.plan.yaml"],
    "frontier": ["-t", "t.jsonl", "--rate", "1", "--gpus", "1"],
    "admit": ["-t", "t.jsonl", "--rate", "1", "--gpus", "1"],
    "changes": ["x.plan.yaml", "x.plan.yaml"],
    "predict": ["x.plan.yaml"],
    "simulate": ["x.plan.yaml", "--runs", "50"],
    "validate": ["x.plan.yaml", "--runs", "50", "--max-latency", "50"],
    "report": ["x.plan.yaml", "--runs", "50", "-o", "OUT/x.html"],
    "render": ["x.plan.yaml", "--gateway-image", "x:1"],
    "diff": ["x.plan.yaml"],
    "apply": ["x.plan.yaml", "--target", "local", "--options", "local.yaml", "--no-validate"],
    "wait": [],
    "status": ["--target", "local"],
    "delete": ["--target", "local"],
    "discover": ["-o", "OUT/cluster.yaml"],
    "compare": ["x.plan.yaml", "--records", "none"],
    "explore": ["-t", "t.jsonl", "--rate", "1", "--gpus", "1", "-o", "OUT/x.html"],
    "operate": ["x.plan.yaml", "--once", "--port", "0"],
    "doctor": [],
    "demo": ["-o", "OUT/demo"],
    "figures": ["--only", "tab_01_workflows", "-o", "OUT/figures"],
    "trace stats": ["t.jsonl"],
    "trace generate": ["rag-rerank", "-n", "5", "-o", "OUT/t.jsonl"],
    "trace list": [],
    "trace import": ["otel", "spans.jsonl", "-o", "OUT/t.jsonl"],
    "trace export": ["otel", "t.jsonl", "-o", "OUT/spans.jsonl"],
    "profile show": ["llama-2-13b"],
    "profile check": [],
    "profile fit": ["--muxserve", "gateway.yaml"],
    "profile validate": ["none"],
    "profile run": ["-t", "t.jsonl", "--model", "m=models", "-o", "OUT/profiles"],
    "profile import": ["vllm-bench", "bench.json", "--llm", "llama-3.1-8b", "--gpu", "H100-80G", "-o", "OUT/p"],
    "model list": [],
    "model show": ["llama-2-13b"],
    "model add": ["models", "--name", "mine"],
    "experiment list": [],
    "experiment run": ["evaluation", "--estimate", "-o", "OUT/results"],
    "experiment report": ["-r", "OUT/none", "-o", "OUT/evaluation.html"],
}
"""Arguments with which each command does something small, or fails in its own words."""

LONG = {"demo", "experiment run"}
"""Commands that work for minutes: they are ended after ``LONG_S``, which must go well too."""
LONG_S = 3
STARTED_CPU_S = 0.4
"""Processor time after which Python has run lines of ours."""

QUICK = ("trace stats", "plan", "trace generate")


def walk(group: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command of the command line, by its words."""
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            yield from walk(each, (*before, name))
        else:
            yield " ".join((*before, name)), each


def test_every_command_is_tried() -> None:
    assert sorted(COMMANDS) == sorted(name for name, _ in walk(typer.main.get_command(app)))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands read."""
    folder: Path = tmp_path_factory.mktemp("good")
    one = {"writer": "llama-3.2-1b", "critic": "llama-3.2-1b"}
    save_trace(folder / "t.jsonl", generate("reflection", runs=3, seed=1, llms=one))
    (folder / "models").mkdir()
    (folder / "gateway.yaml").write_text("format: scepsy.gateway\nversion: 1\nport: 0\nendpoints: []\n")
    (folder / "local.yaml").write_text(
        "format: scepsy.local\nversion: 1\ndevice: cpu\npython: /bin/false\nenforce_shares: false\n"
    )
    (folder / "bench.json").write_text("{}")
    (folder / "spans.jsonl").write_text("{}\n")
    made = process("plan", ["-t", "t.jsonl", "--rate", "1", "--gpus", "1", "-o", "x.plan.yaml"], folder, folder)
    assert made.wait(120) == 0, made.communicate()
    return folder


def process(name: str, arguments: list[str], folder: Path, out: Path, **how: Any) -> subprocess.Popen[bytes]:
    """A command as a process, in ``folder``; OUT in its arguments is ``out``."""
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "XDG_STATE_HOME": str(out.parent / "state"),
        "KUBECONFIG": str(folder / "no-kubeconfig"),
        **how.pop("env", {}),
    }
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, "start_new_session": True, **how}
    line = [sys.executable, "-c", "from scepsy.start import main; main()", *name.split(), *arguments]
    return subprocess.Popen([part.replace("OUT", str(out)) for part in line], cwd=folder, env=env, **how)


def finish(name: str, running: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    """(exit code, stdout, stderr); what serves or works for minutes is asked to stop after some seconds."""
    try:
        out, err = running.communicate(timeout=LONG_S if name in LONG or name == "gateway" else 120)
    except subprocess.TimeoutExpired:
        assert name in LONG or name == "gateway", "it hung"
        _until_started(running)
        running.terminate()
        out, err = running.communicate(timeout=30)
    return running.returncode, (out or b"").decode(errors="replace"), (err or b"").decode(errors="replace")


def _until_started(running: subprocess.Popen[bytes]) -> None:
    """Until Python is up, however busy the machine is: before that, a signal ends it as it ends any process."""
    deadline = time.monotonic() + 60
    with contextlib.suppress(psutil.NoSuchProcess):
        while running.poll() is None and time.monotonic() < deadline:
            if psutil.Process(running.pid).cpu_times().user >= STARTED_CPU_S:
                return
            time.sleep(0.05)


def _until_armed(running: subprocess.Popen[bytes]) -> None:
    """Until it catches SIGTERM, which is the first that our code does. What a signal does before is Python's own."""
    caught, deadline = 1 << (signal.SIGTERM - 1), time.monotonic() + 60
    while running.poll() is None and time.monotonic() < deadline:
        status = Path(f"/proc/{running.pid}/status").read_text()
        if int(status.partition("SigCgt:")[2].split()[0], 16) & caught:
            return
        time.sleep(0.002)


def judge(code: int, out: str, err: str, where: Path, codes: tuple[int, ...] = (), *, heard: bool = True) -> None:
    """What holds in whatever circumstances. ``heard``: what is said on stderr can be read."""
    for text in (out, err):
        for word in ("Traceback", "internal error", "Exception ignored", "Fatal Python"):
            assert word not in text, f"{word}: exit {code}: {text[-1500:]}"
    assert code in (codes or (0, 1, 2, 3, 4, 130, 141, 143)), (code, out[-300:], err[-600:])
    told = [line for line in err.splitlines() if line.strip() and not line.startswith(("scepsy: note:", "note:", "listening"))]
    if heard and code in (2, 3, 130, 143):
        assert len([line for line in told if line.startswith("scepsy")]) == 1, err
    if where.is_dir():
        assert [path.name for path in where.rglob(".*")] == [], "nothing is half-written"


def limited(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A small file system that is ``full`` or ``ro``."""
    mounted: list[Path] = []

    def mount(kind: str) -> Path:
        where = tmp_path / kind
        where.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=777", "tmpfs", str(where)], capture_output=True)
        if done.returncode:
            pytest.skip("no small file system can be mounted here (needs root)")
        mounted.append(where)
        if kind == "ro":
            subprocess.run(["mount", "-o", "remount,ro", str(where)], check=True)
        else:
            with (where / "ballast").open("wb", buffering=0) as file:
                while True:
                    try:
                        file.write(b"\0" * 4096)
                    except OSError:
                        break
        return where

    yield mount
    for where in mounted:
        subprocess.run(["umount", "-l", str(where)], check=False)


NO_CACHE = {"XDG_CACHE_HOME": "/proc/no-cache"}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

CIRCUMSTANCES = (
    "as usual", "ASCII locale", "no cache", "read-only output", "full output", "no file may grow", "closed pipe",
    "stdout closed", "stdout full", "40 columns", "empty environment", "missing inputs", "inputs are folders", "stderr closed",
)  # fmt: skip


@pytest.mark.parametrize("circumstance", CIRCUMSTANCES)
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(COMMANDS)]
)
def test_a_command_in_hostile_circumstances(
    name: str,
    circumstance: str,
    good: Path,
    tmp_path: Path,
    disk: Callable[[str], Path],
    record_property: Callable[[str, object], None],
) -> None:
    record_property("fault", f"every command: {circumstance}")
    out = tmp_path / "out"
    out.mkdir()
    arguments, how, codes = COMMANDS[name], {}, ()
    if circumstance == "ASCII locale":
        how["env"] = ASCII
    elif circumstance == "no cache":
        how["env"] = NO_CACHE
    elif circumstance in ("read-only output", "full output"):
        out = disk("ro" if circumstance == "read-only output" else "full")
        codes = (2,) if any("OUT" in each for each in arguments) and name not in ("experiment report",) else ()
    elif circumstance == "no file may grow":
        how["preexec_fn"] = limited(0)
    elif circumstance in ("closed pipe", "stdout closed", "stderr closed", "stdout full"):
        how |= _streams(circumstance)
    elif circumstance == "40 columns":
        _in_a_terminal(name, arguments, good, out)
        return
    elif circumstance == "empty environment":
        how["env"] = {"HOME": "", "XDG_CACHE_HOME": "", "XDG_STATE_HOME": str(tmp_path / "state")}
    elif circumstance in ("missing inputs", "inputs are folders"):
        folder = tmp_path / "in"
        folder.mkdir()
        if circumstance == "inputs are folders":
            for path in good.iterdir():
                (folder / path.name).mkdir()
        judge(*finish(name, process(name, arguments, folder, out)), out)
        return
    running = process(name, arguments, good, out, **how)
    for end in [how.get("stdout"), how.get("stderr")]:
        if isinstance(end, int) and end > 2:
            os.close(end)
    judge(*finish(name, running), out, codes, heard=circumstance != "stderr closed")


def _streams(circumstance: str) -> dict[str, Any]:
    if circumstance == "closed pipe":
        read, write = os.pipe()
        os.close(read)
        return {"stdout": write}
    if circumstance == "stdout full":
        return {"stdout": os.open("/dev/full", os.O_WRONLY)}
    number = 1 if circumstance == "stdout closed" else 2
    return {"preexec_fn": lambda: os.close(number)}


def _in_a_terminal(name: str, arguments: list[str], good: Path, out: Path) -> None:
    """On a terminal of 40 columns: no line is longer (tables fold, they do not spill), and no traceback."""
    ours, theirs = pty.openpty()
    env = {"COLUMNS": "40", "TERM": "xterm"}
    running = process(name, arguments, good, out, env=env, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    seen, deadline = b"", time.monotonic() + (LONG_S if name in LONG or name == "gateway" else 120)
    os.set_blocking(ours, False)
    while running.poll() is None and time.monotonic() < deadline:
        try:
            seen += os.read(ours, 65536)
        except BlockingIOError:
            time.sleep(0.02)
        except OSError:
            break
    if running.poll() is None:
        _until_started(running)
    running.terminate()
    running.wait(30)
    try:
        while part := os.read(ours, 65536):
            seen += part
    except OSError:
        pass
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace")).replace("\r", "\n")
    code = running.returncode if running.returncode >= 0 else 143
    judge(code, text, text if code in (2, 3) else "scepsy: ended", out, tuple(range(256)))  # both streams are one here


MOMENTS = 20
SIGNALLED = ("plan", "report", "trace generate", "apply", "demo")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("name", "moments"),
    [pytest.param(name, MOMENTS, marks=pytest.mark.slow) for name in ("plan", "report", "trace generate", "apply", "demo")],
)
def test_a_signal_at_any_moment(
    name: str, moments: int, number: signal.Signals, good: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """From the first line of our code to the last: one line, 128 + the signal, nothing half-written, no worker left."""
    record_property("fault", f"every command: {number.name} at {MOMENTS} moments ×{moments}")
    draw = random.Random(name)
    started = time.monotonic()
    fresh = {"XDG_CACHE_HOME": str(tmp_path / "cache-0")}
    usual = 0
    if name != "demo":
        whole = process(name, COMMANDS[name], good, _made(tmp_path / "whole"), env=fresh)
        whole.communicate(timeout=60)
        usual = whole.returncode
    whole_s = time.monotonic() - started if name != "demo" else 8.0
    for moment in range(moments):
        out = _made(tmp_path / f"out-{moment}")
        fresh = {"XDG_CACHE_HOME": str(tmp_path / f"cache-{moment + 1}")}
        running = process(name, COMMANDS[name], good, out, env=fresh)
        _until_armed(running)
        time.sleep(whole_s * (moment + draw.random()) / moments)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, number)
        text, err = running.communicate(timeout=60)
        code = running.returncode
        if code == -number and (text or err):  # it had said all, and Python itself was leaving: our handlers are gone then
            code = usual
        judge(code, text.decode(), err.decode(), out)
        assert code in (128 + number, 0, 1, 4, usual), (code, err)
        assert _group_is_empty(running.pid), "a worker is left"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _group_is_empty(group: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        time.sleep(0.1)
    return False


CPU_S = 60.0
"""Processor time that one command may take, whatever it is given."""


@contextlib.contextmanager
def _at_most(seconds: float, what: str) -> Iterator[None]:
    """Fail what takes more of this process' processor time; wall time says nothing on a busy machine."""

    def stop(*_: object) -> None:
        raise AssertionError(f"{what}: more than {seconds:g} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


VALUES = ("0", "-1", "nan", "inf", "-0.5", "1e400", "x", "", "\x7f", "é")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(COMMANDS) - LONG - {"gateway", "apply"}))
def test_every_option_with_absurd_values(
    name: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """0, -1, NaN and words for every option that takes a value, in this process."""
    monkeypatch.chdir(good)
    monkeypatch.setenv("XDG_CACHE_HOME", str(good / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    found = dict(walk(typer.main.get_command(app)))[name]
    options = [each.opts[0] for each in found.params if each.param_type_name == "option" and not each.is_flag]
    tried = 0
    for option in options:
        for value in VALUES:
            arguments = [each.replace("OUT", str(tmp_path)) for each in COMMANDS[name]]
            with _at_most(CPU_S, f"{name} {option} {value}"):
                result = CliRunner().invoke(app, [*name.split(), *arguments, option, value])
            tried += 1
            assert result.exception is None or isinstance(result.exception, SystemExit), (option, value, result.exception)
            judge(result.exit_code, result.stdout, result.stderr, tmp_path, tuple(range(5)))
    record_property("fault", f"every option: 0, -1, NaN, infinity, words ×{tried}")
