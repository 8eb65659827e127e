"""What ``scepsy operate --advise`` costs the gateway: the latency that it adds with operate beside it and without, in turns.

``python -m experiments.checks.operate_load`` starts the gateway of ``gateway_load`` with recording on, and a deployment's state
folder that names its recording. Direct, through the gateway, and through the gateway while operate looks and plans: the three
take turns of seconds, so whatever else the machine does disturbs all of them. Operate is stopped (SIGSTOP) while it is not its
turn, and continued half a second before. The load is many times what the plan is for, so it plans again whenever it may.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import psutil
import typer

import scepsy
from executor.local.marks import new_deployment
from executor.local.options import LocalOptions
from executor.local.state import State, save_state
from executor.operate.journal import read
from executor.operate.operator import LOG
from experiments.checks import gateway_load
from experiments.checks.gateway_load import GatewayBench, Spent, new_loop, open_loop
from scepsy.files.plan import save_plan
from scepsy.files.profiles import save_profiles
from scepsy.files.trace import save_trace
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.workload import Call, Run, Trace, TraceSource

LLM = "llama-3.1-8b"
WARM_S = 0.5
STATE = Path("state") / "scepsy" / "local" / "default"
"""Of a deployment, below the folder of a check."""


def deployed(folder: Path, recording: Path) -> Path:
    """A plan file, and the state folder of its deployment; returns the plan file."""
    runs = tuple(
        Run(id=f"t{n}", workflow="w", calls=(Call(id="a", llm=LLM, input_tokens=9, output_tokens=16 + n % 3),))
        for n in range(60)
    )
    trace = Trace(source=TraceSource(origin="made up by a check"), runs=runs)
    cluster = scepsy.load_cluster(8)
    profiles = scepsy.profiles_of({LLM: LLM}, cluster)
    plan = scepsy.plan(trace, rate_per_s=5.0, cluster=cluster, profiles=profiles)
    return without_processes(folder, "w", trace, plan, profiles, recording)


def without_processes(folder: Path, name: str, trace: Trace, plan: Plan, profiles: ProfileSet, recording: Path) -> Path:
    """A plan file with its trace and profiles, and below ``state`` a deployment of it that runs nothing and records there."""
    save_trace(folder / f"{name}.jsonl", trace)
    save_profiles(folder / f"{name}.profiles.yaml", profiles)
    targets = tuple(msgspec.structs.replace(target, trace=f"{name}.jsonl") for target in plan.targets)
    path = folder / f"{name}.plan.yaml"
    save_plan(path, msgspec.structs.replace(plan, targets=targets, profiles=f"{name}.profiles.yaml"))
    state = folder / STATE
    state.mkdir(parents=True, mode=0o700)
    save_plan(state / "plan.yaml", msgspec.structs.replace(plan, targets=()))
    (state / "options.json").write_bytes(msgspec.json.encode(LocalOptions(record=str(recording))))
    (state / "options.json").chmod(0o600)
    save_state(state, State(deployment=new_deployment(state), phase="stopped"))
    return path


def operate(folder: Path, plan_file: Path, cores: set[int]) -> subprocess.Popen[bytes]:
    """``scepsy operate --advise`` that looks every second, ten times as often as by default."""
    words = ["operate", str(plan_file), "--advise", "--look", "1", "--run-idle", "2", "--port", "0"]
    return subprocess.Popen(
        [sys.executable, "-c", "from scepsy.cli import main; main()", *words],
        env={**os.environ, "XDG_STATE_HOME": str(folder / "state")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),  # the gateway's core too, as on a host that pins nothing
    )


def measure(seconds: float = 2.0, turns: int = 15, rate_per_s: float = 300.0) -> dict[str, Any]:
    """Latencies of all calls of each kind, and what else the machine did meanwhile."""
    gateway_load.RUNS = int(rate_per_s * seconds * (turns + 1))  # a run of its own for every call of a kind
    ways: dict[str, list[Any]] = {"direct": [], "gateway": [], "operated": []}
    with tempfile.TemporaryDirectory() as name, asyncio.Runner(loop_factory=new_loop) as runner:
        folder, cores = Path(name), os.sched_getaffinity(0)
        bench = GatewayBench(folder, runner)
        child = operate(folder, deployed(folder, folder / "calls.jsonl"), cores)
        try:
            runner.run(open_loop(bench.port, rate_per_s, 8.0, seed=1000))  # operate starts up meanwhile
            clock, busy_s = Spent.now(bench.pid), 0.0
            for turn in range(turns):
                for way in ways:
                    child.send_signal(signal.SIGCONT if way == "operated" else signal.SIGSTOP)
                    time.sleep(WARM_S)
                    before = psutil.Process(child.pid).cpu_times()
                    port = bench.stub_port if way == "direct" else bench.port
                    ways[way].append(runner.run(open_loop(port, rate_per_s, seconds, seed=turn)))
                    after = psutil.Process(child.pid).cpu_times()
                    busy_s += (after.user + after.system - before.user - before.system) if way == "operated" else 0.0
            spent = Spent.now(bench.pid).cores_since(clock)
        finally:
            child.send_signal(signal.SIGCONT)
            child.terminate()
            child.wait(60)
            bench.close()
        entries = read(folder / STATE / "operate" / LOG)
    return {
        "rate_per_s": rate_per_s,
        "calls": sum(map(len, ways["operated"])),
        **_added(ways),
        "operate_cores": busy_s / (seconds * turns),
        "planned_again": sum(entry.kind == "decided" for entry in entries),
        "others_cores": spent["others"],
        "stolen_cores": spent["stolen"],
        "load_average": os.getloadavg()[0],
    }


def _added(ways: dict[str, list[Any]]) -> dict[str, float]:
    """Added by the gateway without operate and with it, and by operate: the median over turns of paired differences."""
    found: dict[str, float] = {}
    for q in (50, 99):
        at = {way: np.array([np.percentile(part, q) for part in parts]) * 1e3 for way, parts in ways.items()}
        found[f"added_p{q}_ms"] = float(np.median(at["gateway"] - at["direct"]))
        found[f"added_with_operate_p{q}_ms"] = float(np.median(at["operated"] - at["direct"]))
        found[f"of_operate_p{q}_ms"] = float(np.median(at["operated"] - at["gateway"]))
    return found


def main(
    seconds: Annotated[float, typer.Option(help="Length of one turn.")] = 2.0,
    turns: Annotated[int, typer.Option(help="Turns of each kind.")] = 15,
    rate: Annotated[float, typer.Option(help="Calls per second.")] = 300.0,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measure on this machine."""
    found = measure(seconds, turns, rate)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print("\n".join(f"{name.replace('_', ' '):<32}{value:>12.4g}" for name, value in found.items()))


if __name__ == "__main__":
    typer.run(main)
