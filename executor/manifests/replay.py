"""The replay client as a Job: the workload travels in a ConfigMap, the records come back in the pod's log. Pure."""

import base64
import gzip

import msgspec

from executor.manifests.gateway import GATEWAY_PORT, gateway_name
from executor.manifests.names import CONTENT, digest, labels
from executor.manifests.options import RenderOptions
from executor.manifests.pods import Manifest, container_security, pod_security, requests, scratch_volumes
from executor.manifests.render import CONFIG_MAP_LIMIT_BYTES, Rendered
from scepsy.backend import Workload
from scepsy.errors import InputError
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet
from scepsy.value import Value

WORKLOAD_FILE = "job.json.gz"
_MOUNT = "/etc/scepsy"


class ReplayTask(Value, frozen=True, kw_only=True):
    """Everything the client needs to know."""

    workload: Workload
    url: str
    context_limits: dict[str, int]
    """Longest prompt + output per LLM, tokens."""
    meta: dict[str, str]


def replay_objects(
    plan: Plan, rendered: Rendered, workload: Workload, profiles: ProfileSet, *, deadline_s: int
) -> tuple[Manifest, Manifest]:
    """(ConfigMap, Job). Raises ``InputError`` when the workload's traces do not fit a ConfigMap."""
    options = rendered.options
    name = gateway_name(options)
    task = ReplayTask(
        workload=workload,
        url=f"http://{name}.{options.namespace}.svc:{GATEWAY_PORT}",
        context_limits={a.llm: profiles.llm(a.llm).context_limit for a in plan.allocations},
        meta={"planner": plan.planner, "plan": rendered.plan_hash, "release": options.release},
    )
    packed = base64.b64encode(gzip.compress(msgspec.json.encode(task), mtime=0)).decode()
    if len(packed) > CONFIG_MAP_LIMIT_BYTES:
        raise InputError(
            f"workload: its traces take {len(packed)} bytes packed: must be <= {CONFIG_MAP_LIMIT_BYTES}, the most a ConfigMap "
            f"holds (replay fewer runs, or drop prefix hashes)"
        )
    job_name = f"{options.release}-replay-{digest([packed, rendered.plan_hash])}"
    mine = labels(options.release, "replay", "replay")
    config: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": job_name, "labels": mine, "annotations": {CONTENT: digest(packed)}},
        "binaryData": {WORKLOAD_FILE: packed},
    }
    return config, _job(job_name, mine, options, deadline_s)


def _job(name: str, mine: dict[str, str], options: RenderOptions, deadline_s: int) -> Manifest:
    volumes, mounts = scratch_volumes()
    volumes.append({"name": "job", "configMap": {"name": name}})
    mounts.append({"name": "job", "mountPath": _MOUNT, "readOnly": True})
    container: Manifest = {
        "name": "replay",
        "image": options.gateway_image,
        "command": ["python", "-m", "executor.replay_job"],
        "args": [f"{_MOUNT}/{WORKLOAD_FILE}"],
        "resources": {"requests": requests(options.gateway_resources)},
        "securityContext": container_security(),
        "volumeMounts": mounts,
    }
    if options.api_keys_secret:
        reference = {"secretKeyRef": {"name": options.api_keys_secret, "key": "keys"}}
        container["env"] = [{"name": "SCEPSY_API_KEYS", "valueFrom": reference}]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": mine, "annotations": {CONTENT: digest(container)}},
        "spec": {
            # A replay that failed half-way is no measurement: it is not tried again by itself.
            "backoffLimit": 0,
            "activeDeadlineSeconds": deadline_s,
            "template": {
                "metadata": {"labels": mine},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "serviceAccountName": gateway_name(options),
                    "enableServiceLinks": False,
                    "securityContext": pod_security(options.uid),
                    "containers": [container],
                    "volumes": volumes,
                },
            },
        },
    }
