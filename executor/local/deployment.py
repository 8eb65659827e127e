"""What a user does with a deployment on this host: apply, status, delete."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from executor.local.engine_metrics import read_metrics
from executor.local.folder import COMMAND_LOCK, locked, make_own, open_own, require_own, write_own
from executor.local.identity import HeldProcess, hold, wait_gone
from executor.local.logs import log_tail
from executor.local.marks import (
    MARK,
    SUPERVISOR,
    Which,
    folder_key,
    new_deployment,
    put_limit,
    remove_groups,
    stop_marked,
)
from executor.local.options import LocalOptions
from executor.local.ports import is_free
from executor.local.state import (
    Child,
    Damaged,
    State,
    ask,
    folder_deployments,
    is_child,
    load_state,
    save_state,
    state_path,
)
from executor.local.supervisor import Supervisor, stop_daemons
from executor.local.switching import Order, write_order
from scepsy.errors import BackendError, InputError
from scepsy.files.plan import save_plan
from scepsy.files.profiles import save_profiles
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.progress import Notify, no_notice

STATUS_TIMEOUT_S = 5.0
"""What an engine or the gateway may take to answer ``status``."""


def default_folder(name: str = "default") -> Path:
    """Where the deployment called ``name`` keeps its state: ``$XDG_STATE_HOME/scepsy/local/<name>``.

    Raises ``InputError`` for a name that is no plain folder name.
    """
    if not name or name in (".", "..") or "/" in name or "\0" in name or len(os.fsencode(name)) > 200:
        raise InputError(f"--release is {name!r}: must be a plain name without slashes")
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "scepsy" / "local" / name


# --- apply -----------------------------------------------------------------------------------------------------------


def apply(plan: Plan, profiles: ProfileSet, options: LocalOptions, folder: Path, notify: Notify = no_notice) -> State:
    """Realise ``plan`` in ``folder`` and wait until it serves; a deployment that was there before is stopped first.

    Raises ``InputError`` for a plan this host cannot realise and for a state that cannot be trusted (what ran before goes
    on then), ``BackendError`` when another apply is at work in the folder or an engine does not come up; nothing is left
    running then.
    """
    folder = folder.absolute()
    make_own(folder)
    with locked(folder, COMMAND_LOCK, "another apply"):
        state = load_state(folder)
        deployment = new_deployment(folder)
        Supervisor(folder, plan, profiles, options, deployment)  # whatever is wrong with the plan is said before anything ends
        _require_gateway_port(options.gateway_port, state)
        _end(folder, state, options.stop_timeout_s, notify)
        _write_inputs(folder, plan, profiles, options)
        supervisor = _start_supervisor(folder, deployment)
        try:
            return _wait(folder, deployment, supervisor, notify)
        except BaseException:
            if supervisor.poll() is None:
                supervisor.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    supervisor.wait(options.stop_timeout_s + 15)
            stop_marked(Which(folder=folder), options.stop_timeout_s)
            raise


def _require_gateway_port(port: int, state: State | None) -> None:
    """Raise ``BackendError`` when the gateway's port is in use, unless by the deployment that is to be replaced."""
    own = state.gateway if state is not None else None
    if not port or is_free(port) or (own is not None and own.url.endswith(f":{port}") and is_child(own, _id(state))):
        return
    raise BackendError(
        f"gateway: port {port} is taken, by another deployment or another program: "
        "set gateway_port to a free port (or delete that deployment)"
    )


def _id(state: State | None) -> str:
    return state.deployment if state is not None else ""


def _write_inputs(folder: Path, plan: Plan, profiles: ProfileSet, options: LocalOptions) -> None:
    # Paths inside a plan are relative to its file, and the copy lies elsewhere; the supervisor needs none of them.
    targets = tuple(msgspec.structs.replace(target, trace="") for target in plan.targets)
    save_plan(folder / "plan.yaml", msgspec.structs.replace(plan, targets=targets, profiles=""))
    save_profiles(folder / "profiles.yaml", profiles)
    models = {llm: str(Path(path).absolute()) if Path(path).is_dir() else path for llm, path in options.models.items()}
    record = str(Path(options.record).absolute()) if options.record else ""
    absolute = msgspec.structs.replace(options, models=models, record=record)
    try:
        write_own(folder / "options.json", msgspec.json.encode(absolute))
        for name in ("plan.yaml", "profiles.yaml"):
            (folder / name).chmod(0o600)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror} (free some space, or set XDG_STATE_HOME)") from error


def _start_supervisor(folder: Path, deployment: str) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        sink = open_own(folder / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror} (free some space, or set XDG_STATE_HOME)") from error
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "executor.local", str(folder)],
            env={**os.environ, MARK: deployment, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            preexec_fn=lambda: put_limit(deployment, SUPERVISOR),
        )
    finally:
        os.close(sink)


def _wait(folder: Path, deployment: str, supervisor: subprocess.Popen[bytes], notify: Notify) -> State:
    told: set[tuple[str, str]] = set()
    while True:
        ended = supervisor.poll() is not None
        state = ask(deployment) or _of(folder, deployment)
        if state is not None:
            for child in state.children:
                if child.pid and (child.name, child.phase) not in told:
                    told.add((child.name, child.phase))
                    notify(f"{child.name}: {child.phase}")
            if state.phase == "healthy" and not ended:
                return state
            if state.phase in ("failed", "stopped"):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    supervisor.wait(30)
                kind = InputError if not state.children and supervisor.returncode == InputError.exit_code else BackendError
                raise kind(state.problem or "stopped while starting")
        if ended:
            raise BackendError(f"the supervisor ended at once: {log_tail(folder / 'supervisor.log')}")
        time.sleep(0.2)


def _of(folder: Path, deployment: str) -> State | None:
    """The state file, where it is this deployment's; one that is damaged meanwhile is written again by the supervisor."""
    with contextlib.suppress(InputError):
        state = load_state(folder)
        if state is not None and state.deployment == deployment:
            return state
    return None


# --- switch ----------------------------------------------------------------------------------------------------------


class SupervisorGone(BackendError):
    """The supervisor ended in the middle of a switch: nobody looks after the engines, and neither plan is served for sure."""


def switch(folder: Path, plan: Plan, notify: Notify = no_notice, token: str = "") -> State:
    """Bring a running deployment to another plan while its gateway serves (``switching``), and return when it is over.

    ``token`` names the switch in the state. A switch that another command ordered under the same token is only waited for.
    Raises ``InputError`` when nothing runs that could be switched or this host cannot realise the plan, ``BackendError``
    when the new plan did not come up: the message says that the old one serves again, unless it is a ``SupervisorGone``.
    """
    folder = folder.absolute()
    require_own(folder)
    with locked(folder, COMMAND_LOCK, "another switch"):
        state = load_state(folder)
        if state is None or not is_child(state.supervisor, state.deployment):
            raise InputError(f"{folder}: no supervisor runs there: apply the plan")
        assert state.supervisor is not None
        token = token or secrets.token_hex(6)
        known = ask(state.deployment) or state
        if known.switch is None or known.switch.token != token:
            write_order(folder, Order(token=token), plan)
            supervisor = hold(state.supervisor.pid, state.supervisor.born)
            if supervisor is None:
                raise InputError(f"{folder}: no supervisor runs there: apply the plan")
            supervisor.send(signal.SIGHUP)
            supervisor.close()
        return _wait_switch(folder, state, token, notify)


def _wait_switch(folder: Path, state: State, token: str, notify: Notify) -> State:
    told = ""
    while True:
        now = ask(state.deployment) or _of(folder, state.deployment)
        mine = now.switch if now is not None and now.switch is not None and now.switch.token == token else None
        if mine is not None and mine.phase != told:
            told = mine.phase
            notify(f"switch: {mine.phase}{f': {mine.problem}' if mine.problem else ''}")
        if mine is not None and mine.over:
            assert now is not None
            if mine.phase == "done":
                return now
            if mine.phase == "refused":
                raise InputError(mine.problem)
            raise BackendError(f"the new plan did not come up: {mine.problem}; the plan before it serves")
        if not is_child(state.supervisor, state.deployment):
            raise SupervisorGone(f"the supervisor ended meanwhile: {log_tail(folder / 'supervisor.log')}")
        time.sleep(0.2)


# --- status ----------------------------------------------------------------------------------------------------------


def status(folder: Path) -> dict[str, Any]:
    """What runs, as a JSON document, with the engines' own live metrics.

    ``phase`` is healthy only when everything is as planned: the supervisor lives and answers, every engine and the gateway
    are the processes that were started and answer /health now. Raises ``InputError`` when nothing was applied, and when the
    state file cannot be trusted and no supervisor is there to ask.
    """
    folder = folder.absolute()
    state, notes = _known(folder)
    supervised = is_child(state.supervisor, state.deployment)
    with ThreadPoolExecutor(max(1, min(32, len(state.children) + 1))) as pool:
        rows = pool.map(lambda child: _row(child, state.deployment, supervised), state.children)
        gateway = pool.submit(_gateway_problem, state.gateway, state.deployment).result()
        instances = list(rows)
    return {
        "target": "local",
        "phase": _phase(state, supervised, instances, gateway),
        "gateway": state.gateway.url if state.gateway and not gateway else None,
        "instances": instances,
        "notes": [*state.notes, *notes, *([gateway] if gateway and state.gateway else [])],
        "problem": state.problem,
    }


def _known(folder: Path) -> tuple[State, list[str]]:
    """The state as the supervisor tells it, else as its file has it; and what is to be said about that."""
    damage = ""
    try:
        state = load_state(folder)
    except Damaged as error:
        state, damage = None, str(error)
    if state is not None:
        told = ask(state.deployment)
        if told is None and is_child(state.supervisor, state.deployment):
            return state, ["the supervisor does not answer: this is what it wrote last"]
        return told or state, []
    left = folder_deployments(folder)
    for deployment in left:
        if (told := ask(deployment)) is not None:
            return told, [damage or f"{state_path(folder)} is lost: this is what the supervisor says; it writes it again"]
    if damage:
        raise Damaged(damage)
    if left:
        raise Damaged(
            f"{state_path(folder)}: is lost, and processes of this deployment run: `scepsy delete --target local` ends them "
            "(they are found by their marks), then apply again"
        )
    raise InputError(f"{folder}: no deployment: apply a plan first")


def _row(child: Child, deployment: str, supervised: bool) -> dict[str, Any]:
    alive = is_child(child, deployment)
    phase, problem = child.phase, child.problem
    if phase in ("healthy", "unhealthy") and not alive:
        phase, problem = ("restarting" if supervised else "failed"), problem or "its process is gone"
    elif phase == "healthy" and (problem := _answer_problem(child.url)):
        phase = "unhealthy"
    return {
        "instance": child.name,
        "llm": child.llm,
        "phase": phase,
        "alive": alive,
        "pid": child.pid,
        "url": child.url,
        "restarts": child.restarts,
        "problem": problem,
        "metrics": read_metrics(child.url) if alive and phase == "healthy" else None,
    }


def _answer_problem(url: str, accepted: tuple[int, ...] = (200,)) -> str:
    """Empty when ``url``/health answers as it should within ``STATUS_TIMEOUT_S``."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=STATUS_TIMEOUT_S) as answer:
            code = answer.status
    except urllib.error.HTTPError as error:
        code = error.code
    except (OSError, ValueError) as error:
        late = "timed out" in str(error)
        return f"/health did not answer within {STATUS_TIMEOUT_S:g} s" if late else f"/health cannot be reached ({error})"
    return "" if code in accepted else f"/health answered {code}"


def _gateway_problem(gateway: Child | None, deployment: str) -> str:
    if gateway is None:
        return "there is no gateway"
    if not is_child(gateway, deployment):
        return f"the gateway does not run{f': {gateway.problem}' if gateway.problem else ''}"
    problem = gateway.problem or _answer_problem(gateway.url, (200, 503))
    return f"the gateway: {problem}" if problem else ""


def _phase(state: State, supervised: bool, instances: list[dict[str, Any]], gateway: str) -> str:
    if state.phase in ("stopped", "failed"):
        return state.phase
    if not supervised:
        return "unsupervised"
    if state.phase != "healthy":
        return state.phase
    return "healthy" if not gateway and all(each["phase"] == "healthy" for each in instances) else "degraded"


# --- delete ----------------------------------------------------------------------------------------------------------


def delete(folder: Path, timeout_s: float = 30.0, notify: Notify = no_notice, *, force: bool = False) -> bool:
    """Stop everything that deployments in ``folder`` started, and nothing else; whether there was anything to stop.

    A supervisor that is alive does it itself, draining first. What is left, or all of it when the supervisor or the state
    file is gone, is found by the processes' marks. An apply at work is stopped too. Raises ``InputError`` for a state file
    that cannot be trusted unless ``force``: then the marks alone decide.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        return bool(_end(folder, None, timeout_s, notify))  # the whole folder is lost: the marks still tell
    require_own(folder)
    state = _trusted(folder, force)
    with _command(folder, timeout_s):
        state = _trusted(folder, force)
        stopped = _end(folder, state, timeout_s, notify)
        if state is not None and state.phase != "stopped":
            _save_stopped(folder, state)
        elif state is None and state_path(folder).is_symlink() | state_path(folder).exists():
            state_path(folder).unlink()  # it was damaged, and nothing runs any more
        return stopped


def _trusted(folder: Path, force: bool) -> State | None:
    try:
        return load_state(folder)
    except Damaged:
        if force:
            return None
        raise


def _save_stopped(folder: Path, state: State) -> None:
    current = _of(folder, state.deployment) or state
    if current.phase != "stopped":
        with contextlib.suppress(OSError):  # a full disk: everything has ended, and status says so by looking
            save_state(folder, msgspec.structs.replace(current, phase="stopped"))


@contextlib.contextmanager
def _command(folder: Path, timeout_s: float) -> Iterator[None]:
    """The folder's command lock. An apply that holds it is stopped by stopping its supervisor, and waited for."""
    lock = contextlib.ExitStack()
    with lock:
        try:
            lock.enter_context(locked(folder, COMMAND_LOCK, "a delete"))
        except BackendError:
            for supervisor in _supervisors(folder):
                supervisor.send(signal.SIGTERM)
                supervisor.close()
            lock.enter_context(locked(folder, COMMAND_LOCK, "a delete", wait_s=2 * timeout_s + 30))
        yield


def _supervisors(folder: Path) -> list[HeldProcess]:
    """The supervisors of a folder's deployments, by their marks."""
    found = []
    for deployment in folder_deployments(folder):
        state = ask(deployment) or _of(folder, deployment)
        if state is not None and is_child(state.supervisor, deployment):
            assert state.supervisor is not None
            if (held := hold(state.supervisor.pid, state.supervisor.born)) is not None:
                found.append(held)
    return found


def _end(folder: Path, state: State | None, timeout_s: float, notify: Notify) -> bool:
    """End what runs of any deployment of this folder: by its supervisor where there is one, then by the marks."""
    stopped = False
    for supervisor in _supervisors(folder):
        notify("stopping")
        supervisor.send(signal.SIGTERM)
        supervisor.send(signal.SIGCONT)
        wait_gone([supervisor], 2 * timeout_s + 30)
        supervisor.close()
        stopped = True
    left = stop_marked(Which(folder=folder), timeout_s)
    if state is not None and left:
        stop_daemons(folder, state.daemons)
    remove_groups(f"{folder_key(folder)}-")
    return stopped or bool(left)
