"""What can go wrong on one host, done to real processes: killed, stopped, lost, damaged, planted, full.

``python -m pytest tests/executor/test_host_faults.py`` prints the table of faults (tried, survived) that docs/faults.md keeps.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import msgspec
import pytest

from executor.local import identity
from executor.local.deployment import apply, delete, status
from executor.local.identity import born, hold, stop_all
from executor.local.marks import MARK, new_deployment, put_limit
from executor.local.ports import free_port
from executor.local.state import Child, Damaged, State, load_state, save_state, state_path
from scepsy.errors import BackendError, InputError
from scepsy.files.plan import save_plan
from scepsy.files.profiles import save_profiles
from tests.executor.local_deployments import PLAN, PROFILES, alive, left, options, program, scepsy


@pytest.fixture
def folder(tmp_path):
    where = tmp_path / "deployment"
    yield where
    delete(where, 3, force=True)
    assert left(where) == []


@pytest.fixture
def stranger():
    """A process of somebody else, which must survive everything."""
    child = subprocess.Popen(["sleep", "300"], start_new_session=True)
    yield child
    assert child.poll() is None, "a process that was not ours was stopped"
    child.kill()
    child.wait()


@pytest.fixture
def fault(record_property):
    return lambda what: record_property("fault", what)


def call(state, **fields):
    """One completion through the deployment's gateway."""
    body = {"model": "chat", "prompt": "x", "max_tokens": 2, **fields}
    request = urllib.request.Request(
        state.gateway.url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def lone_supervisor(state):
    """Kill the supervisor, so that nothing repairs what a test does next."""
    os.kill(state.supervisor.pid, signal.SIGKILL)
    time.sleep(0.2)


# --- whose process? --------------------------------------------------------------------------------------------------


def test_a_reused_process_id_is_never_killed(folder, tmp_path, stranger, fault):
    """The state names a stranger, even with its true start time: it does not carry the mark."""
    fault("state file names a stranger's process (id reused)")
    state = apply(PLAN, PROFILES, options(program(tmp_path)), folder)
    lone_supervisor(state)
    theirs = Child(name="chat-0", pid=stranger.pid, born=born(stranger.pid), phase="healthy", url=state.children[0].url)
    save_state(folder, msgspec.structs.replace(state, children=(theirs,), gateway=theirs, supervisor=theirs))
    assert status(folder)["phase"] == "unsupervised"
    assert not status(folder)["instances"][0]["alive"], "id and start time agree, the mark does not"
    assert delete(folder, 3)
    assert left(folder) == []


def test_a_stranger_that_takes_the_id_while_it_is_signalled_is_not_hit(stranger, fault):
    """Held processes are signalled by descriptor: the id may belong to whoever it likes by then."""
    fault("process id passes to a stranger between look and signal")
    ours = subprocess.Popen(["sleep", "300"])
    held = hold(ours.pid)
    ours.kill()
    ours.wait()
    held.pid = stranger.pid  # what a reused id looks like
    assert stop_all([held], 0.2) == []
    held.close()
    assert hold(stranger.pid, born(os.getpid())) is None, "another start time: another process"


def test_marks_of_another_folder_are_not_ours(folder, tmp_path, fault):
    fault("another deployment's processes beside ours")
    others = new_deployment(tmp_path / "other")
    child = subprocess.Popen(
        ["sleep", "300"], env={**os.environ, MARK: others}, preexec_fn=lambda: put_limit(others, 2), start_new_session=True
    )
    try:
        apply(PLAN, PROFILES, options(program(tmp_path)), folder)
        assert delete(folder, 3)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


ESCAPES = {
    "clears its environment": "env -i sleep 1000 &",
    "makes its own session": "setsid sleep 1000 &",
    "both": "env -i setsid sleep 1000 &",
    "both, twice, its parent gone": "(env -i setsid sh -c 'setsid sleep 1000 & exit 0' &)",
}


SURVIVORS = ("all alive", "supervisor dead", "all dead but the child", "state lost too")
QUICK_ESCAPES = {("both", "supervisor dead"), ("both, twice, its parent gone", "state lost too")}


def quick_or_slow(cases, quick):
    """Some cases in every run, all of them in the slow one: each starts and ends processes for some seconds."""
    whole = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [
        pytest.param(*each, marks=[] if case in quick else [pytest.mark.slow]) for case, each in zip(cases, whole, strict=True)
    ]


@pytest.mark.parametrize(("way", "survivor"), quick_or_slow([(w, s) for w in ESCAPES for s in SURVIVORS], QUICK_ESCAPES))
def test_children_that_escape_end_with_the_deployment(folder, tmp_path, way, survivor, stranger, fault):
    fault("engine's child clears its environment, makes its own session or loses its parents")
    # A number of seconds of its own, by which this test knows the child.
    naps = str(100_000 + int.from_bytes(os.urandom(3)))
    state = apply(PLAN, PROFILES, options(program(tmp_path, ESCAPES[way].replace("1000", naps))), folder)
    asleep = _naps(naps)
    assert len(asleep) == 2
    if survivor != "all alive":
        lone_supervisor(state)
    if survivor in ("all dead but the child", "state lost too"):
        for child in (*state.children, state.gateway):
            os.kill(child.pid, signal.SIGKILL)
    if survivor == "state lost too":
        shutil.rmtree(folder)
    assert delete(folder, 3)
    assert _naps(naps) == [], "it holds the device"


def _naps(seconds):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().split(b"\0")[:2] == [b"sleep", seconds.encode()]:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_an_engine_that_dies_takes_its_escaped_children_with_it(folder, tmp_path, eventually, fault):
    fault("engine dies, its child in a session of its own stays")
    naps = str(100_000 + int.from_bytes(os.urandom(3)))
    state = apply(PLAN, PROFILES, options(program(tmp_path, f"env -i setsid sleep {naps} &")), folder)
    before = set(_naps(naps))
    os.kill(state.children[0].pid, signal.SIGKILL)
    eventually(lambda: status(folder)["phase"] == "healthy" and status(folder)["instances"][0]["restarts"] == 1, 20, "restart")
    now = set(_naps(naps))
    assert len(now) == 2, "one per engine, not one more for every restart"
    assert len(now & before) == 1, "the other engine's child was left alone"


def test_a_set_clock_changes_nothing(fault):
    """Start times are ticks since boot; the wall clock is not asked."""
    fault("the clock is set by a year")
    source = Path(identity.__file__).read_text()
    assert "time.time" not in source
    mine = born(os.getpid())
    code = "import sys; from executor.local.identity import born; print(born(int(sys.argv[1])))"
    fake = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", code, str(os.getpid())]
    if shutil.which("unshare"):  # a time namespace moves what the kernel tells of boot and start times for its processes
        moved = ["unshare", "--time", "--boottime", "31536000", "--fork", *command]
        done = subprocess.run(moved, env=fake, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            assert done.stdout.strip().split("/")[0] == mine.split("/")[0]
    assert subprocess.run(command, env=fake, capture_output=True, text=True, check=True).stdout.strip() == mine


# --- hung, sick, taken -----------------------------------------------------------------------------------------------

QUICK = {"eject_s": 1.0, "hung_s": 4.0}


def test_a_stopped_engine_is_ejected_restarted_and_told(folder, tmp_path, eventually, fault):
    fault("engine is stopped (SIGSTOP)")
    state = apply(PLAN, PROFILES, options(program(tmp_path), **QUICK), folder)
    os.kill(state.children[0].pid, signal.SIGSTOP)
    eventually(lambda: status(folder)["instances"][0]["phase"] == "unhealthy", 8, "telling")
    assert status(folder)["phase"] == "degraded"
    time.sleep(1.5)  # the gateway looks at its file once a second
    for _ in range(6):
        started = time.monotonic()
        call(state)
        assert time.monotonic() - started < 2, "no call waits for the stopped engine"
    eventually(lambda: status(folder)["phase"] == "healthy", 20, "the recovery")
    row = status(folder)["instances"][0]
    assert (row["restarts"], row["pid"] != state.children[0].pid) == (1, True)


def test_an_engine_that_refuses_for_good_is_told_and_given_up(folder, tmp_path, eventually, fault):
    fault("engine's /health is 503 for good")
    sick = tmp_path / "sick"
    plan = program(tmp_path, f"STUB_SICK={sick}; export STUB_SICK")
    apply(PLAN, PROFILES, options(plan, restarts=1, eject_s=0.5, hung_s=1.5, start_timeout_s=15), folder)
    sick.touch()
    eventually(lambda: status(folder)["phase"] == "degraded", 8, "telling")
    assert "503" in status(folder)["instances"][0]["problem"]
    eventually(lambda: {row["phase"] for row in status(folder)["instances"]} == {"failed"}, 120, "giving up")
    assert {row["restarts"] for row in status(folder)["instances"]} == {1}, "restarted with a pause, then given up"


def test_an_engine_that_computes_nothing_is_restarted(folder, tmp_path, eventually, fault):
    """Its server answers /health, its core does nothing: calls in hand and counters that do not move."""
    fault("engine answers /health and computes nothing")
    state = apply(PLAN, PROFILES, options(program(tmp_path), stall_s=2.0), folder)

    def hang():
        with pytest.raises(OSError):
            call(state, stub={"delay_s": 50})

    caller = threading.Thread(target=hang, daemon=True)
    caller.start()
    eventually(lambda: sum(row["restarts"] for row in status(folder)["instances"]) == 1, 20, "the restart")
    caller.join(20)
    assert not caller.is_alive(), "its caller was told"


def test_an_idle_engine_is_not_taken_for_hung(folder, tmp_path):
    apply(PLAN, PROFILES, options(program(tmp_path), stall_s=0.5, hung_s=2.0, eject_s=1.0), folder)
    time.sleep(4)
    assert [row["restarts"] for row in status(folder)["instances"]] == [0, 0]
    assert status(folder)["phase"] == "healthy"


def test_a_stopped_gateway_is_restarted(folder, tmp_path, eventually, fault):
    fault("gateway is stopped (SIGSTOP)")
    state = apply(PLAN, PROFILES, options(program(tmp_path), **QUICK), folder)
    os.kill(state.gateway.pid, signal.SIGSTOP)
    eventually(lambda: load_state(folder).gateway.pid != state.gateway.pid and status(folder)["phase"] == "healthy", 25, "it")
    assert call(state)["usage"]


def test_a_stopped_supervisor_is_told_and_deleted(folder, tmp_path, fault):
    fault("supervisor is stopped (SIGSTOP)")
    state = apply(PLAN, PROFILES, options(program(tmp_path)), folder)
    os.kill(state.supervisor.pid, signal.SIGSTOP)
    assert "does not answer" in " ".join(status(folder)["notes"])
    assert delete(folder, 3)


def test_a_taken_gateway_port_is_refused(folder, tmp_path, fault):
    fault("second deployment with the first's gateway port")
    port = free_port()
    first = apply(PLAN, PROFILES, options(program(tmp_path), gateway_port=port), folder)
    second = tmp_path / "second"
    with pytest.raises(BackendError, match=f"gateway: port {port} is taken"):
        apply(PLAN, PROFILES, options(program(tmp_path), gateway_port=port), second)
    assert left(second) == []
    assert status(folder)["phase"] == "healthy"
    again = apply(PLAN, PROFILES, options(program(tmp_path), gateway_port=port), folder)
    assert again.gateway.url == first.gateway.url, "the same deployment keeps its port"


def test_a_port_that_another_takes_while_the_gateway_is_away_is_told(folder, tmp_path, eventually, fault):
    """Whoever answers there is not our gateway, whatever it answers."""
    fault("another program takes the gateway's port while it restarts")
    port = free_port()
    state = apply(PLAN, PROFILES, options(program(tmp_path), gateway_port=port), folder)
    os.kill(state.gateway.pid, signal.SIGKILL)
    command = [sys.executable, str(Path(__file__).with_name("stub_engine.py")), "--port", str(port)]
    impostor = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert impostor.stdout.readline()
        eventually(lambda: status(folder)["gateway"] is None and status(folder)["phase"] == "degraded", 20, "telling")
    finally:
        impostor.kill()
        impostor.wait()
        impostor.stdout.close()
    eventually(lambda: status(folder)["phase"] == "healthy", 40, "the recovery")


# --- state: lost, damaged, planted -----------------------------------------------------------------------------------


def _truncate(path):
    path.write_bytes(path.read_bytes()[:100])


def _other_version(path):
    path.write_text(path.read_text().replace('"version": 2', '"version": 9'))


def _foreign(path):
    path.write_text(path.read_text().replace('"deployment": "', '"deployment": "0'))


def _another_users(path):
    if os.getuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, 12345)


def _link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


DAMAGE = {
    "truncated": _truncate,
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(b"\0" * 500),
    "not JSON": lambda path: path.write_text("hello"),
    "another kind": lambda path: path.write_text('{"format": "scepsy.plan", "version": 1}'),
    "another version": _other_version,
    "another folder's": _foreign,
    "another user's": _another_users,
    "a link": _link,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "deep": lambda path: path.write_bytes(b"[" * 100_000),
}


@pytest.mark.parametrize("kind", quick_or_slow(DAMAGE, {"truncated", "another folder's"}))
def test_a_damaged_state_says_how_to_recover_and_force_ends_all_of_it(folder, tmp_path, kind, stranger, fault):
    fault("state file is damaged, another version's, another folder's or another user's")
    state = apply(PLAN, PROFILES, options(program(tmp_path)), folder)
    lone_supervisor(state)
    DAMAGE[kind](state_path(folder))
    for attempt in (
        lambda: status(folder),
        lambda: delete(folder, 3),
        lambda: apply(PLAN, PROFILES, options(program(tmp_path)), folder),
    ):
        with pytest.raises(Damaged, match=r"state.json: .*--force") as error:
            attempt()
        assert "\n" not in str(error.value)
    assert all(alive(child.pid) for child in state.children), "engines serve on until somebody decides"
    if kind == "a folder":
        state_path(folder).rmdir()
    assert delete(folder, 3, force=True)
    assert left(folder) == []
    assert apply(PLAN, PROFILES, options(program(tmp_path)), folder).phase == "healthy"


REPAIRED = ("truncated", "empty", "another version", "a link", "lost")


@pytest.mark.parametrize("kind", quick_or_slow(REPAIRED, {"empty", "lost"}))
def test_a_supervisor_repairs_its_state(folder, tmp_path, kind, eventually, fault):
    fault("state file is lost or damaged while the supervisor lives")
    state = apply(PLAN, PROFILES, options(program(tmp_path)), folder)
    if kind == "lost":
        shutil.rmtree(folder)
    else:
        DAMAGE[kind](state_path(folder))
    assert status(folder)["phase"] == "healthy", "the supervisor itself is asked"

    def repaired():
        try:
            return load_state(folder).deployment == state.deployment
        except (Damaged, AttributeError):
            return False

    eventually(repaired, 5, "the repair")


@pytest.mark.parametrize("what", ["the file", "the folder"])
def test_after_a_lost_state_delete_and_apply_still_find_all(folder, tmp_path, what, stranger, fault):
    fault("state file or whole folder lost, supervisor dead")
    state = apply(PLAN, PROFILES, options(program(tmp_path)), folder)
    lone_supervisor(state)
    if what == "the folder":
        shutil.rmtree(folder)
    else:
        state_path(folder).unlink()
    with pytest.raises(Damaged, match="is lost, and processes of this deployment run: `scepsy delete"):
        status(folder)
    again = apply(PLAN, PROFILES, options(program(tmp_path)), folder)
    assert not any(alive(child.pid) for child in state.children)
    assert again.phase == "healthy"


PLANTED = ["state.json", "options.json", "lock", "command.lock", "supervisor.log", "gateway.log", "chat-0.log", "plan.yaml"]


@pytest.mark.parametrize(
    ("name", "kind"),
    quick_or_slow([(n, k) for n in PLANTED for k in ("symbolic", "hard")], {("lock", "symbolic"), ("chat-0.log", "hard")}),
)
def test_planted_links_are_never_followed(folder, tmp_path, name, kind, fault):
    fault("a link planted in the state folder")
    target = tmp_path / "precious"
    target.write_text("precious")
    folder.mkdir(mode=0o700)
    if kind == "symbolic":
        (folder / name).symlink_to(target)
    else:
        os.link(target, folder / name)
    told = "a link"
    try:
        apply(PLAN, PROFILES, options(program(tmp_path)), folder)
    except (InputError, BackendError) as error:
        told = str(error)
    assert "link" in told
    assert "\n" not in told
    assert target.read_text() == "precious"
    (folder / name).unlink(missing_ok=True)


def test_a_folder_of_others_is_refused(tmp_path, fault):
    fault("state folder is a link, another user's, or open to others")
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    cases = {"link": "symbolic link", "open": "others may write"}
    if os.getuid() == 0:
        (tmp_path / "theirs").mkdir()
        os.chown(tmp_path / "theirs", 12345, 12345)
        cases["theirs"] = "belongs to user 12345"
    for name, reason in cases.items():
        with pytest.raises(InputError, match=reason):
            apply(PLAN, PROFILES, options(program(tmp_path)), tmp_path / name)
    assert list(real.iterdir()) == []


def test_what_is_written_is_private(folder, tmp_path):
    apply(PLAN, PROFILES, options(program(tmp_path)), folder)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file()}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert set(modes.values()) == {0o600}, modes


# --- two at once, full disk ------------------------------------------------------------------------------------------


@pytest.fixture
def plan_file(tmp_path):
    save_profiles(tmp_path / "p.yaml", PROFILES)
    save_plan(tmp_path / "x.plan.yaml", msgspec.structs.replace(PLAN, profiles="p.yaml"))
    local = "format: scepsy.local\nversion: 1\ndevice: cpu\nenforce_shares: false\nstop_timeout_s: 3\n"
    local += f"python: {program(tmp_path)}\n"
    (tmp_path / "local.yaml").write_text(local)
    return tmp_path / "x.plan.yaml"


@pytest.mark.parametrize("attempts", quick_or_slow([1, 5], {1}))
def test_of_two_applies_at_once_one_is_refused(tmp_path, plan_file, attempts, fault):
    fault(f"two applies at once ×{attempts}")
    for attempt in range(attempts):
        env = {"XDG_STATE_HOME": str(tmp_path / f"state{attempt}")}
        folder = tmp_path / f"state{attempt}" / "scepsy" / "local" / "default"
        command = ["apply", plan_file, "--target", "local", "--no-validate", "--json"]
        both = [scepsy(*command, env=env) for _ in range(2)]
        told = [process.communicate(timeout=90) for process in both]
        try:
            codes = sorted(process.returncode for process in both)
            assert codes == [0, 4], told
            winner = next(out for process, (out, _) in zip(both, told, strict=True) if process.returncode == 0)
            loser = next(err for process, (_, err) in zip(both, told, strict=True) if process.returncode == 4)
            assert loser.count("\n") == 1, loser
            assert "is at work there" in loser
            state = load_state(folder)
            assert {row["pid"] for row in json.loads(winner)["instances"]} == {child.pid for child in state.children}
        finally:
            delete(folder, 3, force=True)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


@pytest.mark.parametrize("number", quick_or_slow(SIGNALS, {signal.SIGTERM}))
def test_an_apply_that_is_interrupted_leaves_nothing_or_can_be_ended(tmp_path, plan_file, number, fault, eventually):
    fault("apply is interrupted, terminated or killed while engines start")
    local = plan_file.with_name("local.yaml")
    sick = tmp_path / "sick"
    sick.touch()
    program(tmp_path, f"STUB_SICK={sick}; export STUB_SICK")  # never healthy
    assert local.exists()
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    folder = tmp_path / "state" / "scepsy" / "local" / "default"
    process = scepsy("apply", plan_file, "--target", "local", "--no-validate", env=env)
    eventually(lambda: len(left(folder)) >= 3, 30, "the start")
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert "Traceback" not in told
    if number == signal.SIGKILL:
        assert delete(folder, 3)
    else:
        assert process.returncode == 128 + number
    assert left(folder) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    where = tmp_path / "disk"
    where.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(where)], capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here (needs root)")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def fill(disk):
    with (disk / "ballast").open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            return


@pytest.mark.parametrize("victim", ["engine", "gateway", "none"])
def test_a_full_disk_ends_nothing(small_disk, tmp_path, victim, eventually, fault):
    fault("disk under the state folder is full while an engine or the gateway dies")
    folder = small_disk / "deployment"
    state = apply(PLAN, PROFILES, options(program(tmp_path)), folder)
    try:
        fill(small_disk)
        if victim != "none":
            os.kill({"engine": state.children[0], "gateway": state.gateway}[victim].pid, signal.SIGKILL)
            eventually(lambda: status(folder)["phase"] == "degraded", 10, "noticing")
            eventually(lambda: status(folder)["phase"] == "healthy", 30, "the restart")
            assert "cannot be saved (No space left on device)" in " ".join(status(folder)["notes"])
        assert call(state)["usage"]
        assert alive(state.children[1].pid)
        (small_disk / "ballast").unlink()
        eventually(lambda: not status(folder)["notes"], 10, "saving again")
        assert [child.restarts for child in load_state(folder).children] == [int(victim == "engine"), 0]
    finally:
        delete(folder, 3)
    assert left(folder) == []


def test_a_disk_that_is_full_beforehand_is_bad_input(small_disk, tmp_path, fault):
    fault("disk under the state folder is full before apply")
    fill(small_disk)
    with pytest.raises(InputError, match="No space left on device"):
        apply(PLAN, PROFILES, options(program(tmp_path)), small_disk / "deployment")
    assert left(small_disk / "deployment") == []
    (small_disk / "ballast").unlink()


# --- options ---------------------------------------------------------------------------------------------------------


def test_the_start_timeout_of_the_options_file_is_used(tmp_path, plan_file, fault):
    fault("start_timeout_s of the options file")
    sick = tmp_path / "sick"
    sick.touch()
    program(tmp_path, f"STUB_SICK={sick}; export STUB_SICK")
    local = plan_file.with_name("local.yaml")
    local.write_text(local.read_text() + "start_timeout_s: 1.5\n")
    process = scepsy("apply", plan_file, "--target", "local", "--no-validate", env={"XDG_STATE_HOME": str(tmp_path / "state")})
    _, told = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "was not healthy within 1.5 s" in told


def test_status_exits_1_unless_all_is_well(tmp_path, plan_file, eventually):
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    folder = tmp_path / "state" / "scepsy" / "local" / "default"

    def code(*arguments):
        process = scepsy(*arguments, "--target", "local", env=env)
        process.communicate(timeout=60)
        return process.returncode

    try:
        assert code("apply", plan_file, "--no-validate") == 0
        assert code("status") == 0
        lone_supervisor(load_state(folder))
        assert code("status") == 1, "nobody restarts what dies now"
    finally:
        assert code("delete") == 0
    assert code("status") == 1


def test_a_state_of_another_boot_names_nothing(folder, fault):
    fault("state file of before a reboot")
    folder.mkdir(mode=0o700)
    ticks = born(os.getpid()).split("/")[1]
    me = Child(name="chat-0", pid=os.getpid(), born=f"another-boot/{ticks}", phase="healthy")
    save_state(folder, State(deployment=new_deployment(folder), phase="healthy", supervisor=me, children=(me,)))
    assert status(folder)["phase"] == "unsupervised"
    assert not delete(folder, 1)


def test_anyone_may_take_the_socket_but_is_not_believed(folder, tmp_path, fault):
    fault("another process takes the supervisor's socket")
    from executor.local.state import ask, voice

    deployment = new_deployment(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(voice(deployment))
        listener.listen(1)
        assert ask(deployment, 1.0) is None
