"""What surrounds the engines: Services, who may talk to them, disruption budgets, identities. Pure."""

from executor.manifests.engines import PORT, engine_labels, service_name
from executor.manifests.names import LLM, labels, slug
from executor.manifests.options import Peer, RenderOptions
from executor.manifests.pods import Manifest


def llm_service(llm: str, options: RenderOptions) -> Manifest:
    """Headless: every instance of the LLM gets a DNS name, because the gateway picks among unequal ones, not round robin."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service_name(llm, options), "labels": engine_labels(llm, options)},
        "spec": {
            "clusterIP": "None",
            "selector": _llm_selector(llm, options),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }


def inference_pool(llm: str, options: RenderOptions) -> Manifest:
    """The same endpoints for an inference gateway, when the cluster has one (``endpoint_picker`` names its picker)."""
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": service_name(llm, options), "labels": engine_labels(llm, options)},
        "spec": {
            "selector": {"matchLabels": _llm_selector(llm, options)},
            "targetPorts": [{"number": PORT}],
            "endpointPickerRef": {"name": options.endpoint_picker, "port": {"number": 9002}},
        },
    }


def engine_policy(options: RenderOptions) -> Manifest:
    """Only the gateway reaches the engines: vLLM's own key check leaves half of its endpoints open.

    Beside it come an endpoint picker, which reads the engines' metrics, and whoever the options name.
    """
    gateway = {"podSelector": {"matchLabels": _component(options, "gateway")}}
    peers = [gateway, *_picker(options), *map(_peer, (*options.calls_from, *options.metrics_from))]
    return _policy("engine", "vllm", [{"from": peers, "ports": [{"protocol": "TCP", "port": PORT}]}], options)


def gateway_policy(options: RenderOptions) -> Manifest:
    """Without API keys, only pods of the same namespace may call the gateway, and whoever reads its metrics."""
    return _policy("gateway", "gateway", [{"from": [{"podSelector": {}}, *map(_peer, options.metrics_from)]}], options)


def _policy(component: str, name: str, ingress: list[Manifest], options: RenderOptions) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"{options.release}-{component}", "labels": labels(options.release, component, name)},
        "spec": {
            "podSelector": {"matchLabels": _component(options, component)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }


def _picker(options: RenderOptions) -> list[Manifest]:
    if not options.endpoint_picker:
        return []
    return [{"podSelector": {"matchLabels": options.endpoint_picker_pods or {"inferencepool": options.endpoint_picker}}}]


def _peer(peer: Peer) -> Manifest:
    made: Manifest = {"namespaceSelector": {"matchLabels": peer.namespace}} if peer.namespace else {}
    if peer.pods or not peer.namespace:
        made["podSelector"] = {"matchLabels": peer.pods} if peer.pods else {}
    return made


def service_account(component: str, options: RenderOptions) -> Manifest:
    """An identity that can do nothing: no token is mounted, no role is bound."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": f"{options.release}-{component}", "labels": labels(options.release, component, component)},
        "automountServiceAccountToken": False,
    }


def _component(options: RenderOptions, component: str) -> dict[str, str]:
    return {"app.kubernetes.io/instance": options.release, "app.kubernetes.io/component": component}


def _llm_selector(llm: str, options: RenderOptions) -> dict[str, str]:
    return {**_component(options, "engine"), LLM: slug(llm)}
