"""What a rendering may choose beyond the plan: names, images, limits, secrets by reference. A frozen value."""

import re
from typing import Literal

import msgspec

from scepsy.value import Value, require

Target = Literal["dra", "mps", "hami"]

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


class Resources(Value, frozen=True, kw_only=True):
    """CPU and host memory that one container asks for (Kubernetes quantities); GPUs come from the plan."""

    cpu: str
    memory: str


class Peer(Value, frozen=True, kw_only=True):
    """Pods that a network policy lets in: by labels of their namespace and of themselves; both empty: any of this namespace."""

    namespace: dict[str, str] = msgspec.field(default_factory=dict)
    """Labels of the namespace, such as ``kubernetes.io/metadata.name: monitoring``; empty: the release's own."""
    pods: dict[str, str] = msgspec.field(default_factory=dict)
    """Labels of the pods; empty: all."""


class Toleration(Value, frozen=True, kw_only=True):
    """A taint that engines may stand on, as Kubernetes has it."""

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class RenderOptions(Value, frozen=True, kw_only=True):
    """Everything about the manifests that is not in the plan."""

    target: Target = "dra"
    """How GPUs are given to pods: dra, mps or hami (docs/kubernetes.md compares them)."""
    release: str = "scepsy"
    """Names one deployed plan within the namespace; another plan rendered under the same release replaces it."""
    namespace: str = "scepsy"
    """Where everything is created; it must exist."""
    engine_image: str = "vllm/vllm-openai:v0.32.0"
    """vLLM's image, by tag or (better) by digest."""
    gateway_image: str = ""
    """An image with this package installed; the gateway and the replay Job run in it. There is no public one, so it must be
    given (docs/kubernetes.md says how to build it)."""
    mps_image: str = "nvidia/cuda:13.0.1-base-ubuntu24.04"
    """Holds ``nvidia-cuda-mps-control``; target mps only."""
    models: dict[str, str] = msgspec.field(default_factory=dict)
    """What an engine loads, by LLM name (a hub name, or a path below /models); absent: the plan's hub id."""
    models_claim: str = ""
    """PersistentVolumeClaim with model files, mounted read-only at /models; empty: engines download."""
    models_host_path: str = ""
    """Directory on every node with model files, mounted read-only at /models instead of a claim; breaks the restricted Pod
    Security profile, which allows no host directories."""
    cache_claim: str = ""
    """PersistentVolumeClaim that all engines download into and compile into (ReadWriteMany across nodes); empty: each pod has
    its own and loses it with the pod."""
    recording_claim: str = ""
    """PersistentVolumeClaim that the gateway records calls into (``calls.jsonl``, lengths and hashes), for ``scepsy operate``
    and ``trace import``. ReadWriteMany, since a new gateway stands beside the old one while it is replaced. For one gateway."""
    hf_secret: str = ""
    """Secret whose key ``token`` is the hub token; empty: none."""
    api_keys_secret: str = ""
    """Secret whose key ``keys`` holds the gateway's API keys, one a line; empty: no keys."""
    engine_args: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Extra vLLM arguments, by LLM name."""
    uid: int = 10001
    """User and group of every engine. MPS serves one user per daemon, so all pods of a domain need the same."""
    mps_multi_user: bool = False
    """Ask the DRA driver for an MPS daemon that serves several users (``multiUser``); where pods that are not root cannot
    reach a daemon that root has started. Needs a driver that knows the field."""
    device_class: str = "gpu.nvidia.com"
    """DeviceClass of the claims; target dra only."""
    driver: str = "gpu.nvidia.com"
    """DRA driver; also the prefix of its device attributes."""
    runtime_class: str = "nvidia"
    """RuntimeClass that injects the driver; target mps only (dra and hami inject it themselves)."""
    engine_resources: Resources | None = None
    """CPU and host memory of every engine; absent: by its model's size and degree (``executor.manifests.sizing``)."""
    scratch: str = ""
    """Ephemeral storage that every engine asks for; empty: room for what it downloads and compiles, unless ``cache_claim``
    holds that."""
    gateway_resources: Resources = Resources(cpu="1", memory="512Mi")
    """CPU and host memory of each gateway."""
    gateway_replicas: int = 1
    """Gateways behind one Service; from two on they have a PodDisruptionBudget."""
    shm: str = "2Gi"
    """Limit of /dev/shm, through which tensor-parallel ranks talk."""
    start_timeout_s: int = 0
    """How long an engine may load before it is restarted; 0: by its model's size, at least 600."""
    drain_s: int = 30
    """How long an engine that is told to stop may finish what it has begun."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints that engines may stand on beside ``nvidia.com/gpu``."""
    node_selector: dict[str, str] = msgspec.field(default_factory=dict)
    """Labels that the gateway's nodes must have; engines are pinned to the plan's nodes anyway."""
    priority_class: str = ""
    """PriorityClass of all pods; empty: the cluster's default."""
    endpoint_picker: str = ""
    """Service of an endpoint picker; set: an InferencePool per LLM is rendered for it."""
    endpoint_picker_pods: dict[str, str] = msgspec.field(default_factory=dict)
    """Labels of the picker's pods, which must read the engines' metrics; empty: ``inferencepool: <endpoint_picker>``, as the
    inference extension's own chart labels them."""
    calls_from: tuple[Peer, ...] = ()
    """Who may call engines beside our gateway: the proxies of an inference gateway."""
    metrics_from: tuple[Peer, ...] = ()
    """Who may read metrics of engines and gateway: Prometheus. The engines' port is one, so it may call them as well."""
    pod_monitor: bool = False
    """Render PodMonitors for the Prometheus operator (monitoring.coreos.com/v1); wants ``metrics_from``."""
    dashboard: bool = False
    """Render a ConfigMap with a Grafana dashboard, labelled ``grafana_dashboard`` for Grafana's sidecar."""

    def __post_init__(self) -> None:
        for field, limit in (("release", 20), ("namespace", 63)):
            value = getattr(self, field)
            require(
                bool(_DNS_LABEL.fullmatch(value)) and len(value) <= limit,
                field,
                value,
                f"a DNS label of at most {limit} characters (a-z, 0-9, -)",
            )
        require(self.release[0].isalpha(), "release", self.release, "a name that begins with a letter")
        require(
            not (self.models_claim and self.models_host_path),
            "models_host_path",
            self.models_host_path,
            "empty where models_claim is given: model files come from one place",
        )
        require(
            not self.models_host_path or self.models_host_path.startswith("/"),
            "models_host_path",
            self.models_host_path,
            "an absolute path",
        )
        require(self.uid >= 1, "uid", self.uid, ">= 1 (engines never run as root)")
        require(self.gateway_replicas >= 1, "gateway_replicas", self.gateway_replicas, ">= 1")
        require(
            self.gateway_replicas == 1 or not self.recording_claim,
            "gateway_replicas",
            self.gateway_replicas,
            "1 where recording_claim is given: one recording has one writer",
        )
        start = self.start_timeout_s
        require(start == 0 or start >= 10, "start_timeout_s", start, ">= 10, or 0 for a time by the model's size")
        require(self.drain_s >= 0, "drain_s", self.drain_s, ">= 0")
