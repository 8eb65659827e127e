"""What surrounds the engines: Services, who may talk to them, disruption budgets, identities. Pure."""

from executor.manifests.engines import PORT, engine_labels, service_name
from executor.manifests.names import LLM, labels, slug
from executor.manifests.options import RenderOptions
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
    """Only the gateway reaches the engines: vLLM's own key check leaves half of its endpoints open."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"{options.release}-engine", "labels": labels(options.release, "engine", "vllm")},
        "spec": {
            "podSelector": {"matchLabels": _component(options, "engine")},
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [{"podSelector": {"matchLabels": _component(options, "gateway")}}],
                    "ports": [{"protocol": "TCP", "port": PORT}],
                }
            ],
        },
    }


def gateway_policy(options: RenderOptions) -> Manifest:
    """Without API keys, only pods of the same namespace may call the gateway."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"{options.release}-gateway", "labels": labels(options.release, "gateway", "gateway")},
        "spec": {
            "podSelector": {"matchLabels": _component(options, "gateway")},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {}}]}],
        },
    }


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
