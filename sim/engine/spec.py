"""From a plan's instances and their profiles to what a simulated instance needs to know."""

from scepsy.errors import InputError
from scepsy.plans import Instance, Plan
from scepsy.profile.model import Profile, ProfileSet, kv_capacity_tokens
from sim.engine.replica import ReplicaSpec


def profile_of(plan: Plan, instance: Instance, profiles: ProfileSet) -> Profile:
    """The profile of one placed instance. Raises ``InputError`` when there is none."""
    gpu_type = plan.cluster.type_of(instance.gpus[0]).name
    try:
        return profiles.of(instance.llm, gpu_type, instance.tensor_parallel)
    except KeyError as error:
        raise InputError(f"instance {instance.name}: {error.args[0]}") from error


def replica_spec(plan: Plan, instance: Instance, profiles: ProfileSet) -> ReplicaSpec:
    """Everything an instance needs to know. Raises ``InputError`` when its memory holds no KV cache."""
    profile = profile_of(plan, instance, profiles)
    return spec_of(profile, instance.name, instance.share_pct, profiles, memory_bytes=instance.memory_bytes)


def spec_of(
    profile: Profile, name: str, share_pct: int, profiles: ProfileSet, *, memory_bytes: int | None = None
) -> ReplicaSpec:
    """The same from a profile and a share; ``memory_bytes`` per GPU defaults to the share's part."""
    engine, llm = profile.engine, profile.llm
    if engine.max_num_batched_tokens < engine.max_num_seqs:
        raise InputError(
            f"profile of {llm.name}: max_num_batched_tokens is {engine.max_num_batched_tokens}: "
            f"must be >= max_num_seqs ({engine.max_num_seqs})"
        )
    tokens = kv_capacity_tokens(profile, share_pct)
    if memory_bytes is not None and llm.kv_bytes_per_token > 0:
        free = memory_bytes - llm.weight_bytes / profile.tensor_parallel - engine.activation_bytes * share_pct / 100
        tokens = int(free // llm.kv_bytes_per_token_per_gpu(profile.tensor_parallel))
    blocks = tokens // engine.block_tokens
    if blocks < 1:
        raise InputError(
            f"instance {name}: {share_pct} % of a {profile.gpu.name} leaves {tokens} tokens of KV cache: must hold a block"
        )
    demand = profile.decode_bandwidth_demand / profiles.share_law.decode_factor(1, share_pct)
    return ReplicaSpec(
        name=name,
        llm=llm.name,
        step=profile.step,
        engine=engine,
        share_law=profiles.share_law,
        share_pct=share_pct,
        kv_blocks=blocks,
        context_limit=llm.context_limit,
        bandwidth_demand=demand,
        weight=share_pct * profile.tensor_parallel,
        tensor_parallel=profile.tensor_parallel,
    )
