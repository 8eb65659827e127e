"""The supervisor: starts engines wave by wave, puts a gateway before them, restarts what dies, stops all of it.

It runs as a process of its own (``python -m executor.local FOLDER``), so that a deployment outlives the command that made
it. It keeps ``state.json`` true after every change; a supervisor that was killed leaves engines that serve on, and the next
``apply`` or ``delete`` finds and stops them.
"""

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import msgspec
import psutil

from executor.gateway.config import Endpoint, GatewayConfig, Limits, save_gateway
from executor.local.layout import Daemon, Launch, Layout, daemon_env, lay_out
from executor.local.options import LocalOptions, device_of, engine_python
from executor.local.shares import CoreShares, enter
from executor.local.state import MARK, Child, Phase, State, born_s, load_state, save_state, stop_all, stop_marked
from executor.recording.config import Recording
from scepsy.errors import BackendError, InputError, ScepsyError
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet

log = logging.getLogger("scepsy.local")

LOOK_S = 0.5
"""Between two looks at the processes."""

RESTART_WINDOW_S = 600.0

LONGEST_PAUSE_S = 30.0
"""Pauses before restarts double from one second up to this."""

MPS = "nvidia-cuda-mps-control"


PORTS = range(20_000, 32_000)
"""Free ports are looked for here: below the range that the kernel gives to outgoing connections, which would take a port
between its choice and its use, a minute later."""


def free_port() -> int:
    """A port that nothing listens on now. Raises ``BackendError`` when a hundred tries find none."""
    for _ in range(100):
        port = PORTS.start + secrets.randbelow(len(PORTS))
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise BackendError(f"no free port among a hundred from {PORTS.start} to {PORTS.stop}: set base_port and gateway_port")


_CAUSE = re.compile(r"\b\w*(?:Error|Exception|Killed): .*")


def log_tail(path: Path, lines: int = 2) -> str:
    """Why a process ended, from its log: the first error in its last part (later ones follow from it), else its end."""
    try:
        text = path.read_text(errors="replace").splitlines()[-400:]
    except OSError:
        return "no log"
    causes = [match[0] for line in text if (match := _CAUSE.search(line))]
    return " | ".join(line.strip()[-300:] for line in (causes[:1] or text[-lines:])) or "empty log"


def explain_exit(code: int, tail: str) -> str:
    """Why an engine ended, as far as its exit and its log tell."""
    if code == -signal.SIGKILL or "out of memory" in tail.lower() or "OutOfMemory" in tail:
        return f"killed or out of memory (exit {code}): plan less memory or fewer instances on its device; log: {tail}"
    if "address already in use" in tail.lower() or "Errno 98" in tail:
        return f"its port is taken: set base_port to a free range; log: {tail}"
    return f"exit {code}; log: {tail}"


class _Engine:
    """One engine process and its restarts."""

    def __init__(self, launch: Launch, log_path: Path) -> None:
        self.launch, self.log_path = launch, log_path
        self.process: subprocess.Popen[bytes] | None = None
        self.born_s = 0.0
        self.phase: Phase = "starting"
        self.problem = ""
        self.restarts = 0
        self.recent: deque[float] = deque()
        self.again_s = 0.0
        self.healthy_by_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.launch.port}"

    def child(self) -> Child:
        return Child(
            name=self.launch.name,
            pid=self.process.pid if self.process else 0,
            born_s=self.born_s,
            phase=self.phase,
            restarts=self.restarts,
            llm=self.launch.llm,
            url=self.url,
            log=str(self.log_path),
            problem=self.problem,
        )


class Supervisor:
    """Runs one deployment in ``folder``."""

    def __init__(self, folder: Path, plan: Plan, profiles: ProfileSet, options: LocalOptions, deployment: str) -> None:
        self.folder, self.plan, self.options, self.deployment = folder, plan, options, deployment
        self.python = engine_python(options)
        device = device_of(options)
        ports = self._ports()
        self.layout: Layout = lay_out(
            plan,
            profiles,
            device=device,
            ports=ports,
            models=options.models,
            run_folder=folder,
            extra_args=options.extra_args,
            without_weights=frozenset(llm for llm, path in options.models.items() if has_no_weights(Path(path))),
            stop_timeout_s=options.stop_timeout_s,
        )
        self.shares = CoreShares(deployment)
        self.notes = self._check_device()
        self.engines = [_Engine(launch, folder / f"{launch.name}.log") for launch in self.layout.launches]
        self.gateway: subprocess.Popen[bytes] | None = None
        self.gateway_port = options.gateway_port or free_port()
        self.phase: Phase = "starting"
        self.problem = ""
        self._stop = asyncio.Event()

    def _ports(self) -> dict[str, int]:
        base = self.options.base_port
        return {instance.name: base + number if base else free_port() for number, instance in enumerate(self.plan.instances)}

    def _check_device(self) -> tuple[str, ...]:
        if self.layout.device == "gpu":
            if self.layout.daemons and shutil.which(MPS) is None:
                raise InputError(f"plan: shares below 100 % need {MPS}: install the NVIDIA driver's MPS tools")
            return ()
        cores = os.sched_getaffinity(0)
        for launch in self.layout.launches:
            for core in launch.devices:
                if core not in cores:
                    raise InputError(f"plan: instance {launch.name}: core {core} is not here: must be one of {sorted(cores)}")
        partial = [launch.name for launch in self.layout.launches if launch.share_pct < 100]
        if partial and not self.shares.available:
            if self.options.enforce_shares:
                raise InputError(
                    f"plan: instance {partial[0]}: a share below 100 % of a core needs a cgroup, and none can be made here "
                    "(run as root or with a delegated cgroup, or set enforce_shares: false)"
                )
            return ("shares of cores are not enforced: no cgroup can be made here",)
        return ()

    # --- the story -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start everything, watch it until told to stop, stop everything. A failed start stops everything too."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._save()
        async with aiohttp.ClientSession() as session:
            try:
                self._start_daemons()
                await self._start_engines(session)
                await self._start_gateway(session)
                self._become("healthy")
                await self._watch(session)
            except ScepsyError as error:
                self.problem = str(error)
                log.error("%s", error)
                self._stop_everything()
                self._become("failed")
                return
        self._stop_everything()
        self._become("stopped")

    def _become(self, phase: Phase) -> None:
        self.phase = phase
        self._save()

    def _save(self) -> None:
        me = Child(name="supervisor", pid=os.getpid(), born_s=born_s(os.getpid()), phase=self.phase)
        gateway = None
        if self.gateway is not None:
            gateway = Child(
                name="gateway",
                pid=self.gateway.pid,
                born_s=born_s(self.gateway.pid),
                phase="healthy" if self.phase == "healthy" else "starting",
                url=f"http://127.0.0.1:{self.gateway_port}",
                log=str(self.folder / "gateway.log"),
            )
        save_state(
            self.folder,
            State(
                deployment=self.deployment,
                phase=self.phase,
                supervisor=me,
                gateway=gateway,
                children=tuple(engine.child() for engine in self.engines),
                daemons=tuple(daemon.name for daemon in self.layout.daemons),
                notes=self.notes,
                problem=self.problem,
            ),
        )

    # --- starting ------------------------------------------------------------------------------------------------

    def _start_daemons(self) -> None:
        for daemon in self.layout.daemons:
            for part in ("pipe", "log"):
                (self.folder / daemon.name / part).mkdir(parents=True, exist_ok=True)
            env = {**os.environ, MARK: self.deployment, **daemon_env(daemon, self.folder)}
            done = subprocess.run([MPS, "-d"], env=env, capture_output=True, text=True, timeout=60, check=False)
            if done.returncode:
                raise BackendError(f"{daemon.name} for GPUs {', '.join(daemon.gpus)}: {MPS} -d: {done.stderr.strip()[-300:]}")

    def _spawn(self, engine: _Engine) -> None:
        launch, group = engine.launch, None
        cores: tuple[int, ...] = ()
        if self.layout.device == "cpu":
            cores = launch.devices
            if launch.share_pct < 100 and self.shares.available:
                # The first start may use whole cores: nothing is served yet, and at its share it would take minutes.
                share_pct = 100 if self.phase == "starting" else launch.share_pct
                group = self.shares.make(launch.name, share_pct, len(cores))
        env = {**os.environ, MARK: self.deployment, **launch.env}
        if (model := self.options.models.get(launch.llm)) and Path(model).is_dir():
            env["HF_HUB_OFFLINE"] = "1"
        with engine.log_path.open("ab") as sink:
            engine.process = subprocess.Popen(
                [self.python, *launch.arguments],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd=self.folder,
                start_new_session=True,  # so that its own children can be found by its group
                preexec_fn=lambda: enter(group, cores),
            )
        engine.born_s = born_s(engine.process.pid)
        engine.healthy_by_s = time.monotonic() + self.options.start_timeout_s

    async def _start_engines(self, session: aiohttp.ClientSession) -> None:
        for wave in sorted({engine.launch.wave for engine in self.engines}):
            mine = [engine for engine in self.engines if engine.launch.wave == wave]
            for engine in mine:
                _require_free(engine)
                self._spawn(engine)
            self._save()
            await asyncio.gather(*(self._until_healthy(session, engine) for engine in mine))
            self._save()

    async def _until_healthy(self, session: aiohttp.ClientSession, engine: _Engine) -> None:
        while not await _is_healthy(session, engine.url):
            assert engine.process is not None
            code = engine.process.poll()
            if code is not None:
                raise BackendError(
                    f"instance {engine.launch.name} did not start: {explain_exit(code, log_tail(engine.log_path))}"
                )
            if time.monotonic() > engine.healthy_by_s:
                raise BackendError(
                    f"instance {engine.launch.name} was not healthy within {self.options.start_timeout_s:g} s "
                    f"(raise start_timeout_s, or see {engine.log_path}: {log_tail(engine.log_path, 1)})"
                )
            if self._stop.is_set():
                raise BackendError("stopped while starting")
            await asyncio.sleep(LOOK_S)
        if self.layout.device == "cpu" and engine.launch.share_pct < 100 and self.shares.available:
            self.shares.make(engine.launch.name, engine.launch.share_pct, len(engine.launch.devices))
        engine.phase, engine.problem = "healthy", ""

    async def _start_gateway(self, session: aiohttp.ClientSession) -> None:
        if not self.options.gateway_port:
            self.gateway_port = free_port()  # chosen now, not minutes ago
        record = self.options.record
        config = GatewayConfig(
            port=self.gateway_port,
            endpoints=tuple(
                Endpoint(name=e.launch.name, llm=e.launch.llm, url=e.url, share_pct=e.launch.share_pct) for e in self.engines
            ),
            limits=Limits(drain_s=self.options.stop_timeout_s, health_s=1.0),
            recording=Recording(path=record) if record else None,
        )
        save_gateway(self.folder / "gateway.yaml", config)
        self._spawn_gateway()
        deadline = time.monotonic() + 60
        while not await _is_healthy(session, f"http://127.0.0.1:{self.gateway_port}"):
            assert self.gateway is not None
            if self.gateway.poll() is not None or time.monotonic() > deadline:
                raise BackendError(f"gateway did not start: {log_tail(self.folder / 'gateway.log', 1)}")
            await asyncio.sleep(0.1)

    def _spawn_gateway(self) -> None:
        command = [sys.executable, "-c", "from scepsy.cli import main; main()", "gateway", "--config"]
        with (self.folder / "gateway.log").open("ab") as sink:
            self.gateway = subprocess.Popen(
                [*command, str(self.folder / "gateway.yaml")],
                env={**os.environ, MARK: self.deployment},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )

    # --- watching ------------------------------------------------------------------------------------------------

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        while not self._stop.is_set():
            changed = False
            for engine in self.engines:
                changed |= await self._look_after(session, engine)
            if self.gateway is not None and self.gateway.poll() is not None:
                log.error("the gateway ended (exit %s): starting it again", self.gateway.returncode)
                self._spawn_gateway()
                changed = True
            if changed:
                self._save()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), LOOK_S)

    async def _look_after(self, session: aiohttp.ClientSession, engine: _Engine) -> bool:
        """Notice a death, restart after a pause, notice the recovery; whether anything changed."""
        now = time.monotonic()
        assert engine.process is not None
        code = engine.process.poll()
        if engine.phase in ("healthy", "starting") and code is not None:
            _kill_group(engine.process.pid)  # an engine core that outlived its server holds its memory
            while engine.recent and now - engine.recent[0] > RESTART_WINDOW_S:
                engine.recent.popleft()
            engine.problem = explain_exit(code, log_tail(engine.log_path))
            if len(engine.recent) >= self.options.restarts:
                engine.phase = "failed"
                log.error(
                    "instance %s failed %d times: given up: %s", engine.launch.name, len(engine.recent) + 1, engine.problem
                )
                return True
            engine.again_s = now + min(2.0 ** len(engine.recent), LONGEST_PAUSE_S)
            engine.recent.append(now)
            engine.phase = "restarting"
            log.warning("instance %s ended: %s; starting it again", engine.launch.name, engine.problem)
            return True
        if engine.phase == "restarting" and now >= engine.again_s:
            engine.restarts += 1
            engine.phase = "starting"
            self._spawn(engine)
            return True
        if engine.phase == "starting":
            if await _is_healthy(session, engine.url):
                engine.phase, engine.problem = "healthy", ""
                return True
            if now > engine.healthy_by_s:
                _kill_group(engine.process.pid)
        return False

    # --- stopping ------------------------------------------------------------------------------------------------

    def _stop_everything(self) -> None:
        """The gateway first (it drains), then engines, then daemons and groups."""
        limit_s = self.options.stop_timeout_s
        for process in (self.gateway,):
            if process is not None and process.poll() is None:
                stop_all([psutil.Process(process.pid)], limit_s + 2)
        running = [e.process for e in self.engines if e.process is not None and e.process.poll() is None]
        stop_all([psutil.Process(process.pid) for process in running], limit_s)
        for engine in self.engines:
            if engine.process is not None:
                _kill_group(engine.process.pid)
                engine.process.poll()
        stop_daemons(self.folder, self.layout.daemons)
        stop_marked(self.deployment, limit_s)
        self.shares.remove()
        for engine in self.engines:
            if engine.phase != "failed":
                engine.phase = "stopped"


def stop_daemons(folder: Path, daemons: Sequence[Daemon | str]) -> None:
    """Tell MPS daemons to quit."""
    for daemon in daemons:
        name = daemon if isinstance(daemon, str) else daemon.name
        env = {**os.environ, "CUDA_MPS_PIPE_DIRECTORY": str(folder / name / "pipe")}
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run([MPS], input=b"quit\n", env=env, capture_output=True, timeout=30, check=False)


def _require_free(engine: _Engine) -> None:
    """Raise ``BackendError`` when something listens on the engine's port: it would pass for the engine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", engine.launch.port))
        except OSError:
            raise BackendError(
                f"instance {engine.launch.name}: port {engine.launch.port} is taken: set base_port to a free range"
            ) from None


def _kill_group(pgid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signal.SIGKILL)


async def _is_healthy(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/health", timeout=aiohttp.ClientTimeout(total=5)) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, ConnectionError):
        return False


def has_no_weights(folder: Path) -> bool:
    """Whether ``folder`` is a model folder without weights (``executor.random_models`` writes such)."""
    return folder.is_dir() and not any(
        path.suffix in (".safetensors", ".bin", ".pt", ".gguf", ".pth") for path in folder.iterdir()
    )


def leftovers(folder: Path) -> State | None:
    """What a supervisor that died left in ``folder``."""
    state = load_state(folder)
    return state if state is not None and state.phase != "stopped" else None


def left_options(folder: Path) -> LocalOptions:
    """The options that ``apply`` left for the supervisor."""
    return msgspec.json.decode((folder / "options.json").read_bytes(), type=LocalOptions)
