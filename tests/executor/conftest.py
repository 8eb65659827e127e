"""Real processes for the gateway's tests: stub engines and gateways, each stopped when its test ends."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from executor.gateway.config import Endpoint, GatewayConfig, save_gateway
from executor.recording.config import Recording
from tests.executor.raw_engine import RawEngine

FAULT_TESTS = ("test_gateway_hostile", "test_gateway_faults", "test_gateway_fuzz")
"""Each test of these is a kind of fault, its cases are the times that it was tried."""

_FAULTS: dict[str, list[bool]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what became of each fault."""
    if report.when == "call" and any(name in report.nodeid for name in FAULT_TESTS):
        name = report.nodeid.rsplit("::", 1)[1].partition("[")[0].removeprefix("test_").replace("_", " ")
        _FAULTS.setdefault(name, []).append(report.outcome == "passed")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of faults, when SCEPSY_FAULTS is set: how often each was tried, how often survived."""
    if os.environ.get("SCEPSY_FAULTS") and _FAULTS:
        terminalreporter.write_line("| fault | tried | survived |\n|---|---|---|")
        for name, outcomes in sorted(_FAULTS.items()):
            terminalreporter.write_line(f"| {name} | {len(outcomes)} | {sum(outcomes)} |")


STUB = Path(__file__).with_name("stub_engine.py")


class Process:
    """A child whose first line of output says where it listens."""

    def __init__(self, command: list[str], log: Path, **options) -> None:
        self.log = log
        with log.open("ab") as sink:
            self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sink, text=True, **options)
        self.first_line = self.child.stdout.readline().strip()
        assert self.first_line, f"{command} said nothing: {log.read_text()}"
        self.url = self.first_line if self.first_line.startswith("http") else f"http://127.0.0.1:{self.first_line}"

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()

    def stop(self, timeout_s: float = 20) -> int:
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
        return self.child.wait(timeout_s)

    @property
    def pid(self) -> int:
        return self.child.pid

    def post(self, path: str, body: dict[str, object]):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def get(self, path: str):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)


@pytest.fixture
def stub(tmp_path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(port: int = 0, delay_s: float = 0.0) -> Process:
        env = {**os.environ, "STUB_DELAY_S": str(delay_s)}
        started.append(Process([sys.executable, str(STUB), "--port", str(port)], tmp_path / "stub.log", env=env))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def gateway(tmp_path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(
        endpoints: list[Endpoint],
        *,
        record: bool = True,
        launcher: list[str] | None = None,
        options: list[str] | None = None,
        env: dict[str, str] | None = None,
        **fields,
    ) -> Process:
        path = tmp_path / "gateway.yaml"
        if record:
            fields.setdefault("recording", Recording(path="calls.jsonl"))
        save_gateway(path, GatewayConfig(port=0, endpoints=tuple(endpoints), **fields))
        program = "import sys; from scepsy.cli import main; sys.argv[1:] = sys.argv[1:]; main()"
        command = [*(launcher or []), sys.executable, "-c", program, "gateway", "--config", str(path)]
        command += options or []
        environ = {**os.environ, "PYTHONPATH": str(Path.cwd()), **(env or {})}
        process = Process(command, tmp_path / "gateway.log", env=environ)
        process.url = process.first_line.removeprefix("listening on ")
        process.config = path
        process.recording = tmp_path / "calls.jsonl"
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


@pytest.fixture
async def raw_engine():
    started: list[RawEngine] = []

    async def start(*replies: bytes | Callable) -> RawEngine:
        started.append(await RawEngine().start())
        started[-1].replies = list(replies)
        return started[-1]

    yield start
    for engine in started:
        engine.server.close()


@pytest.fixture
def eventually() -> Callable[..., None]:
    def wait(check: Callable[[], bool], timeout_s: float = 10, what: str = "it") -> None:
        deadline = time.monotonic() + timeout_s
        while not check():
            assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
            time.sleep(0.05)

    return wait
