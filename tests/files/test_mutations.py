"""Every file that the program reads, damaged in hundreds of ways: one line and exit 2, or read; never a traceback.

``python -m pytest tests/files/test_mutations.py`` does ``FEW`` mutations of each format, ``-m slow`` the ``MANY`` of the table
in docs/faults.md. A failure names its seed; ``SCEPSY_FUZZ_SEEDS=17,42`` runs only these.
"""

import os
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from typer.testing import CliRunner

from scepsy.backend import Stream, Workload
from scepsy.cli import app
from scepsy.crash import explain
from scepsy.errors import ScepsyError
from scepsy.files.cluster import load_cluster, save_cluster
from scepsy.files.curves import load_curves, save_curves
from scepsy.files.plan import load_plan
from scepsy.files.profiles import load_profiles, save_profiles
from scepsy.files.records import load_records, save_records
from scepsy.files.trace import load_trace, save_trace
from scepsy.generate import generate
from scepsy.profile import catalogue
from scepsy.workload import Arrivals
from tests.files.mutations import mutated

FEW, MANY = 40, 500
LONGEST_S = 5.0  # of CPU time: the machine may be busy
MEMORY_BYTES = 3 * 1024**3  # a file is read into a buffer of the longest file allowed
IMAGE = ("--gateway-image", "x:1")

Use = Callable[[Path, Path, int], None]
"""Reads the file as the program does: (folder, the damaged file, seed). Raises what the program raises."""


class Told(ScepsyError):
    """What a command line printed with exit code 2."""

    exit_code = 2


def cli(*arguments: object, codes: tuple[int, ...] = (0, 1, 3)) -> None:
    """Run a command here; raise ``Told`` for exit 2, fail on a traceback, on several lines and on an internal error."""
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code == 2:
        raise Told(result.stderr.removesuffix("\n"))
    assert result.exit_code in codes, (result.exit_code, result.stderr)


@dataclass(frozen=True)
class Format:
    """One format: the files that one good value makes (the first is what is read), and the ways in which it is read."""

    files: tuple[str, ...]
    uses: tuple[Use, ...]


def reading(load: Callable[[Path], Any]) -> Use:
    return lambda folder, path, seed: load(path)


def _plan_commands(folder: Path, path: Path, seed: int) -> None:
    render = ("render", path, *IMAGE)
    cli(*[("predict", path), render, (*render, "--target", "mps"), (*render, "--json")][seed // 2 % 4])


def _out(folder: Path, *arguments: object) -> None:
    """A command that writes: nothing is left when it refuses."""
    out = folder / "made"
    try:
        cli(*arguments, "-o", out)
    except Told:
        assert not out.exists(), "nothing may be half-written"
        raise
    finally:
        shutil.rmtree(out, ignore_errors=True)
        out.unlink(missing_ok=True)


def _gateway(folder: Path, path: Path, seed: int) -> None:
    from executor.gateway.config import load_gateway
    from executor.gateway.keys import load_keys

    config = load_gateway(path)
    load_keys(config, path.parent, {"KEY": "k"})


def _keys(folder: Path, path: Path, seed: int) -> None:
    _gateway(folder, folder / "gateway.yaml", seed)


def _local(folder: Path, path: Path, seed: int) -> None:
    from executor.local.options import load_options

    load_options(path)


def _state(folder: Path, path: Path, seed: int) -> None:
    from executor.local.deployment import delete, status
    from scepsy.errors import InputError

    path.chmod(0o600)
    try:
        status(folder)
    except InputError:
        delete(folder, 0.1, force=True)
        raise


def _left_options(folder: Path, path: Path, seed: int) -> None:
    from executor.local.supervisor import left_options

    left_options(folder)


def _replay(folder: Path, path: Path, seed: int) -> None:
    from executor.replay_job import read_task

    read_task(path)


def _bench(folder: Path, path: Path, seed: int) -> None:
    _out(folder, "profile", "import", "vllm-bench", path, "--llm", "llama-3.1-8b", "--gpu", "H100-80G")


def _records(folder: Path, path: Path, seed: int) -> None:
    load_records(folder / "x.runs.parquet")


def _engine_run(folder: Path, path: Path, seed: int) -> None:
    from sim.recorded.enginerun import load_engine_run

    load_engine_run(folder)


def _model(folder: Path, path: Path, seed: int) -> None:
    from executor.profiler.model_files import read_llm

    read_llm("m", folder, ("generate", "rerank", "embed")[seed % 3])


FORMATS = {
    "trace": Format(("t.jsonl",), (reading(load_trace), lambda folder, path, seed: cli("trace", "stats", path))),
    "trace, packed": Format(("t.jsonl.gz",), (reading(load_trace),)),
    "cluster": Format(("cluster.yaml",), (lambda folder, path, seed: list(load_cluster(path).gpus),)),
    "profiles": Format(("p.yaml",), (reading(load_profiles), lambda folder, path, seed: cli("profile", "show", "-p", path))),
    "plan": Format(("x.plan.yaml",), (reading(load_plan), _plan_commands)),
    "curves": Format(("x.curves.json",), (reading(load_curves),)),
    "records": Format(
        ("x.runs.parquet", "x.calls.parquet"), (lambda folder, path, seed: load_records(folder / "x.runs.parquet"),)
    ),
    "deploy options": Format(
        ("deploy.yaml",), (lambda folder, path, seed: cli("render", folder / "x.plan.yaml", "--options", path),)
    ),
    "gateway options": Format(("gateway.yaml",), (_gateway,)),
    "gateway keys": Format(("keys.txt",), (_keys,)),
    "local options": Format(("local.yaml",), (_local,)),
    "replay task": Format(("task.json.gz",), (_replay,)),
    "state": Format(("state.json",), (_state,)),
    "state, options": Format(("options.json",), (_left_options,)),
    "vLLM bench": Format(("bench.json",), (_bench,)),
    "recorded run": Format(("requests.jsonl", "meta.json"), (_engine_run,)),
    "model config": Format(("config.json",), (_model,)),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one good file of each format."""
    folder: Path = tmp_path_factory.mktemp("good")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    trace = generate("rag-rerank", runs=4, seed=1)
    save_trace(folder / "t.jsonl", trace)
    save_trace(folder / "t.jsonl.gz", trace)
    cluster = catalogue.cluster_preset("2x8-a100-80g")
    save_cluster(folder / "cluster.yaml", cluster)
    profiles = catalogue.builtin_profiles({name: name for name in trace.llms}, cluster.gpu_types)
    save_profiles(folder / "p.yaml", profiles)
    plan = ["plan", "-t", folder / "t.jsonl", "--rate", "1", "--gpus", "4", "-p", folder / "p.yaml"]
    cli(*plan, "-o", folder / "x.plan.yaml", codes=(0,))
    _curves_and_records(folder, trace, cluster, profiles)
    _options(folder)
    _state_files(folder)
    _measured(folder)
    return folder


def _curves_and_records(folder: Path, trace: Any, cluster: Any, profiles: Any) -> None:
    from scepsy.api.prepare import Load, prepare
    from scepsy.files.cache import cache_dir
    from sim.world.run import simulate

    load = Load(trace=trace, arrivals=Arrivals(rate_per_s=1.0))
    problem = prepare([load], load_plan(folder / "x.plan.yaml").cluster, profiles, cache_dir=cache_dir())
    assert problem.curves
    save_curves(folder / "x.curves.json", load_curves(next(cache_dir().glob("*.curves.json")))[:2])
    workload = Workload(streams=(Stream(trace=trace, arrivals=Arrivals(rate_per_s=1.0)),), runs=5)
    save_records(folder / "x.runs.parquet", simulate(load_plan(folder / "x.plan.yaml"), workload, profiles=profiles))


def _options(folder: Path) -> None:
    from executor.manifests.options import RenderOptions
    from executor.manifests.replay import ReplayTask
    from executor.replay_job import write_task

    (folder / "deploy.yaml").write_bytes(
        msgspec.yaml.encode(
            {"format": "scepsy.deploy", "version": 1, **msgspec.to_builtins(RenderOptions(gateway_image="x:1"))}
        )
    )
    (folder / "gateway.yaml").write_text(
        "format: scepsy.gateway\nversion: 1\nport: 8080\nhost: 127.0.0.1\napi_keys_file: keys.txt\napi_keys_env: [KEY]\n"
        "endpoints:\n- {name: a-0, llm: a, url: 'http://127.0.0.1:9000', share_pct: 60}\n"
        "limits: {body_bytes: 1000, drain_s: 3.0}\nrecording: {path: calls.jsonl, workflow: w}\n"
    )
    (folder / "keys.txt").write_text("# keys\nsk-one\nsk-two # mine\n")
    (folder / "local.yaml").write_text(
        "format: scepsy.local\nversion: 1\nmodels: {chat: models/chat}\ndevice: cpu\nbase_port: 9000\nrestarts: 3\n"
        "eject_s: 5.0\nrecord: calls.jsonl\nextra_args: [--seed, '1']\n"
    )
    trace = generate("rag-rerank", runs=2, seed=1)
    workload = Workload(streams=(Stream(trace=trace, arrivals=Arrivals(rate_per_s=1.0)),), runs=2)
    write_task(
        folder / "task.json.gz",
        ReplayTask(url="http://127.0.0.1:1", workload=workload, context_limits=dict.fromkeys(trace.llms, 4096), meta={}),
    )


def _state_files(folder: Path) -> None:
    from executor.local.folder import write_own
    from executor.local.identity import born
    from executor.local.marks import new_deployment
    from executor.local.options import LocalOptions
    from executor.local.state import Child, State, save_state

    me = Child(name="chat-0", pid=os.getpid(), born=born(os.getpid()), url="http://127.0.0.1:9", llm="chat")
    state = State(
        deployment=new_deployment(folder), phase="healthy", supervisor=me, gateway=me, children=(me, me), notes=("n",)
    )
    save_state(folder, state)
    write_own(folder / "options.json", msgspec.json.encode(LocalOptions(models={"chat": "m"})))


def _measured(folder: Path) -> None:
    from executor.random_models import RandomModel, write_model

    count = 12
    bench = {
        "model_id": "meta-llama/Llama-3.1-8B", "date": "20250101", "request_rate": 2.0,
        "input_lens": [100 + n for n in range(count)], "output_lens": [10] * count, "ttfts": [0.1] * count,
        "itls": [[0.01] * 9] * count, "start_times": [float(n) for n in range(count)], "errors": [""] * count,
    }  # fmt: skip
    (folder / "bench.json").write_bytes(msgspec.json.encode(bench))
    rows = [
        {
            "input_toks": 100 + n, "output_toks": 10, "arrival_time": float(n), "queued_ts": n + 0.001,
            "scheduled_ts": n + 0.002, "first_token_ts": n + 0.1, "last_token_ts": n + 0.2,
        }
        for n in range(count)
    ]  # fmt: skip
    (folder / "requests.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    meta = {
        "model": "meta-llama/Llama-3.1-8B", "engine": "vllm 0.19.0", "hardware": {"device_name": "NVIDIA H100 80GB"},
        "engine_kwargs": {"max_num_seqs": 64, "max_num_batched_tokens": 2048, "tensor_parallel_size": 1},
        "kv_cache": {"block_size": 16, "num_kv_tokens": 40000, "enable_prefix_caching": True},
    }  # fmt: skip
    (folder / "meta.json").write_bytes(msgspec.json.encode(meta))
    shutil.copy(write_model(RandomModel(name="chat"), folder / "models") / "config.json", folder / "config.json")


def check(form: Format, good: dict[str, bytes], folder: Path, seed: int) -> str:
    """Damage one file, read it in one way; what came of it: read or refused. Fails with what a user would have seen."""
    victim = form.files[seed % len(form.files)]
    path = folder / victim
    path.write_bytes(mutated(victim, good[victim], seed))
    use = form.uses[seed % len(form.uses)]
    started_s = time.process_time()
    try:
        use(folder, path, seed)
        outcome = "read"
    except ScepsyError as error:
        outcome = _refused(error)
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(good[victim])
        path.chmod(0o600)
    assert time.process_time() - started_s < LONGEST_S, "it hung"
    return outcome


def _refused(error: ScepsyError) -> str:
    text = explain(error)[0] if not isinstance(error, Told) else str(error)
    lines = [line for line in text.splitlines() if not line.startswith("note: ")]
    assert error.exit_code in (2, 3), f"exit {error.exit_code}: {text}"
    assert len(lines) == 1, f"several lines: {text!r}"
    assert "internal error" not in text
    return "refused"


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """What takes ``MEMORY_BYTES`` more than now gets a MemoryError, which no command turns into bad input."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def seeds(many: bool) -> list[int]:
    if chosen := os.environ.get("SCEPSY_FUZZ_SEEDS"):
        return [int(each) for each in chosen.split(",")]
    return list(range(FEW, MANY)) if many else list(range(FEW))


@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_refused_in_one_line(
    name: str, many: bool, good: Path, tmp_path: Path, bounded_memory: None, record_property: Callable[[str, object], None]
) -> None:
    folder = tmp_path / "f"
    shutil.copytree(good, folder)
    folder.chmod(0o700)
    _state_files(folder)  # a state belongs to its folder
    whole = {victim: (folder / victim).read_bytes() for victim in FORMATS[name].files}
    before = {path.relative_to(folder) for path in folder.rglob("*")}
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    for seed in seeds(many):
        try:
            outcomes[check(FORMATS[name], whole, folder, seed)] += 1
        except Exception as error:
            import traceback

            place = traceback.extract_tb(error.__traceback__)[-1]
            failures.append(
                f"seed {seed}: {type(error).__name__}: {str(error)[:300]} ({Path(place.filename).name}:{place.lineno})"
            )
    record_property("fault", f"a damaged file: {name} ×{sum(outcomes.values()) + len(failures)}")
    assert failures == [], "\n".join([f"{len(failures)} of {len(seeds(many))}", *failures[:12]])
    assert outcomes["refused"], outcomes
    assert {path.relative_to(folder) for path in folder.rglob("*")} - before <= {Path("command.lock")}, "nothing is left behind"
