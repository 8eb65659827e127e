"""The vLLM command line of one instance: pure, shared by every way of starting one (a process here, a pod there).

Flags are those of vLLM 0.32. Two of them keep co-located instances out of each other's way. ``--kv-cache-memory-bytes``
fixes the KV cache to the planned size: without it each start measures free memory, and two starts on one GPU shrink
each other's cache. ``--gpu-memory-utilization`` stays at the planned part of the GPU, because start-up still demands
that much free memory (by default 92 %), which a GPU with neighbours does not have.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from scepsy.errors import InputError
from scepsy.llm import Served
from scepsy.plans import Instance, Plan
from scepsy.profile.model import Profile
from scepsy.profile.served import served

MODULE = "vllm.entrypoints.openai.api_server"
"""Started as ``python -m``: the ``vllm`` script is missing or broken in some builds (CPU wheels), the module is not."""

_POOLING = {"embed": "embed", "rerank": "classify"}


def kv_cache_bytes(instance: Instance, profile: Profile) -> int:
    """Bytes of KV cache per GPU: the instance's memory less its weights and its part of the activations.

    The same arithmetic as ``scepsy.profile.model.kv_capacity_tokens``, on the memory that the plan gives this instance,
    in whole blocks. Raises ``InputError`` when a generating model has no room for one block. 0 for pooling models.
    """
    llm, engine = profile.llm, profile.engine
    if llm.kv_bytes_per_token == 0:
        return 0
    activations = engine.activation_bytes * instance.share_pct / 100
    free = instance.memory_bytes - llm.weight_bytes / profile.tensor_parallel - activations
    block = llm.kv_bytes_per_token_per_gpu(profile.tensor_parallel) * engine.block_tokens
    blocks = math.floor(free / block)
    if blocks < 1:
        raise InputError(
            f"instance {instance.name}: memory_bytes is {instance.memory_bytes}: must leave a KV block beside "
            f"{llm.weight_bytes / profile.tensor_parallel:.0f} bytes of weights and {activations:.0f} of activations"
        )
    return int(blocks * block)


def model_to_load(plan: Plan, profile: Profile, given: Mapping[str, str]) -> str:
    """What the engines of an LLM load: what was ``given`` for it, else the hub id that the plan (or the profile) names.

    Raises ``InputError`` where nobody says: an engine that is told the name of the traffic would download another model, or
    none.
    """
    llm = profile.llm.name
    if llm in given:
        return given[llm]
    known = what_serves(plan, profile)
    if known.hub_id:
        return known.hub_id
    what = f"model {known.model!r} has no known name on Hugging Face" if known.model != llm else "its model is not known"
    raise InputError(
        f"LLM {llm!r}: {what}, so it is not known what engines should load: give --as '{llm}=OWNER/NAME' (or a path), or an "
        f"entry under models in the deploy file"
    )


def what_serves(plan: Plan, profile: Profile) -> Served:
    """What the plan says of an LLM's model and names, else its profile."""
    return plan.served(profile.llm.name) or served(profile.llm)


def require_llms(plan: Plan, **entries: Iterable[str]) -> None:
    """Raise ``InputError`` unless every entry of the named fields is an LLM of the plan."""
    llms = list(dict.fromkeys(instance.llm for instance in plan.instances))
    for field, names in entries.items():
        for name in names:
            if name in plan.other_names:
                raise InputError(
                    f"{field} has an entry {name!r}, which shares the instances of {plan.other_names[name]}: give it for "
                    f"{plan.other_names[name]} (or remove it)"
                )
            if name not in llms:
                raise InputError(
                    f"{field} has an entry {name!r}, which is no LLM of the plan: must be one of {', '.join(llms)} (rename or "
                    f"remove it)"
                )


def vllm_args(
    instance: Instance,
    profile: Profile,
    *,
    model: str | None = None,
    names: Sequence[str] = (),
    host: str = "0.0.0.0",
    port: int = 8000,
    shutdown_timeout_s: int = 30,
    extra: Sequence[str] = (),
) -> list[str]:
    """Arguments for ``python -m vllm.entrypoints.openai.api_server``.

    ``model`` is what to load (a path or a hub name; default: the LLM's name). ``names`` are those that clients ask for, the
    first of which the engine's metrics carry (default: ``instance.llm``).
    ``extra`` comes last, so it wins over what is computed. Raises ``InputError`` when the planned memory cannot hold the model.
    """
    engine = profile.engine
    utilization = math.floor(1000 * instance.memory_bytes / profile.gpu.memory_bytes) / 1000
    args = ["--model", model or instance.llm, "--served-model-name", *(names or (instance.llm,))]
    args += ["--host", host, "--port", str(port)]
    args += ["--tensor-parallel-size", str(instance.tensor_parallel)]
    args += ["--max-model-len", str(profile.llm.context_limit)]
    args += ["--max-num-seqs", str(engine.max_num_seqs)]
    args += ["--max-num-batched-tokens", str(engine.max_num_batched_tokens)]
    args += ["--gpu-memory-utilization", f"{utilization:.3f}"]
    if profile.llm.kind == "generate":
        args += ["--block-size", str(engine.block_tokens)]
        args.append("--enable-prefix-caching" if engine.prefix_caching else "--no-enable-prefix-caching")
    else:
        args += ["--runner", "pooling", "--convert", _POOLING[profile.llm.kind]]
    kv_bytes = kv_cache_bytes(instance, profile)
    if kv_bytes:
        args += ["--kv-cache-memory-bytes", str(kv_bytes)]
    if engine.max_num_queued is not None:
        args += ["--max-num-queued-reqs", str(engine.max_num_queued)]
    args += ["--shutdown-timeout", str(shutdown_timeout_s)]
    return [*args, *extra]
