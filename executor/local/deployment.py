"""What a user does with a deployment on this host: apply, status, delete."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil

from executor.local.engine_metrics import read_metrics
from executor.local.options import LocalOptions
from executor.local.shares import CoreShares
from executor.local.state import MARK, State, is_alive, load_state, save_state, stop_marked
from executor.local.supervisor import log_tail, stop_daemons
from scepsy.errors import BackendError, InputError
from scepsy.files.plan import save_plan
from scepsy.files.profiles import save_profiles
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet

Say = Callable[[str], None]


def default_folder(name: str = "default") -> Path:
    """Where the deployment called ``name`` keeps its state: ``$XDG_STATE_HOME/scepsy/local/<name>``."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "scepsy" / "local" / name


def apply(plan: Plan, profiles: ProfileSet, options: LocalOptions, folder: Path, say: Say = lambda line: None) -> State:
    """Realise ``plan`` in ``folder`` and wait until it serves; a deployment that was there before is stopped first.

    Raises ``InputError`` for a plan this host cannot realise, ``BackendError`` when an engine does not come up; nothing
    is left running then.
    """
    folder = folder.absolute()
    delete(folder, options.stop_timeout_s, say)
    folder.mkdir(parents=True, exist_ok=True)
    # Paths inside a plan are relative to its file, and the copy lies elsewhere; the supervisor needs none of them.
    targets = tuple(msgspec.structs.replace(target, trace="") for target in plan.targets)
    save_plan(folder / "plan.yaml", msgspec.structs.replace(plan, targets=targets, profiles=""))
    save_profiles(folder / "profiles.yaml", profiles)
    models = {llm: str(Path(path).absolute()) if Path(path).is_dir() else path for llm, path in options.models.items()}
    record = str(Path(options.record).absolute()) if options.record else ""
    absolute = msgspec.structs.replace(options, models=models, record=record)
    (folder / "options.json").write_bytes(msgspec.json.encode(absolute))
    deployment = secrets.token_hex(8)
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    with (folder / "supervisor.log").open("ab") as sink:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "executor.local", str(folder)],
            env={**os.environ, MARK: deployment, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        return _wait(folder, deployment, supervisor, say)
    except BaseException:
        if supervisor.poll() is None:
            supervisor.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                supervisor.wait(options.stop_timeout_s + 15)
        stop_marked(deployment, options.stop_timeout_s)
        raise


def _wait(folder: Path, deployment: str, supervisor: subprocess.Popen[bytes], say: Say) -> State:
    told: set[tuple[str, str]] = set()
    while True:
        ended = supervisor.poll() is not None
        state = load_state(folder)
        if state is not None and state.deployment == deployment:
            for child in state.children:
                if child.pid and (child.name, child.phase) not in told:
                    told.add((child.name, child.phase))
                    say(f"{child.name}: {child.phase}")
            if state.phase == "healthy":
                return state
            if state.phase == "failed":
                supervisor.wait(30)
                kind = InputError if not state.children and supervisor.returncode == InputError.exit_code else BackendError
                raise kind(state.problem)
        if ended:
            raise BackendError(f"the supervisor ended at once: {log_tail(folder / 'supervisor.log')}")
        time.sleep(0.2)


def status(folder: Path) -> dict[str, Any]:
    """What runs, as a JSON document, with the engines' own live metrics. Raises ``InputError`` when nothing was applied."""
    state = load_state(folder)
    if state is None:
        raise InputError(f"{folder}: no deployment: apply a plan first")
    supervised = is_alive(state.supervisor)
    instances = []
    for child in state.children:
        alive = is_alive(child)
        instances.append(
            {
                "instance": child.name,
                "llm": child.llm,
                "phase": child.phase if alive or not supervised else child.phase if child.phase != "healthy" else "restarting",
                "alive": alive,
                "pid": child.pid,
                "url": child.url,
                "restarts": child.restarts,
                "problem": child.problem,
                "metrics": read_metrics(child.url) if alive else None,
            }
        )
    return {
        "target": "local",
        "phase": state.phase if supervised or state.phase in ("stopped", "failed") else "unsupervised",
        "gateway": state.gateway.url if state.gateway and is_alive(state.gateway) else None,
        "instances": instances,
        "notes": list(state.notes),
        "problem": state.problem,
    }


def delete(folder: Path, timeout_s: float = 30.0, say: Say = lambda line: None) -> bool:
    """Stop everything the deployment in ``folder`` started, and nothing else; whether there was anything to stop.

    A supervisor that is alive does it itself, draining first. After its crash the state file and the mark in the processes'
    environments tell what is left.
    """
    state = load_state(folder)
    if state is None:
        return False
    stopped = False
    if is_alive(state.supervisor) and state.supervisor is not None:
        say("stopping")
        process = psutil.Process(state.supervisor.pid)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(2 * timeout_s + 30)
        stopped = True
    left = stop_marked(state.deployment, timeout_s)
    if left or not stopped:
        stop_daemons(folder, state.daemons)
        CoreShares(state.deployment).remove()
        save_state(folder, msgspec.structs.replace(state, phase="stopped"))
    return stopped or bool(left)
