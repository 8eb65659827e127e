"""From a plan to command lines, environments and start order: pure, like the manifests of a cluster."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from executor.engine import MODULE, model_to_load, vllm_args, what_serves
from executor.manifests.devices import mps_env
from executor.manifests.domains import domains, start_waves
from scepsy.cluster import Gpu
from scepsy.errors import InputError
from scepsy.plans import Instance, Plan
from scepsy.profile.model import ProfileSet
from scepsy.value import Value

POOLING_KV_GIB = 1
"""Pooling models are given no KV cache by the plan, yet vLLM's CPU backend reserves one: this much (touched only when used)."""

IN_PROCESS_WORKER = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
"""Keeps vLLM's CPU worker in the engine core's process. In a process of its own (its default on CPUs) it polls shared memory
without sleeping for a second after every step, which takes the core from the engines, gateway and clients that share it and
burns its own quota: at half a core, 1.5 times the CPU time per token (vLLM 0.32, ``shm_broadcast.SpinCondition``)."""

CPU_BLOCK_TOKENS = 32
"""vLLM's CPU attention takes KV blocks of a multiple of this, and stops at start-up for others (0.32)."""


class Launch(Value, frozen=True, kw_only=True):
    """One engine process to start."""

    name: str
    llm: str
    also: tuple[str, ...] = ()
    """Other names that clients ask for it by."""
    share_pct: int
    arguments: tuple[str, ...]
    """Of the engine's Python."""
    env: dict[str, str]
    """Added to what is inherited."""
    port: int
    wave: int
    """Waves start one after another, each when the engines of the one before are healthy."""
    devices: tuple[int, ...]
    """GPU or core indices on this host."""
    mps: str = ""
    """Name of the MPS daemon in front of its GPUs; empty: none."""


class Daemon(Value, frozen=True, kw_only=True):
    """One MPS daemon: the GPUs that only its clients may use."""

    name: str
    gpus: tuple[str, ...]
    """UUIDs, or indices where the cluster file knows none."""


class LocalLayout(Value, frozen=True, kw_only=True):
    """Everything that runs."""

    device: Literal["cpu", "gpu"]
    launches: tuple[Launch, ...]
    daemons: tuple[Daemon, ...] = ()


def _gpu_name(plan: Plan, gpu: Gpu) -> str:
    uuids = plan.cluster.node(gpu.node).gpu_uuids
    return uuids[gpu.index] if uuids else str(gpu.index)


def lay_out(
    plan: Plan,
    profiles: ProfileSet,
    *,
    device: Literal["cpu", "gpu"],
    ports: Mapping[str, int],
    models: Mapping[str, str],
    run_folder: Path,
    extra_args: tuple[str, ...] = (),
    without_weights: frozenset[str] = frozenset(),
    stop_timeout_s: float = 30.0,
) -> LocalLayout:
    """Lay out a plan on one host. ``without_weights``: LLMs whose model folder holds no weights, served with random ones.

    Raises ``InputError`` when the plan spans several nodes or an LLM has no profile.
    """
    nodes = sorted({gpu.node for instance in plan.instances for gpu in instance.gpus})
    if len(nodes) > 1:
        raise InputError(f"plan: instances on nodes {', '.join(nodes)}: target local has one host (plan for one node)")
    waves = start_waves(plan.instances)
    daemons, pipe_of = [], {}
    if device == "gpu":
        for number, domain in enumerate(d for d in domains(plan) if d.shared):
            daemon = Daemon(name=f"mps-{number}", gpus=tuple(_gpu_name(plan, gpu) for gpu in domain.gpus))
            daemons.append(daemon)
            pipe_of.update({instance.name: daemon.name for instance in domain.instances})
    launches = []
    for instance in plan.instances:
        try:
            allocation = plan.allocation(instance.llm)
            profile = profiles.of(instance.llm, allocation.gpu_type, instance.tensor_parallel)
        except KeyError as error:
            raise InputError(f"plan: instance {instance.name}: {error.args[0]}") from error
        extra = (*(("--load-format", "dummy") if instance.llm in without_weights else ()), *extra_args)
        env = _environment(plan, instance, device, pipe_of.get(instance.name, ""), run_folder, profile.llm.kind != "generate")
        if device == "cpu":
            if profile.engine.block_tokens % CPU_BLOCK_TOKENS:
                raise InputError(
                    f"profile of {instance.llm}: engine.block_tokens is {profile.engine.block_tokens}: "
                    f"must be a multiple of {CPU_BLOCK_TOKENS} for vLLM on a CPU"
                )
            extra = ("--enforce-eager", *extra)
        arguments = vllm_args(
            instance,
            profile,
            model=model_to_load(plan, profile, models),
            names=what_serves(plan, profile).names,
            host="127.0.0.1",
            port=ports[instance.name],
            shutdown_timeout_s=int(stop_timeout_s),
            extra=extra,
        )
        launches.append(
            Launch(
                name=instance.name,
                llm=instance.llm,
                also=what_serves(plan, profile).also,
                share_pct=instance.share_pct,
                arguments=("-m", MODULE, *arguments),
                env=env,
                port=ports[instance.name],
                wave=waves[instance.name],
                devices=tuple(gpu.index for gpu in instance.gpus),
                mps=pipe_of.get(instance.name, ""),
            )
        )
    return LocalLayout(device=device, launches=tuple(launches), daemons=tuple(daemons))


def _environment(plan: Plan, instance: Instance, device: str, mps: str, run_folder: Path, pooling: bool) -> dict[str, str]:
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if device == "cpu":
        # One core per tensor-parallel rank, as one GPU would be.
        env["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(str(gpu.index) for gpu in instance.gpus)
        if instance.tensor_parallel == 1:
            env |= IN_PROCESS_WORKER
        if pooling:
            env["VLLM_CPU_KVCACHE_SPACE"] = str(POOLING_KV_GIB)
        return env
    env["CUDA_VISIBLE_DEVICES"] = ",".join(_gpu_name(plan, gpu) for gpu in instance.gpus)
    if mps:
        env |= mps_env(instance)
        env["CUDA_MPS_PIPE_DIRECTORY"] = str(run_folder / mps / "pipe")
    return env


def daemon_env(daemon: Daemon, run_folder: Path) -> dict[str, str]:
    """Environment of an MPS daemon: which GPUs it owns, and where its clients find it."""
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(daemon.gpus),
        "CUDA_MPS_PIPE_DIRECTORY": str(run_folder / daemon.name / "pipe"),
        "CUDA_MPS_LOG_DIRECTORY": str(run_folder / daemon.name / "log"),
    }
