"""From one plan to another while the gateway serves: keep what both want, drain what is in the way, start, then drain the rest.

The command writes ``switch.json`` and the wanted plan into the state folder and sends the supervisor SIGHUP. The supervisor
does the rest, whatever becomes of the command. When something new does not start, what was started is ended, what had to go is
started again, and the old plan stays. A switch that needs other MPS daemons is refused before anything is touched.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import aiohttp
import msgspec

from executor.local.folder import read_own, write_own
from executor.local.health import outstanding
from executor.local.layout import Launch, LocalLayout
from executor.local.state import Switch, SwitchPhase
from executor.local.unit import Unit
from scepsy.errors import BackendError, InputError, ScepsyError
from scepsy.files.failure import decode_json, fail
from scepsy.files.plan import load_plan, save_plan
from scepsy.plans import Plan
from scepsy.value import Value

ORDER, WANTED = "switch.json", "wanted.plan.yaml"

POLL_S = 0.2


class Order(Value, frozen=True, kw_only=True):
    """What a command asks the supervisor for: bring up ``wanted.plan.yaml``."""

    token: str
    """Names this switch in the state."""


class Engine(Protocol):
    """One engine, as switching needs it."""

    launch: Launch
    held: bool
    """Whether switching looks after it, so that nobody else restarts it."""

    @property
    def unit(self) -> Unit:
        """Its process."""


class Yard(Protocol):
    """The supervisor, as switching needs it."""

    folder: Path
    plan: Plan
    layout: LocalLayout

    def lay_out_again(self, plan: Plan) -> LocalLayout:
        """Lay out another plan on this host, with ports of its own. Raises ``InputError`` when that cannot be."""

    def engines_now(self) -> Sequence[Engine]:
        """Every engine there is."""

    def add_engine(self, launch: Launch) -> Engine:
        """Start one more; raises ``BackendError``."""

    async def until_healthy(self, engine: Engine) -> None:
        """Wait; raises ``BackendError`` when it does not come up."""

    def remove_engine(self, engine: Engine) -> None:
        """Forget one that has ended."""

    def route_again(self) -> None:
        """Tell the gateway who takes calls."""

    def gateway_url(self) -> str:
        """Where the gateway listens."""

    def stop_timeout_s(self) -> float:
        """What an engine gets to finish its calls."""


def what_it_is(launch: Launch) -> tuple[str, int, tuple[int, ...], tuple[str, ...], tuple[tuple[str, str], ...]]:
    """What makes two engines interchangeable: everything but their name, port and wave."""
    arguments = list(launch.arguments)
    if "--port" in arguments:
        place = arguments.index("--port")
        del arguments[place : place + 2]
    return launch.llm, launch.share_pct, launch.devices, tuple(arguments), tuple(sorted(launch.env.items()))


def read_order(folder: Path) -> tuple[Order, Plan]:
    """What the last command asked for. Raises ``InputError`` for a damaged order."""
    path = folder / ORDER
    try:
        order = msgspec.convert(decode_json(path, read_own(path)), Order)
    except OSError as error:
        raise fail(path, f"cannot be read: {error.strerror} (switch again)") from error
    except msgspec.ValidationError as error:
        raise fail(path, f"{error} (switch again)") from error
    return order, load_plan(folder / WANTED)


def write_order(folder: Path, order: Order, plan: Plan) -> None:
    """Leave an order for the supervisor. The paths inside the plan are left out, since they are relative to its old place."""
    targets = tuple(msgspec.structs.replace(target, trace="") for target in plan.targets)
    save_plan(folder / WANTED, msgspec.structs.replace(plan, targets=targets, profiles=""))
    (folder / WANTED).chmod(0o600)
    write_own(folder / ORDER, msgspec.json.encode(order))


class Switching:
    """One switch, from order to outcome. ``tell`` is called with every phase."""

    def __init__(self, yard: Yard, session: aiohttp.ClientSession, order: Order, tell: Callable[[Switch], None]) -> None:
        self.yard, self.session, self.order, self._tell_state = yard, session, order, tell

    def _tell(self, phase: SwitchPhase, problem: str = "") -> None:
        self._tell_state(Switch(token=self.order.token, phase=phase, problem=problem))

    async def run(self, plan: Plan) -> None:
        """Do it. Nothing that fails in here ends what serves."""
        try:
            layout = self.yard.lay_out_again(plan)
            if layout.daemons or self.yard.layout.daemons:
                raise InputError(
                    "plan: shares of GPUs below 100 % need MPS daemons, which a switch cannot change: apply the plan"
                )
        except ScepsyError as error:
            self._tell("refused", str(error))
            return
        engines = list(self.yard.engines_now())
        arriving, staying = _match(layout.launches, engines)
        going = [engine for engine in engines if engine not in staying]
        needed = {device for launch in arriving for device in launch.devices}
        first = [engine for engine in going if needed & set(engine.launch.devices)]
        self._tell("draining")
        await self._take_out(first)
        self._tell("starting")
        started: list[Engine] = []
        try:
            for wave in sorted({launch.wave for launch in arriving}):
                mine = [self.yard.add_engine(launch) for launch in arriving if launch.wave == wave]
                started += mine
                await asyncio.gather(*(self.yard.until_healthy(engine) for engine in mine))
        except ScepsyError as error:
            await self._roll_back(started, first, str(error))
            return
        for engine in started:
            engine.held = False
        self.yard.route_again()
        self._tell("retiring")
        await self._take_out([engine for engine in going if engine not in first])
        self.yard.plan, self.yard.layout = plan, layout
        with contextlib.suppress(OSError, InputError):  # a full disk: the state tells what is served
            save_plan(self.yard.folder / "plan.yaml", load_plan(self.yard.folder / WANTED))
            (self.yard.folder / "plan.yaml").chmod(0o600)
        self._tell("done")

    async def _take_out(self, engines: Sequence[Engine]) -> None:
        """No new calls; end each when its calls have ended, or when it has had its time."""
        for engine in engines:
            engine.held = True
            engine.unit.phase = "unhealthy"  # the gateway is told not to use it
        if not engines:
            return
        self.yard.route_again()
        names = {engine.unit.name for engine in engines}
        # The gateway looks at its file twice a second; calls that it sends until then are waited for too.
        await asyncio.sleep(1.5)
        until = time.monotonic() + self.yard.stop_timeout_s()
        while time.monotonic() < until:
            left = await outstanding(self.session, self.yard.gateway_url())
            if not any(left.get(name) for name in names):
                break
            await asyncio.sleep(POLL_S)
        for engine in engines:
            await asyncio.to_thread(engine.unit.end, self.yard.stop_timeout_s())
            self.yard.remove_engine(engine)
        self.yard.route_again()

    async def _roll_back(self, started: Sequence[Engine], gone: Sequence[Engine], why: str) -> None:
        self._tell("rolling back", why)
        for engine in started:
            engine.held = True
            with contextlib.suppress(BackendError):
                await asyncio.to_thread(engine.unit.end, 0.0)
            self.yard.remove_engine(engine)
        problems = []
        back: list[Engine] = []
        for engine in gone:
            try:
                again = self.yard.add_engine(engine.launch)
                back.append(again)
                await self.yard.until_healthy(again)
            except ScepsyError as error:
                problems.append(str(error))
        for engine in back:
            engine.held = False  # what does not come up now is restarted like any engine that died
        self.yard.route_again()
        self._tell("rolled back", "; ".join([why, *(f"rolling back: {problem}" for problem in problems)]))


def _match(wanted: Sequence[Launch], engines: Sequence[Engine]) -> tuple[list[Launch], list[Engine]]:
    """(launches that nobody serves yet, engines that stay)."""
    left = list(engines)
    arriving, staying = [], []
    for launch in wanted:
        same = next((engine for engine in left if what_it_is(engine.launch) == what_it_is(launch)), None)
        if same is None:
            arriving.append(launch)
        else:
            left.remove(same)
            staying.append(same)
    return arriving, staying
