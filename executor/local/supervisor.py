"""The supervisor: starts engines wave by wave, puts a gateway before them, restarts what dies or hangs, stops all of it.

It runs as a process of its own (``python -m executor.local FOLDER``), so that a deployment outlives the command that made
it. It keeps ``state.json`` true after every change and tells its state to who asks (``voice``). Once everything serves,
nothing that fails here ends what serves: a state that cannot be saved is said and saved later. A supervisor that was killed
leaves engines that serve on, and the next ``apply`` or ``delete`` finds and stops them.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import msgspec

from executor.gateway.config import Endpoint, GatewayConfig, GatewayLimits, save_gateway
from executor.local.folder import make_own, read_own, subfolder
from executor.local.health import PROBE_TIMEOUT_S, Deadlines, watch_health, watch_work
from executor.local.identity import born
from executor.local.layout import Daemon, Launch, LocalLayout, daemon_env, lay_out
from executor.local.logs import explain_exit, log_tail
from executor.local.marks import FIRST_ENGINE, GATEWAY, MARK, Which, put_limit, remove_groups, stop_marked
from executor.local.options import LocalOptions, device_of, engine_python
from executor.local.ports import free_port, listens, require_free
from executor.local.shares import CoreShares
from executor.local.state import Child, Phase, State, Switch, save_state, state_path
from executor.local.switching import Engine, Switching, read_order
from executor.local.unit import Unit
from executor.local.voice import listen
from executor.recording.config import Recording
from scepsy.errors import BackendError, InputError, ScepsyError
from scepsy.files.failure import decode_json, explain, fail
from scepsy.operate.naming import fingerprint
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet

log = logging.getLogger("scepsy.local")

LOOK_EVERY_S = 0.5
"""Between two looks at the processes."""

SAVE_AGAIN_S = 2.0
"""Between two tries to save a state that could not be saved."""

GATEWAY_START_S = 60.0

MPS = "nvidia-cuda-mps-control"


class _Engine(Unit):
    """One engine."""

    def __init__(self, launch: Launch, number: int, folder: Path, deployment: str, deadlines: Deadlines) -> None:
        super().__init__(launch.name, FIRST_ENGINE + number, launch.port, folder / f"{launch.name}.log", deployment, deadlines)
        self.launch = launch
        self.held = False
        """Whether a switch looks after it (``switching``)."""

    @property
    def unit(self) -> Unit:
        """Itself, as ``switching`` asks for it."""
        return self


class Supervisor:
    """Runs one deployment in ``folder``. Raises ``InputError`` for a plan that this host cannot realise."""

    def __init__(self, folder: Path, plan: Plan, profiles: ProfileSet, options: LocalOptions, deployment: str) -> None:
        self.folder, self.plan, self.options, self.deployment = folder, plan, options, deployment
        self.profiles = profiles
        self.python = engine_python(options)
        self.layout: LocalLayout = self._lay_out(plan, self._ports())
        self.shares = CoreShares(deployment)
        self.notes = self._check_device(self.layout)
        deadlines = Deadlines(eject_s=options.eject_s, hung_s=options.hung_s, stall_s=options.stall_s)
        self._deadlines = deadlines
        self._numbers = len(self.layout.launches)
        """How many engines there have been: each has a number of its own, by which its processes are known."""
        self._answer_s = min(PROBE_TIMEOUT_S, options.eject_s, options.hung_s)
        self.engines = [
            _Engine(launch, number, folder, deployment, deadlines) for number, launch in enumerate(self.layout.launches)
        ]
        self.gateway = Unit("gateway", GATEWAY, options.gateway_port, folder / "gateway.log", deployment, deadlines)
        self.phase: Phase = "starting"
        self.problem = ""
        self._stop = asyncio.Event()
        self._unsaved, self._try_again_s = "", 0.0
        self._saved: tuple[int, int, int] | None = None
        self._routed: tuple[tuple[str, bool], ...] = ()
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None
        self._switch: Switch | None = None
        self._since_s = 0.0
        self._ordered = False
        self._switching: asyncio.Task[None] | None = None

    def _lay_out(self, plan: Plan, ports: dict[str, int]) -> LocalLayout:
        options = self.options
        return lay_out(
            plan,
            self.profiles,
            device=device_of(options),
            ports=ports,
            models=options.models,
            run_folder=self.folder,
            extra_args=options.extra_args,
            without_weights=frozenset(llm for llm, path in options.models.items() if has_no_weights(Path(path))),
            stop_timeout_s=options.stop_timeout_s,
        )

    def _ports(self) -> dict[str, int]:
        base = self.options.base_port
        return {instance.name: base + number if base else free_port() for number, instance in enumerate(self.plan.instances)}

    def _check_device(self, layout: LocalLayout) -> tuple[str, ...]:
        if layout.device == "gpu":
            if layout.daemons and shutil.which(MPS) is None:
                raise InputError(f"plan: shares below 100 % need {MPS}: install the NVIDIA driver's MPS tools")
            return ()
        cores = os.sched_getaffinity(0)
        for launch in layout.launches:
            for core in launch.devices:
                if core not in cores:
                    raise InputError(f"plan: instance {launch.name}: core {core} is not here: must be one of {sorted(cores)}")
        partial = [launch.name for launch in layout.launches if launch.share_pct < 100]
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
        loop.add_signal_handler(signal.SIGHUP, self._order)
        server = await listen(self.deployment, self.state)
        self._save()
        async with aiohttp.ClientSession() as session:
            self._session = session
            try:
                await self._start(session)
                self._since_s = time.time()
                self._become("healthy")
                await self._watch()
            except ScepsyError as error:
                self.problem = str(error)
            except Exception as error:  # whatever else is wrong with a start is said in the same way
                log.exception("the supervisor failed")
                self.problem = f"supervisor: {type(error).__name__}: {error} (see {self.folder / 'supervisor.log'})"
            tasks = [*self._tasks, *([self._switching] if self._switching is not None else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self.problem:
            log.error("%s", self.problem)
        await asyncio.to_thread(self._stop_everything)
        self._become("failed" if self.problem else "stopped")
        if server is not None:
            server.close()

    async def _start(self, session: aiohttp.ClientSession) -> None:
        if port := self.options.gateway_port:
            require_free("gateway", port, "gateway_port")
        self._start_daemons()
        for engine in self.engines:
            self._tasks.append(asyncio.create_task(watch_health(session, engine, answer_s=self._answer_s)))
        await self._start_engines()
        await self._start_gateway(session)
        every_s = min(max(self.options.stall_s / 10, 0.2), 15.0)
        self._tasks.append(asyncio.create_task(watch_work(session, self.gateway.url, self.engines, every_s)))

    def _become(self, phase: Phase) -> None:
        self.phase = phase
        self._save()

    # --- telling -------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Everything as it is now."""
        me = Child(name="supervisor", pid=os.getpid(), born=born(os.getpid()), phase=self.phase)
        unsaved = (f"the state file cannot be saved ({self._unsaved}): this is what the supervisor says itself",)
        return State(
            deployment=self.deployment,
            phase=self.phase,
            supervisor=me,
            gateway=self.gateway.child() if self.gateway.process is not None else None,
            children=tuple(engine.child(engine.launch.llm) for engine in self.engines),
            daemons=tuple(daemon.name for daemon in self.layout.daemons),
            notes=(*self.notes, *(unsaved if self._unsaved else ())),
            problem=self.problem,
            plan=fingerprint(self.plan),
            switch=self._switch,
            since_s=self._since_s,
        )

    def _save(self) -> None:
        """Save the state. Where that fails, say so, go on, and try again later."""
        before, self._unsaved = self._unsaved, ""
        try:
            make_own(self.folder)
            save_state(self.folder, self.state())
            self._saved = self._stamp()
        except (OSError, InputError) as error:
            self._unsaved = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self._try_again_s = time.monotonic() + SAVE_AGAIN_S
            if not before:
                log.error("the state cannot be saved: %s; serving goes on, and it is saved as soon as that works", error)
            return
        if before:
            log.info("the state is saved again")

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = state_path(self.folder).lstat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _to_be_saved(self) -> bool:
        """Whether the file is not what was saved last: it could not be written, or somebody lost or damaged it."""
        if self._unsaved:
            return time.monotonic() >= self._try_again_s
        return self._stamp() != self._saved

    # --- starting ------------------------------------------------------------------------------------------------

    def _start_daemons(self) -> None:
        for daemon in self.layout.daemons:
            for part in ("pipe", "log"):
                subfolder(self.folder, daemon.name, part)
            env = {**os.environ, MARK: self.deployment, **daemon_env(daemon, self.folder)}
            done = subprocess.run(
                [MPS, "-d"],
                env=env,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                preexec_fn=lambda: put_limit(self.deployment, GATEWAY),
            )
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
        env = {**os.environ, **launch.env}
        if (model := self.options.models.get(launch.llm)) and Path(model).is_dir():
            env["HF_HUB_OFFLINE"] = "1"
        command = [self.python, *launch.arguments]
        start_s = self.options.start_timeout_s
        engine.spawn(command, env, folder=self.folder, start_s=start_s, group=group, cores=cores)

    async def _start_engines(self) -> None:
        for wave in sorted({engine.launch.wave for engine in self.engines}):
            mine = [engine for engine in self.engines if engine.launch.wave == wave]
            for engine in mine:
                require_free(f"instance {engine.name}", engine.port, "base_port")
                self._spawn(engine)
            self._save()
            await asyncio.gather(*(self._until_healthy(engine) for engine in mine))
            self._save()

    async def _until_healthy(self, engine: _Engine) -> None:
        while not engine.health.ever_well:
            if engine.code is not None:
                raise BackendError(f"instance {engine.name} did not start: {self._why_ended(engine)}")
            if time.monotonic() > engine.healthy_by_s:
                raise BackendError(f"instance {engine.name} {self._too_late(engine)}")
            if self._stop.is_set():
                raise BackendError("stopped while starting")
            await asyncio.sleep(LOOK_EVERY_S / 5)
        await self._require_own_port(engine, f"instance {engine.name}", "base_port")
        self._now_healthy(engine)

    def _now_healthy(self, engine: _Engine) -> None:
        if self.layout.device == "cpu" and engine.launch.share_pct < 100 and self.shares.available:
            self.shares.make(engine.name, engine.launch.share_pct, len(engine.launch.devices))
        engine.phase, engine.problem = "healthy", ""

    def _why_ended(self, unit: Unit) -> str:
        return explain_exit(unit.code or 0, log_tail(unit.log_path))

    def _too_late(self, engine: Unit) -> str:
        return (
            f"was not healthy within {self.options.start_timeout_s:g} s ({engine.health.problem or 'no answer yet'}; "
            f"raise start_timeout_s, or see {engine.log_path}: {log_tail(engine.log_path, 1)})"
        )

    async def _require_own_port(self, unit: Unit, who: str, field: str) -> None:
        """Raise ``BackendError`` when what answers on the unit's port is somebody else's process."""
        if await asyncio.to_thread(self._answers_itself, unit):
            return
        raise BackendError(f"{who}: port {unit.port} is answered by another process: set {field} to a free one")

    def _answers_itself(self, unit: Unit) -> bool:
        processes = list(Which(deployment=self.deployment, number=unit.number, instance=unit.name).processes())
        for process in processes:
            process.close()
        own = [unit.process.pid] if unit.process is not None else []
        return listens([*own, *(process.pid for process in processes)], unit.port) is not False

    # --- the gateway ---------------------------------------------------------------------------------------------

    async def _start_gateway(self, session: aiohttp.ClientSession) -> None:
        gateway = self.gateway
        gateway.port = self.options.gateway_port or free_port()  # chosen now, not minutes ago
        require_free("gateway", gateway.port, "gateway_port")
        self._route()
        self._spawn_gateway()
        # 503 is an answer too: some LLM has no instance now, which is not the gateway's fault.
        self._tasks.append(asyncio.create_task(watch_health(session, gateway, (200, 503), self._answer_s)))
        while not gateway.health.ever_well:
            if gateway.code is not None or time.monotonic() > gateway.healthy_by_s:
                raise BackendError(f"gateway did not start: {log_tail(gateway.log_path, 1)}")
            await asyncio.sleep(LOOK_EVERY_S / 5)
        await self._require_own_port(gateway, "gateway", "gateway_port")
        gateway.phase = "healthy"

    def _route(self) -> None:
        """Tell the gateway its instances; those that are not healthy take no new calls. Raises ``InputError`` (a full disk)."""
        serving = self.phase == "healthy"
        routed = tuple((engine.name, serving and engine.phase != "healthy") for engine in self.engines)
        if routed == self._routed:
            return
        record = self.options.record
        config = GatewayConfig(
            port=self.gateway.port,
            endpoints=tuple(
                Endpoint(
                    name=e.name,
                    llm=e.launch.llm,
                    also=e.launch.also,
                    url=e.url,
                    share_pct=e.launch.share_pct,
                    draining=out,
                )
                for e, (_, out) in zip(self.engines, routed, strict=True)
            ),
            limits=GatewayLimits(drain_s=self.options.stop_timeout_s, health_s=1.0),
            recording=Recording(path=record) if record else None,
        )
        save_gateway(self.folder / "gateway.yaml", config)
        with contextlib.suppress(OSError):
            (self.folder / "gateway.yaml").chmod(0o600)
        self._routed = routed

    def _spawn_gateway(self) -> None:
        command = [sys.executable, "-c", "from scepsy.cli import main; main()", "gateway", "--config"]
        self.gateway.spawn(
            [*command, str(self.folder / "gateway.yaml")], os.environ, folder=self.folder, start_s=GATEWAY_START_S
        )

    # --- watching ------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Until told to stop. Nothing that goes wrong in here ends what serves."""
        while not self._stop.is_set():
            try:
                changed = self._begin_switch()
                for unit in (*self.engines, self.gateway):
                    changed |= await self._look_after(unit)
                if changed or self._to_be_saved():
                    self._save()
                self._route()
            except (ScepsyError, OSError) as error:
                log.error("%s", error)
            except Exception:
                log.exception("while watching")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), LOOK_EVERY_S)

    async def _look_after(self, unit: Unit) -> bool:
        """Notice a death, a hang, an illness, a recovery; restart after a pause. Whether anything changed."""
        now = time.monotonic()
        if unit.phase == "failed" or (isinstance(unit, _Engine) and unit.held):
            return False
        if unit.phase == "restarting":
            if now >= unit.again_s:
                await self._start_again(unit)
                return True
            return False
        if unit.code is not None:
            await self._failed(unit, self._why_ended(unit))
            return True
        if unit.phase == "starting":
            return await self._look_at_start(unit, now)
        verdict, problem = unit.health.verdict(now)
        if verdict == "hung":
            await self._failed(unit, f"{problem}: ended")
            return True
        phase: Phase = "healthy" if verdict == "well" else "unhealthy"
        changed = (phase, verdict == "well") != (unit.phase, not unit.problem)
        if changed:
            log.warning("%s: %s %s", unit.name, phase, problem)
        unit.phase, unit.problem = phase, problem
        return changed

    async def _look_at_start(self, unit: Unit, now: float) -> bool:
        if unit.health.ever_well:
            if not await asyncio.to_thread(self._answers_itself, unit):
                await self._failed(unit, f"port {unit.port} is answered by another process")
            elif isinstance(unit, _Engine):
                self._now_healthy(unit)
            else:
                unit.phase, unit.problem = "healthy", ""
            return True
        if now > unit.healthy_by_s:
            await self._failed(unit, self._too_late(unit))
            return True
        return False

    async def _failed(self, unit: Unit, problem: str) -> None:
        """It died or is to be ended: end all of it (a core that outlives its server holds memory), and plan the next start."""
        try:
            await asyncio.to_thread(unit.end, 0.0)
        except BackendError as error:
            problem = f"{problem}; {error}"
        at_most = self.options.restarts if isinstance(unit, _Engine) else None
        if unit.again_after_failure(time.monotonic(), problem, at_most):
            log.warning("%s: %s; starting it again", unit.name, problem)
        else:
            log.error("%s failed %d times: given up: %s", unit.name, len(unit.recent) + 1, problem)

    async def _start_again(self, unit: Unit) -> None:
        unit.restarts += 1
        unit.phase = "starting"
        try:
            if isinstance(unit, _Engine):
                self._spawn(unit)
            else:
                self._spawn_gateway()
        except ScepsyError as error:
            await self._failed(unit, str(error))

    # --- switching (``executor.local.switching``) ----------------------------------------------------------------

    def _order(self) -> None:
        self._ordered = True

    def _begin_switch(self) -> bool:
        """Take up an order, one at a time; whether the state changed."""
        busy = self._switching is not None and not self._switching.done()
        if not self._ordered or busy or self._session is None:
            return False
        self._ordered = False
        order, plan = read_order(self.folder)
        if self._switch is not None and self._switch.token == order.token:
            return False
        switching = Switching(self, self._session, order, self._tell_switch)
        self._switching = asyncio.create_task(switching.run(plan))
        return True

    def _tell_switch(self, switch: Switch) -> None:
        log.info("switch %s: %s %s", switch.token, switch.phase, switch.problem)
        self._switch = switch
        if switch.phase == "done":
            self._since_s = time.time()
        self._save()

    def lay_out_again(self, plan: Plan) -> LocalLayout:
        """Lay out another plan; ports are free ones. Raises ``InputError`` when this host cannot realise it."""
        layout = self._lay_out(plan, {instance.name: free_port() for instance in plan.instances})
        self._check_device(layout)
        return layout

    def engines_now(self) -> Sequence[Engine]:
        """Every engine."""
        return self.engines

    def add_engine(self, launch: Launch) -> Engine:
        """Start one more engine, held until the switch lets go of it. A name that is taken gets its number added."""
        assert self._session is not None
        taken = {engine.name for engine in self.engines}
        name = launch.name if launch.name not in taken else f"{launch.name}-n{self._numbers}"
        fresh = msgspec.structs.replace(launch, name=name)
        require_free(f"instance {name}", fresh.port, "base_port")
        engine = _Engine(fresh, self._numbers, self.folder, self.deployment, self._deadlines)
        engine.held = True
        self._numbers += 1
        self.engines.append(engine)
        self._spawn(engine)
        self._tasks.append(asyncio.create_task(watch_health(self._session, engine, answer_s=self._answer_s)))
        return engine

    async def until_healthy(self, engine: Engine) -> None:
        """Wait for an engine that was added. Raises ``BackendError`` when it does not come up."""
        assert isinstance(engine, _Engine)
        await self._until_healthy(engine)

    def remove_engine(self, engine: Engine) -> None:
        """Forget an engine that has ended."""
        if isinstance(engine, _Engine) and engine in self.engines:
            self.engines.remove(engine)

    def route_again(self) -> None:
        """Tell the gateway who takes calls; a full disk is said, and tried again."""
        try:
            self._route()
        except (ScepsyError, OSError) as error:
            log.error("%s", error)

    def gateway_url(self) -> str:
        """Where the gateway listens."""
        return self.gateway.url

    def stop_timeout_s(self) -> float:
        """What an engine gets to finish its calls."""
        return self.options.stop_timeout_s

    # --- stopping ------------------------------------------------------------------------------------------------

    def _stop_everything(self) -> None:
        """The gateway first (it drains), then engines, then daemons and groups."""
        limit_s = self.options.stop_timeout_s
        for units, timeout_s in (((self.gateway,), limit_s + 2), (self.engines, limit_s)):
            asked = [unit for unit in units if unit.process is not None and unit.code is None]
            for unit in asked:
                assert unit.process is not None
                unit.process.send_signal(signal.SIGTERM)
                unit.process.send_signal(signal.SIGCONT)
            deadline = time.monotonic() + timeout_s
            while any(unit.code is None for unit in asked) and time.monotonic() < deadline:
                time.sleep(0.02)
        stop_daemons(self.folder, self.layout.daemons)
        try:
            stop_marked(Which(deployment=self.deployment), 0.0)
        except BackendError as error:
            self.problem = str(error)
        for unit in (self.gateway, *self.engines):
            if unit.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    unit.process.wait(1)
            if unit.phase != "failed":
                unit.phase = "stopped"
        self.shares.remove()
        remove_groups(self.deployment)


def stop_daemons(folder: Path, daemons: Sequence[Daemon | str]) -> None:
    """Tell MPS daemons to quit."""
    for daemon in daemons:
        name = daemon if isinstance(daemon, str) else daemon.name
        env = {**os.environ, "CUDA_MPS_PIPE_DIRECTORY": str(folder / name / "pipe")}
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run([MPS], input=b"quit\n", env=env, capture_output=True, timeout=30, check=False)


def has_no_weights(folder: Path) -> bool:
    """Whether ``folder`` is a model folder without weights (``executor.random_models`` writes such)."""
    return folder.is_dir() and not any(
        path.suffix in (".safetensors", ".bin", ".pt", ".gguf", ".pth") for path in folder.iterdir()
    )


def left_options(folder: Path) -> LocalOptions:
    """The options that ``apply`` left for the supervisor. Raises ``InputError`` when they are damaged or missing."""
    path = folder / "options.json"
    try:
        data = read_own(path)
    except OSError as error:
        raise fail(path, f"cannot be read: {error.strerror} (apply again)") from error
    document = decode_json(path, data)
    try:
        return msgspec.convert(document, LocalOptions)
    except msgspec.ValidationError as error:
        raise fail(path, explain(error, document, LocalOptions)[1]) from error
    except (RecursionError, OverflowError) as error:
        raise fail(path, f"cannot be options: {error} (apply again)") from error
