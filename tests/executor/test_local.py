"""The local executor: layout by hand, then real processes (stub engines) that are killed, refuse to start or never answer."""

import os
import signal
import stat
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from executor.cpu_meter import decode
from executor.local.deployment import apply, delete, status
from executor.local.engine_metrics import parse_metrics
from executor.local.identity import born
from executor.local.layout import lay_out
from executor.local.logs import explain_exit, log_tail
from executor.local.marks import MARK
from executor.local.options import LocalOptions, engine_python
from executor.local.ports import free_port
from executor.local.shares import CoreShares
from executor.local.state import Child, is_alive, load_state, marked
from executor.local.supervisor import has_no_weights
from executor.local_backend import measure
from executor.random_models import RandomModel, llm_of, write_model
from scepsy.backend import Stream, Workload
from scepsy.cluster import Cluster, Gpu, GpuType, Node
from scepsy.errors import BackendError, InputError
from scepsy.plans import Allocation, Instance, Plan
from scepsy.profile.model import EngineLimits, Profile, ProfileSet
from scepsy.profile.share import ColdStartLaw, ContentionLaw, ShareLaw
from scepsy.profile.step import StepModel
from scepsy.workload import Arrivals, Call, Run, Trace, TraceSource

CORE = GpuType(name="cpu-core", memory_bytes=2 * 2**30, bandwidth_bytes_per_s=1e10, flops_per_s=5e10)
ENGINE = EngineLimits(max_num_seqs=16, max_num_batched_tokens=1024, activation_bytes=2**26, block_tokens=32)


def make_profiles(*models: RandomModel, engine=ENGINE, degrees=(1, 2)) -> ProfileSet:
    return ProfileSet(
        profiles=tuple(
            Profile(
                llm=msgspec.structs.replace(llm_of(model), hf_name=f"test/{model.name}"), gpu=CORE, tensor_parallel=degree,
                engine=engine, source="a test", step=StepModel(base_s=0.01, prefill_s_per_token=1e-5),
            )
            for model in models
            for degree in degrees
        ),
        share_law=ShareLaw(prefill_k=1, prefill_small_k=1, decode_k=1, decode_large_k=1),
        contention=ContentionLaw(interference=0.0),
        cold_start=ColdStartLaw(base_s=30.0, s_per_billion=2.0),
    )  # fmt: skip


def make_plan(placed: dict[str, list[tuple[tuple[int, ...], int]]], gpus=2, uuids=()) -> Plan:
    """``placed``: LLM → one (core indices, share) per replica."""
    cluster = Cluster(
        name="here", gpu_types=(CORE,), nodes=(Node(name="host", gpu_type="cpu-core", gpus=gpus, gpu_uuids=uuids),)
    )
    instances, allocations = [], []
    for llm, replicas in placed.items():
        cores, share = replicas[0]
        allocations.append(
            Allocation(llm=llm, share_pct=share, tensor_parallel=len(cores), replicas=len(replicas), gpu_type="cpu-core")
        )
        for index, (cores, share) in enumerate(replicas):
            on = tuple(Gpu(node="host", index=core) for core in cores)
            memory = int(CORE.memory_bytes * 0.9 * share / 100)
            instances.append(Instance(llm=llm, index=index, gpus=on, share_pct=share, memory_bytes=memory))
    return Plan(planner="hand", cluster=cluster, targets=(), allocations=tuple(allocations), instances=tuple(instances))


CHAT, JUDGE = RandomModel(name="chat"), RandomModel(name="judge", kind="rerank")
PORTS = {"chat-0": 9000, "chat-1": 9001, "judge-0": 9002}


def layout(plan, device, profiles=None, **fields):
    return lay_out(
        plan, profiles or make_profiles(CHAT, JUDGE), device=device, ports=PORTS, models={"chat": "/models/chat"},
        run_folder=Path("/run/d"), **fields,
    )  # fmt: skip


# --- layout ----------------------------------------------------------------------------------------------------------


def test_cores_stand_in_for_gpus():
    plan = make_plan({"chat": [((0, 1), 60)], "judge": [((1,), 40)]})
    chat, judge = layout(plan, "cpu", without_weights=frozenset(["chat"])).launches
    assert chat.env["VLLM_CPU_OMP_THREADS_BIND"] == "0|1"
    assert (chat.devices, chat.wave, judge.wave) == ((0, 1), 0, 1)
    arguments = list(chat.arguments)
    assert arguments[arguments.index("--load-format") + 1] == "dummy"
    assert arguments[arguments.index("--host") + 1] == "127.0.0.1"
    assert "--enforce-eager" in arguments
    assert "--kv-cache-memory-bytes" in arguments
    assert ("--load-format" in judge.arguments, judge.env["VLLM_CPU_KVCACHE_SPACE"]) == (False, "1")


def test_one_mps_daemon_per_shared_domain():
    plan = make_plan({"chat": [((0, 1), 60), ((3,), 60)][:1], "judge": [((1,), 40)]}, 4, ("GPU-a", "GPU-b", "GPU-c", "GPU-d"))
    found = layout(plan, "gpu")
    assert [(daemon.name, daemon.gpus) for daemon in found.daemons] == [("mps-0", ("GPU-a", "GPU-b"))]
    chat, judge = found.launches
    assert chat.env["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert chat.env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "60"
    assert chat.env["CUDA_MPS_PIPE_DIRECTORY"] == judge.env["CUDA_MPS_PIPE_DIRECTORY"] == "/run/d/mps-0/pipe"
    assert judge.env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == f"0={int(CORE.memory_bytes * 0.9 * 0.4) // 2**20}M"


def test_whole_gpus_need_no_daemon():
    found = layout(make_plan({"chat": [((0,), 100), ((1,), 100)]}), "gpu")
    assert found.daemons == ()
    assert all("CUDA_MPS_PIPE_DIRECTORY" not in launch.env for launch in found.launches)
    assert {launch.wave for launch in found.launches} == {0}, "engines of different GPUs start together"


def test_what_cannot_be_laid_out_says_why():
    plan = make_plan({"chat": [((0,), 100)]})
    with pytest.raises(InputError, match=r"instance chat-0: no profile of LLM 'chat'"):
        layout(plan, "cpu", make_profiles(JUDGE))
    odd = make_profiles(CHAT, engine=EngineLimits(block_tokens=16, activation_bytes=0))
    with pytest.raises(InputError, match=r"block_tokens is 16: must be a multiple of 32"):
        layout(plan, "cpu", odd)


def test_which_python_has_vllm(tmp_path, monkeypatch):
    assert engine_python(LocalOptions(python=sys.executable)) == sys.executable
    assert engine_python(LocalOptions(), {"SCEPSY_ENGINE_PYTHON": sys.executable}) == sys.executable
    with pytest.raises(InputError, match="python is '/no/such': no such program"):
        engine_python(LocalOptions(python="/no/such"))
    monkeypatch.chdir(tmp_path)
    assert engine_python(LocalOptions(), {}) == sys.executable


def test_a_written_model_has_no_weights(tmp_path):
    folder = write_model(CHAT, tmp_path)
    assert has_no_weights(folder)
    (folder / "model.safetensors").touch()
    assert not has_no_weights(folder)


def test_why_an_engine_ended(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "(Worker) ERROR x.py ValueError: No common block size\nTraceback\nRuntimeError: Engine core initialization failed\n"
    )
    assert explain_exit(1, log_tail(log)) == "exit 1; log: ValueError: No common block size"
    log.write_text(
        "WARNING 11-28 [utils.py:255] Found ulimit of 20000. This can cause `OSError: [Errno 24] Too many open files`\n"
        "api_server.py:24: DeprecationWarning: raises ImportError: later\n"
        "pydantic_core.ValidationError: 1 validation error for ModelConfig\n  Value error, no config.json in 'chat'.\nPlease\n"
    )
    told = "ValidationError: 1 validation error for ModelConfig: Value error, no config.json in 'chat'."
    assert log_tail(log) == told, "what only warns is not the cause"
    assert "out of memory" in explain_exit(-9, "")
    assert "out of memory" in explain_exit(1, "torch.OutOfMemoryError: CUDA out of memory. Tried")
    assert "port is taken" in explain_exit(1, "OSError: [Errno 98] Address already in use")


def test_metrics_add_up_over_labels():
    text = 'vllm:request_success_total{a="1"} 2\nvllm:request_success_total{a="2"} 3\nvllm:e2e_request_latency_seconds_sum 1\n'
    text += "vllm:time_to_first_token_seconds_sum 1.5\nvllm:time_to_first_token_seconds_count 3\n"
    assert parse_metrics(text) == {"requests": 5.0, "first_token_s": 1.5, "first_token_s_count": 3.0}


# --- shares of cores -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", ["v1", "v2"])
def test_a_share_becomes_a_quota(tmp_path, flavour):
    if flavour == "v2":
        (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    else:
        (tmp_path / "cpu").mkdir()
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    shares = CoreShares("d", tmp_path)
    assert shares.flavour == flavour
    group = shares.make("chat-0", 35, cores=2)
    if flavour == "v2":
        assert (group / "cpu.max").read_text() == "7000 10000"
    else:
        assert ((group / "cpu.cfs_quota_us").read_text(), (group / "cpu.cfs_period_us").read_text()) == ("7000", "10000")


def test_without_cgroups_shares_are_refused_by_name(tmp_path):
    shares = CoreShares("d", tmp_path)
    assert not shares.available
    with pytest.raises(BackendError, match="instance chat-0: no cgroup can be made"):
        shares.make("chat-0", 50, 1)


def test_a_quota_holds_a_process_to_its_share():
    """Real cgroups, where they can be made: a busy loop at 30 % of a core gets about 30 % of its time."""
    shares = CoreShares(f"test-{os.getpid()}")
    if not shares.available:
        pytest.skip("no cgroup with a cpu controller can be made here")
    group = shares.make("busy", 30, 1)
    child = os.fork()
    if child == 0:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        while True:
            pass
    try:
        time.sleep(0.2)
        process = psutil.Process(child)
        before, started = sum(process.cpu_times()[:2]), time.perf_counter()
        time.sleep(1.5)
        used = (sum(process.cpu_times()[:2]) - before) / (time.perf_counter() - started)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        shares.remove()
    assert used < 0.36  # below, on a busy machine; never above


# --- processes -------------------------------------------------------------------------------------------------------

STUB = Path(__file__).with_name("stub_engine.py")


@pytest.fixture
def fake_python(tmp_path):
    """A program that stands for the engine's Python: runs ``line`` instead, given the engine's arguments."""

    def make(line: str = f'exec {sys.executable} {STUB} "$@"') -> str:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


@pytest.fixture
def folder(tmp_path):
    where = tmp_path / "deployment"
    yield where
    delete(where, 5)


@pytest.fixture
def stranger():
    """A process of somebody else, which must survive everything."""
    child = __import__("subprocess").Popen(["sleep", "300"])
    yield child
    assert child.poll() is None, "a process that was not ours was stopped"
    child.kill()
    child.wait()


PLAN = make_plan({"chat": [((0,), 50), ((1,), 50)]})
PROFILES = make_profiles(CHAT)


def options(python, **fields):
    return LocalOptions(python=python, device="cpu", start_timeout_s=fields.pop("start_timeout_s", 30), stop_timeout_s=5,
                        enforce_shares=False, **fields)  # fmt: skip


def nothing_left(folder):
    state = load_state(folder)
    return state is None or marked(state.deployment) == []


def test_apply_serves_and_delete_leaves_nothing(fake_python, folder, stranger):
    state = apply(PLAN, PROFILES, options(fake_python()), folder)
    document = status(folder)
    assert document["phase"] == "healthy"
    assert [(row["instance"], row["alive"]) for row in document["instances"]] == [("chat-0", True), ("chat-1", True)]
    assert is_alive(state.gateway)
    assert delete(folder, 5)
    assert nothing_left(folder)
    assert status(folder)["phase"] == "stopped"
    assert not delete(folder, 5)


def test_a_measurement_on_cores_says_what_the_engines_did(fake_python, folder):
    call = Call(id="a", llm="chat", input_tokens=8, output_tokens=2)
    trace = Trace(source=TraceSource(origin="test"), runs=(Run(id="t", workflow="w", calls=(call,)),))
    evenly = Stream(trace=trace, arrivals=Arrivals(kind="deterministic", rate_per_s=1.0))
    asked = Workload(streams=(evenly,), runs=4, seed=1)
    records = measure(PLAN, asked, profiles=PROFILES, options=options(fake_python()), folder=folder)
    assert records.runs.column("status").to_pylist() == ["completed"] * 4
    work = decode(records.meta["work"])
    assert set(work) == {"chat-0", "chat-1"}
    assert sum(done.decoded_tokens for done in work.values()) == 4
    assert sum(done.prompt_tokens for done in work.values()) == 4 * 8
    assert 0 <= float(records.meta["others_cores"]) <= os.cpu_count()
    assert nothing_left(folder)


def test_applying_again_replaces_what_ran(fake_python, folder):
    first = apply(PLAN, PROFILES, options(fake_python()), folder)
    second = apply(PLAN, PROFILES, options(fake_python()), folder)
    assert first.deployment != second.deployment
    assert marked(first.deployment) == []
    assert status(folder)["phase"] == "healthy"


def test_an_engine_that_dies_is_restarted(fake_python, folder, eventually):
    state = apply(PLAN, PROFILES, options(fake_python()), folder)
    os.kill(state.children[0].pid, signal.SIGKILL)
    eventually(lambda: status(folder)["instances"][0]["restarts"] == 1, 15, "the restart")
    eventually(lambda: status(folder)["instances"][0]["phase"] == "healthy", 15, "the recovery")
    assert status(folder)["instances"][1]["restarts"] == 0


def test_an_engine_that_keeps_dying_is_given_up_and_the_others_serve(fake_python, folder, eventually):
    state = apply(PLAN, PROFILES, options(fake_python(), restarts=0), folder)
    os.kill(state.children[0].pid, signal.SIGKILL)
    eventually(lambda: status(folder)["instances"][0]["phase"] == "failed", 15, "giving up")
    document = status(folder)
    assert "killed or out of memory" in document["instances"][0]["problem"]
    assert document["instances"][1]["alive"]


def test_a_killed_gateway_comes_back(fake_python, folder, eventually):
    state = apply(PLAN, PROFILES, options(fake_python()), folder)
    os.kill(state.gateway.pid, signal.SIGKILL)
    eventually(lambda: load_state(folder).gateway.pid != state.gateway.pid and status(folder)["gateway"], 15, "the gateway")
    assert load_state(folder).gateway.url == state.gateway.url


def test_after_the_supervisors_crash_delete_stops_all_and_only_its_own(fake_python, folder, stranger):
    state = apply(PLAN, PROFILES, options(fake_python()), folder)
    os.kill(state.supervisor.pid, signal.SIGKILL)
    time.sleep(0.2)
    assert status(folder)["phase"] == "unsupervised"
    assert all(row["alive"] for row in status(folder)["instances"]), "engines serve on"
    assert delete(folder, 5)
    assert nothing_left(folder)


def test_a_process_missing_from_the_state_file_is_found_by_its_mark(fake_python, folder):
    """As when the supervisor dies between starting an engine and writing it down."""
    state = apply(PLAN, PROFILES, options(fake_python()), folder)
    os.kill(state.supervisor.pid, signal.SIGKILL)
    import msgspec

    from executor.local.state import save_state

    save_state(folder, msgspec.structs.replace(state, children=(), gateway=None))
    assert delete(folder, 5)
    assert marked(state.deployment) == []


def test_a_reused_pid_is_not_ours():
    assert not is_alive(Child(name="x", pid=os.getpid(), born=born(os.getppid())))
    assert is_alive(Child(name="x", pid=os.getpid(), born=born(os.getpid())))


FAILURES = {
    "exits": ('echo "ValueError: no such model"; exit 1', r"chat-0 did not start: exit 1; log: ValueError: no such model"),
    "out of memory": (
        'echo "torch.OutOfMemoryError: CUDA out of memory."; exit 1',
        r"out of memory \(exit 1\): plan less memory",
    ),
    "killed": ("kill -9 $$", r"killed or out of memory \(exit -9\)"),
    "never healthy": ("exec sleep 600", r"chat-\d was not healthy within 1.5 s"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_an_engine_that_does_not_come_up_is_a_clear_error_and_nothing_is_left(fake_python, folder, kind, stranger):
    line, message = FAILURES[kind]
    with pytest.raises(BackendError, match=message):
        apply(PLAN, PROFILES, options(fake_python(line), start_timeout_s=1.5), folder)
    assert nothing_left(folder)
    assert status(folder)["phase"] in ("failed", "stopped")


def test_a_taken_port_is_named(fake_python, folder, stub):
    port = int(stub().url.rsplit(":", 1)[1])
    with pytest.raises(BackendError, match=f"chat-0: port {port} is taken: set base_port"):
        apply(PLAN, PROFILES, options(fake_python(), base_port=port), folder)
    assert nothing_left(folder)


def test_a_core_that_is_not_here_is_bad_input(fake_python, folder):
    with pytest.raises(InputError, match="core 999 is not here"):
        apply(make_plan({"chat": [((999,), 100)]}, gpus=1000), PROFILES, options(fake_python()), folder)


FAKE_MPS = """#!/bin/sh
echo "$* pipe=$CUDA_MPS_PIPE_DIRECTORY gpus=$CUDA_VISIBLE_DEVICES in=$( [ "$1" = -d ] || cat )" >> {log}
"""


def test_mps_daemons_start_before_engines_and_quit_after_them(fake_python, folder, tmp_path, monkeypatch):
    """The control program is a stand-in that notes how it was called; on a GPU host the real one is."""
    control = tmp_path / "bin" / "nvidia-cuda-mps-control"
    control.parent.mkdir()
    control.write_text(FAKE_MPS.format(log=tmp_path / "mps.log"))
    control.chmod(0o755)
    monkeypatch.setenv("PATH", f"{control.parent}:{os.environ['PATH']}")
    where = LocalOptions(python=fake_python(), device="gpu", start_timeout_s=30, stop_timeout_s=5)
    apply(make_plan({"chat": [((0,), 50)]}, uuids=("GPU-a", "GPU-b")), PROFILES, where, folder)
    delete(folder, 5)
    started, quit_ = (tmp_path / "mps.log").read_text().splitlines()
    assert started == f"-d pipe={folder}/mps-0/pipe gpus=GPU-a in="
    assert quit_ == f" pipe={folder}/mps-0/pipe gpus= in=quit"


def test_the_mark_is_what_is_looked_for(monkeypatch):
    import subprocess

    child = subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: "only-here"})
    try:
        time.sleep(0.1)
        assert [process.pid for process in marked("only-here")] == [child.pid]
        assert marked("elsewhere") == []
    finally:
        child.kill()
        child.wait()


def test_ports_are_free_when_taken():
    assert len({free_port() for _ in range(5)}) >= 4
