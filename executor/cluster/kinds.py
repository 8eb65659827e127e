"""The kinds that we speak of, and where the API server keeps them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of object: its group and version as in ``apiVersion``, its plural in URLs."""

    name: str
    api: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """API group; empty for the core."""
        return self.api.rpartition("/")[0]

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """URL path of the collection, of one object, or of a part of it."""
        parts = ["/apis" if self.group else "/api", self.api]
        if self.namespaced:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        return "/".join([*parts, *(part for part in (name, subresource) if part)])


CONFIG_MAP = Kind("ConfigMap", "v1", "configmaps")
SERVICE = Kind("Service", "v1", "services")
SERVICE_ACCOUNT = Kind("ServiceAccount", "v1", "serviceaccounts")
POD = Kind("Pod", "v1", "pods")
DEPLOYMENT = Kind("Deployment", "apps/v1", "deployments")
JOB = Kind("Job", "batch/v1", "jobs")
BUDGET = Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets")
POLICY = Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies")
CLAIM = Kind("ResourceClaim", "resource.k8s.io/v1", "resourceclaims")
LEASE = Kind("Lease", "coordination.k8s.io/v1", "leases")
QUOTA = Kind("ResourceQuota", "v1", "resourcequotas")
POOL = Kind("InferencePool", "inference.networking.k8s.io/v1", "inferencepools")
MONITOR = Kind("PodMonitor", "monitoring.coreos.com/v1", "podmonitors")

NODE = Kind("Node", "v1", "nodes", namespaced=False)
DEVICE_CLASS = Kind("DeviceClass", "resource.k8s.io/v1", "deviceclasses", namespaced=False)
SLICE = Kind("ResourceSlice", "resource.k8s.io/v1", "resourceslices", namespaced=False)
RUNTIME_CLASS = Kind("RuntimeClass", "node.k8s.io/v1", "runtimeclasses", namespaced=False)
RULES_REVIEW = Kind("SelfSubjectRulesReview", "authorization.k8s.io/v1", "selfsubjectrulesreviews", namespaced=False)
ACCESS_REVIEW = Kind("SelfSubjectAccessReview", "authorization.k8s.io/v1", "selfsubjectaccessreviews", namespaced=False)

OWNED = (DEPLOYMENT, JOB, CLAIM, SERVICE, BUDGET, POLICY, SERVICE_ACCOUNT, POOL, MONITOR, CONFIG_MAP)
"""Every kind that a release may hold, in the order in which ``delete`` takes them down."""

BY_NAME = {kind.name: kind for kind in OWNED}


def kind_of(manifest: dict[str, object]) -> Kind:
    """The kind of a manifest of ours. Raises ``KeyError`` for one that we never render."""
    return BY_NAME[str(manifest["kind"])]
