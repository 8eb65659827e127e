"""A real backend: deploy a plan on this host, replay the workload through its gateway, tear everything down."""

import asyncio
import contextlib
import importlib.metadata
import json
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from executor.local.deployment import Say, apply, delete, status
from executor.local.options import LocalOptions, device_of
from executor.local.state import load_state, marked
from executor.replay import replay
from executor.speed import probing, read_samples, slowdown
from scepsy.backend import Workload
from scepsy.plan import Plan
from scepsy.profile.model import ProfileSet
from scepsy.records import Records


def measure(
    plan: Plan,
    workload: Workload,
    *,
    profiles: ProfileSet,
    options: LocalOptions | None = None,
    folder: Path | None = None,
    say: Say = lambda line: None,
) -> Records:
    """Measure ``plan`` under ``workload``; bind the keyword arguments with ``partial`` to get a ``Backend``.

    ``folder`` keeps logs and state; without it they go to a temporary one. Whatever happens, nothing is left running.
    Raises what ``apply`` and ``replay`` raise.
    """
    options = options or LocalOptions()
    with tempfile.TemporaryDirectory(prefix="scepsy-") as temporary:
        where = folder or Path(temporary)
        try:
            state = apply(plan, profiles, options, where, say)
            assert state.gateway is not None
            return replay_deployed(plan, workload, state.gateway.url, profiles, where, cores=cores_of(plan, options))
        finally:
            delete(where, options.stop_timeout_s)


def cores_of(plan: Plan, options: LocalOptions) -> tuple[int, ...]:
    """The cores that the plan's instances run on; none on GPUs."""
    if device_of(options) != "cpu":
        return ()
    return tuple(sorted({gpu.index for instance in plan.instances for gpu in instance.gpus}))


def replay_deployed(
    plan: Plan, workload: Workload, url: str, profiles: ProfileSet, folder: Path, *, cores: Sequence[int] = ()
) -> Records:
    """Replay against what ``apply`` started; the records' meta holds the engines' own counters at the end.

    With ``cores``, their speed is probed meanwhile: meta gets the mean CPU seconds of the probe's work on each (``probe_s``),
    and how many cores other processes of this host kept busy (``others_cores``), which no probe takes out.
    """
    limits = {allocation.llm: profiles.llm(allocation.llm).context_limit for allocation in plan.allocations}
    speed_path, start_s = folder / "speed.jsonl", time.time()
    before = _cpu_s(folder) if cores else (0.0, 0.0)
    with probing(speed_path, cores) if cores else contextlib.nullcontext():
        records = asyncio.run(replay(url, workload, limits, meta={"planner": plan.planner, "machine": machine()}))
    instances = {row["instance"]: row["metrics"] for row in status(folder)["instances"]}
    meta = {**records.meta, "engines": json.dumps(instances)}
    if cores:
        after, gone_s = _cpu_s(folder), time.time() - start_s
        others_s = (after[0] - before[0]) - (after[1] - before[1])
        meta["others_cores"] = f"{max(0.0, others_s / gone_s):.2f}"
        samples = [sample for sample in read_samples(speed_path) if sample.at_s >= start_s]
        seen_s = {str(core): slowdown(samples, 1.0, [core]) for core in cores}
        meta["probe_s"] = json.dumps({core: seconds for core, seconds in seen_s.items() if seconds is not None})
    return Records(runs=records.runs, calls=records.calls, meta=meta)


def _cpu_s(folder: Path) -> tuple[float, float]:
    """CPU seconds so far of all processes of this host, and of the deployment in ``folder`` with this process."""
    times = psutil.cpu_times()
    busy_s = times.user + times.nice + times.system + times.irq + times.softirq
    state = load_state(folder)
    ours_s = 0.0
    ours = {process.pid: process for process in [psutil.Process(), *(marked(state.deployment) if state else [])]}
    for process in list(ours.values()):
        with contextlib.suppress(psutil.Error):
            # An engine's core process writes its title over its environment, and with it over the deployment's mark.
            ours |= {child.pid: child for child in process.children(recursive=True)}
    for process in ours.values():
        with contextlib.suppress(psutil.Error):
            used = process.cpu_times()
            ours_s += used.user + used.system
    return busy_s, ours_s


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
    version = importlib.metadata.version("scepsy")
    return f"{model}, Linux {platform.release()}, Python {platform.python_version()}, scepsy {version}"
