"""Plan → manifests. Pure: the same plan, profiles and options give the same objects, in the same order, anywhere."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from executor.engine import model_to_load, require_llms
from executor.manifests.devices import holder
from executor.manifests.domains import Domain, domains, start_waves
from executor.manifests.engines import Engine, engine
from executor.manifests.gateway import gateway_config, gateway_config_map, gateway_objects
from executor.manifests.monitoring import dashboard_config_map, pod_monitors
from executor.manifests.names import CONTENT, PLAN, digest, labels
from executor.manifests.network import (
    engine_policy,
    gateway_policy,
    inference_pool,
    llm_service,
    service_account,
)
from executor.manifests.options import RenderOptions
from executor.manifests.pods import Manifest
from scepsy.capabilities import refusals
from scepsy.cluster import Gpu
from scepsy.errors import Infeasible, InputError
from scepsy.plans import Instance, Plan
from scepsy.profile.model import Profile, ProfileSet

FORMER_GATEWAY_IMAGE = "scepsy/gateway:0.1.0"
"""The default before an image had to be given."""
CONFIG_MAP_LIMIT_BYTES = 1_000_000
"""A ConfigMap holds at most 1 MiB (Kubernetes validation); a little is left for its metadata."""


@dataclass(frozen=True)
class Rendered:
    """Every object of one deployed plan, by the role it plays when it is applied."""

    options: RenderOptions
    plan_hash: str
    plan: Manifest
    """The ConfigMap that records the plan and owns the rest."""
    base: tuple[Manifest, ...]
    """Accounts, policy, Services, budgets: nothing waits for them, and they hold no GPU."""
    holders: tuple[Manifest, ...]
    """What holds the GPUs of a domain before its engines start."""
    engines: tuple[Engine, ...]
    """By wave, then in the plan's order."""
    gateway_config: Manifest
    gateway: tuple[Manifest, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the target does not quite do, and what the options leave open; to be shown to whoever applies this."""
        return tuple(_notes(self.options, [engine.instance for engine in self.engines if engine.share_pct < 100]))

    @property
    def start_timeout_s(self) -> int:
        """The longest that any of its engines may load."""
        return max((each.start_timeout_s for each in self.engines), default=0)

    @property
    def unpinned(self) -> tuple[str, ...]:
        """Images that are named by a tag: nodes may run different builds of them."""
        specs = [obj["spec"]["template"]["spec"] for obj in self.objects if obj["kind"] == "Deployment"]
        images = [c["image"] for spec in specs for c in (*spec.get("initContainers", ()), *spec["containers"])]
        return tuple(image for image in dict.fromkeys(images) if "@sha256:" not in image)

    @property
    def objects(self) -> Iterator[Manifest]:
        """All objects in the order in which they can be applied."""
        yield self.plan
        yield from self.base
        yield from self.holders
        yield from (each.deployment for each in self.engines)
        yield self.gateway_config
        yield from self.gateway


def render(plan: Plan, profiles: ProfileSet, options: RenderOptions | None = None) -> Rendered:
    """Render ``plan`` for ``options.target``.

    Raises ``Infeasible`` when the target cannot realise the plan (``scepsy.capabilities``), ``InputError`` when the
    cluster's devices or a profile are unknown, or memory cannot hold a model.
    """
    options = options or RenderOptions()
    require_llms(plan, models=options.models, engine_args=options.engine_args)
    refused = refusals(plan, options.target)
    if refused:
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise Infeasible(refused[0] + more)
    cut = next((i for i in plan.instances if plan.cluster.type_of(i.gpus[0]).partitions_pct), None)
    if cut is not None:
        raise Infeasible(
            f"target {options.target} cannot run instance {cut.name}: node {cut.gpus[0].node} has GPUs cut by MIG, and an "
            f"instance cannot be pinned to a partition (turn MIG off there, or plan for other nodes)"
        )
    if not options.gateway_image:
        raise InputError(
            "gateway_image is empty: must be an image with Scepsy installed, and there is no public one: build it (see: "
            "docs/kubernetes.md), then give --gateway-image IMAGE, or gateway_image in the deploy file"
        )
    tied = [(domain, holder(plan, domain, options)) for domain in domains(plan)]  # first: they say what cannot be tied
    known: dict[tuple[str, str, int], Profile] = {(p.llm.name, p.gpu.name, p.tensor_parallel): p for p in profiles.profiles}
    options = _with_models(plan, known, options)
    plan_hash = plan_digest(plan, profiles, options)
    holders: list[Manifest] = []
    engines: list[Engine] = []
    for domain, held in tied:
        if held is not None:
            holders.append(held)
        engines += _engines(plan, domain, known, options, "" if held is None else held["metadata"]["name"])
    position = {instance.name: number for number, instance in enumerate(plan.instances)}
    engines.sort(key=lambda each: (each.wave, position[each.instance]))
    llms = list(dict.fromkeys(instance.llm for instance in plan.instances))
    base = [service_account("engine", options), service_account("gateway", options), engine_policy(options)]
    if not options.api_keys_secret:
        base.append(gateway_policy(options))
    base += [llm_service(llm, options) for llm in llms]
    if options.endpoint_picker:
        base += [inference_pool(llm, options) for llm in llms]
    if options.pod_monitor:
        base += pod_monitors(options)
    if options.dashboard:
        base.append(dashboard_config_map(options))
    made = Rendered(
        options=options,
        plan_hash=plan_hash,
        plan=_plan_config_map(plan, profiles, options, plan_hash),
        base=tuple(base),
        holders=tuple(holders),
        engines=tuple(engines),
        gateway_config=gateway_config_map(
            gateway_config(sorted(engines, key=lambda each: position[each.instance]), options), options
        ),
        gateway=tuple(gateway_objects(options)),
    )
    for each in made.objects:
        _stamp(each, plan_hash)
    return made


def _with_models(plan: Plan, known: Mapping[tuple[str, str, int], Profile], options: RenderOptions) -> RenderOptions:
    """The options with what the engines of every LLM load, so that the record of the plan says it too."""
    models = {}
    for instance in plan.instances:
        profile = known.get((instance.llm, plan.cluster.type_of(instance.gpus[0]).name, instance.tensor_parallel))
        if profile is None:
            raise _no_profile(plan, instance)
        models[instance.llm] = model_to_load(plan, profile, options.models)
    return msgspec.structs.replace(options, models=models)


def _no_profile(plan: Plan, instance: Instance) -> InputError:
    return InputError(
        f"profiles: none for LLM {instance.llm} on {plan.cluster.type_of(instance.gpus[0]).name} at TP "
        f"{instance.tensor_parallel}, which instance {instance.name} runs (give the profiles that the plan was made with)"
    )


def _notes(options: RenderOptions, limited: list[str]) -> Iterator[str]:
    if options.target == "hami" and limited:
        yield (
            f"HAMi limits kernel launches, not kernels replayed from CUDA graphs: {limited[0]} and {len(limited) - 1} more "
            f"may take more than their share while they decode (--enforce-eager in engine_args prevents it, at a price)"
        )
    if options.endpoint_picker and not options.calls_from:
        yield "an inference gateway's proxies call engines: the NetworkPolicy shuts them out until calls_from names them"
    if options.pod_monitor and not options.metrics_from:
        yield "PodMonitors are rendered, but the NetworkPolicy shuts Prometheus out until metrics_from names it"


def plan_digest(plan: Plan, profiles: ProfileSet, options: RenderOptions) -> str:
    """Digest of what will run; how long the search took does not matter to it."""
    return digest(msgspec.to_builtins([_timeless(plan), _used(plan, profiles), options]))


def plan_config_map_name(release: str, plan_hash: str) -> str:
    """Name of the ConfigMap that records one plan of one release."""
    return f"{release}-plan-{plan_hash}"


def read_plan_config_map(data: dict[str, str]) -> tuple[Plan, ProfileSet, RenderOptions]:
    """The plan, profiles and options that a plan's ConfigMap records. Raises ``InputError`` when they are not readable."""
    try:
        plan = msgspec.json.decode(data["plan.json"], type=Plan)
        options = msgspec.json.decode(data["options.json"], type=RenderOptions)
        return plan, msgspec.json.decode(data["profiles.json"], type=ProfileSet), _as_recorded(plan, options)
    except (KeyError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InputError(
            f"the plan recorded on the cluster is not readable: {error}: was it written by another version?"
        ) from error


def _as_recorded(plan: Plan, options: RenderOptions) -> RenderOptions:
    """Records of earlier versions leave out what was the default then: the gateway's image, and an LLM's name as its model."""
    models = {instance.llm: options.models.get(instance.llm, instance.llm) for instance in plan.instances}
    image = options.gateway_image or FORMER_GATEWAY_IMAGE
    return msgspec.structs.replace(options, models=models, gateway_image=image)


def _engines(
    plan: Plan, domain: Domain, known: dict[tuple[str, str, int], Profile], options: RenderOptions, held_by: str
) -> Iterator[Engine]:
    waves = start_waves(domain.instances)
    twins: dict[str, int] = {}
    latest: dict[Gpu, str] = {}
    for instance in domain.instances:
        gpu_type = plan.cluster.type_of(instance.gpus[0]).name
        made = engine(
            plan,
            domain,
            instance,
            known[instance.llm, gpu_type, instance.tensor_parallel],
            options,
            wave=waves[instance.name],
            after=tuple(dict.fromkeys(latest[gpu] for gpu in instance.gpus if gpu in latest)),
            held_by=held_by,
            twin=_count(twins, instance),
        )
        for gpu in instance.gpus:
            latest[gpu] = made.name
        yield made


def _count(twins: dict[str, int], instance: Instance) -> int:
    key = digest([instance.llm, [str(gpu) for gpu in instance.gpus], instance.share_pct, instance.memory_bytes])
    twins[key] = twins.get(key, -1) + 1
    return twins[key]


def _timeless(plan: Plan) -> Plan:
    """Without what does not matter to running it: how long the search took, and what was expected (which may be infinite)."""
    return msgspec.structs.replace(plan, search_s=0.0, expected=(), bound_latency_s=None, optimal=False)


def _used(plan: Plan, profiles: ProfileSet) -> ProfileSet:
    """Only the profiles that the plan's instances run on: the record must stay small, and other profiles must not change it."""
    keys = {(i.llm, plan.cluster.type_of(i.gpus[0]).name, i.tensor_parallel) for i in plan.instances}
    kept = tuple(p for p in profiles.profiles if (p.llm.name, p.gpu.name, p.tensor_parallel) in keys)
    return msgspec.structs.replace(profiles, profiles=kept)


def _plan_config_map(plan: Plan, profiles: ProfileSet, options: RenderOptions, plan_hash: str) -> Manifest:
    data = {
        "plan.json": msgspec.json.encode(_timeless(plan)).decode(),
        "profiles.json": msgspec.json.encode(_used(plan, profiles)).decode(),
        "options.json": msgspec.json.encode(options).decode(),
    }
    size = sum(len(text) for text in data.values())
    if size > CONFIG_MAP_LIMIT_BYTES:
        raise InputError(
            f"plan: its record takes {size} bytes: must be <= {CONFIG_MAP_LIMIT_BYTES}, the most a ConfigMap holds "
            f"(deploy it as several releases)"
        )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": plan_config_map_name(options.release, plan_hash),
            "labels": labels(options.release, "plan", "plan"),
        },
        "data": data,
    }


def _stamp(manifest: Manifest, plan_hash: str) -> None:
    """Label with the plan, and note the digest of everything else, by which an applied object is recognised as current."""
    metadata: dict[str, Any] = manifest["metadata"]
    content = digest(manifest)
    # New mappings: builders may share the old ones between objects.
    metadata["labels"] = {**metadata["labels"], PLAN: plan_hash}
    metadata["annotations"] = {**metadata.get("annotations", {}), CONTENT: content}
