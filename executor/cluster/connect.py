"""From KUBECONFIG (or a pod's own account) to an ``Api``."""

import os
from collections.abc import Callable
from pathlib import Path

from kubernetes import config
from kubernetes.client import ApiClient, Configuration

from executor.cluster.api import Api, Patience
from scepsy.errors import BackendError


def connect(namespace: str, *, context: str = "", kubeconfig: Path | None = None, patience: Patience | None = None) -> Api:
    """Connect to the cluster of ``context`` (default: the current one of KUBECONFIG, else the pod's own account).

    Nothing is sent yet. Raises ``BackendError`` when there is no usable configuration.
    """
    return Api(client_factory(context=context, kubeconfig=kubeconfig), namespace, patience=patience)


def client_factory(*, context: str = "", kubeconfig: Path | None = None) -> Callable[[], ApiClient]:
    """A function that reads the credentials anew each time it is called: a token may have been renewed since."""

    def make() -> ApiClient:
        settings = Configuration()
        # KUBECONFIG is read here and now: the client's own default was fixed when it was imported.
        chosen = str(kubeconfig or os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
        in_pod = not kubeconfig and "KUBECONFIG" not in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ
        try:
            if in_pod:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            else:
                config.load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=chosen, context=context or None, client_configuration=settings
                )
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            where = "the pod's own account" if in_pod else chosen
            raise BackendError(
                f"no usable cluster configuration: {where}: {reason}: set KUBECONFIG or --context, or repair that file"
            ) from error
        settings.retries = False  # ``Api`` retries, with backoff, and knows what may be sent twice
        settings.connection_pool_maxsize = 8
        return ApiClient(configuration=settings)

    return make
