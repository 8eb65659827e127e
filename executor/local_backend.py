"""A real backend: deploy a plan on this host, replay the workload through its gateway, tear everything down."""

import asyncio
import json
import platform
import tempfile
import time
from pathlib import Path

import psutil

from executor.cpu_meter import Meter, cpu_s_of, encode
from executor.local.deployment import apply, delete, status
from executor.local.options import LocalOptions, device_of
from executor.local.state import load_state, marked
from executor.replay import replay
from scepsy.backend import Workload
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.progress import Notify, no_notice
from scepsy.records import Records
from scepsy.version import __version__


def measure(
    plan: Plan,
    workload: Workload,
    *,
    profiles: ProfileSet,
    options: LocalOptions | None = None,
    folder: Path | None = None,
    notify: Notify = no_notice,
) -> Records:
    """Measure ``plan`` under ``workload``; bind the keyword arguments with ``partial`` to get a ``Backend``.

    ``folder`` keeps logs and state; without it they go to a temporary one. Whatever happens, nothing is left running.
    Raises what ``apply`` and ``replay`` raise.
    """
    options = options or LocalOptions()
    with tempfile.TemporaryDirectory(prefix="scepsy-") as temporary:
        where = folder or Path(temporary)
        try:
            state = apply(plan, profiles, options, where, notify)
            assert state.gateway is not None
            return replay_deployed(plan, workload, state.gateway.url, profiles, where, on_cores=device_of(options) == "cpu")
        finally:
            delete(where, options.stop_timeout_s)


def replay_deployed(
    plan: Plan, workload: Workload, url: str, profiles: ProfileSet, folder: Path, *, on_cores: bool = False
) -> Records:
    """Replay against what ``apply`` started; the records' meta holds the engines' own counters at the end.

    ``on_cores``: meta also says what each engine did and the CPU time it took (``work``), which tells how fast the machine
    was, and how many cores other processes of this host kept busy (``others_cores``), for which nothing corrects.
    """
    limits = {allocation.llm: profiles.llm(allocation.llm).context_limit for allocation in plan.allocations}
    state = load_state(folder)
    meter = Meter(state.children if state is not None and on_cores else ())
    before, start_s = _cpu_s(folder) if on_cores else (0.0, 0.0), time.time()
    meter.start()
    records = asyncio.run(replay(url, workload, limits, meta={"planner": plan.planner, "machine": machine()}))
    meta = dict(records.meta)
    if on_cores:
        after, gone_s = _cpu_s(folder), time.time() - start_s
        others_s = (after[0] - before[0]) - (after[1] - before[1])
        meta |= {"work": encode(meter.read()), "others_cores": f"{max(0.0, others_s / gone_s):.2f}"}
    instances = {row["instance"]: row["metrics"] for row in status(folder)["instances"]}
    meta["engines"] = json.dumps(instances)
    return Records(runs=records.runs, calls=records.calls, meta=meta)


def _cpu_s(folder: Path) -> tuple[float, float]:
    """CPU seconds so far of all processes of this host, and of the deployment in ``folder`` with this process."""
    times = psutil.cpu_times()
    busy_s = times.user + times.nice + times.system + times.irq + times.softirq
    state = load_state(folder)
    return busy_s, cpu_s_of([psutil.Process(), *(marked(state.deployment) if state else [])])


def machine() -> str:
    """This host in a few words."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{model}, Linux {platform.release()}, Python {platform.python_version()}, scepsy {__version__}"
