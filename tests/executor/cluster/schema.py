"""What a real API server finds wrong with an object's structure, from the published OpenAPI schemas.

Server-side apply reads an object by its schema before anything else: a field that the schema lacks, and two entries of a keyed
list (``x-kubernetes-list-type: map``) under one key, end in a 500. What is well-formed but not allowed is a 422. The schemas
are those that ``kubernetes-validate`` ships (the OpenAPI of each Kubernetes release), and for InferencePool the released CRD.
"""

import functools
import importlib.resources
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate
import referencing

MINOR = "1.36"
Wrong = tuple[int, str]
"""(HTTP status, message), as the real server words them."""


_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
_TEXT_MAP = {"type": "object", "additionalProperties": {"type": "string"}}


def _closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_METADATA = {"$ref": "#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
CUSTOM: dict[tuple[str, str], dict[str, Any]] = {
    ("inference.networking.k8s.io/v1", "InferencePool"): _closed(
        ("spec",),
        apiVersion={"type": "string"},
        kind={"type": "string"},
        metadata=_METADATA,
        spec=_closed(
            ("selector", "targetPorts"),
            appProtocol={"enum": ["http", "kubernetes.io/h2c"]},
            selector=_closed(("matchLabels",), matchLabels={**_TEXT_MAP, "minProperties": 1, "maxProperties": 64}),
            targetPorts={"type": "array", "minItems": 1, "maxItems": 8, "items": _closed(("number",), number=_PORT)},
            endpointPickerRef={
                # The CRD's own rule: a port is required where the kind is Service or left out.
                **_closed(
                    ("name", "port"),
                    group={"type": "string"},
                    kind={"enum": ["Service"]},
                    name={"type": "string", "minLength": 1},
                    port=_closed(("number",), number=_PORT),
                    failureMode={"enum": ["FailOpen", "FailClose"]},
                )
            },
        ),
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): _closed(
        ("spec",),
        apiVersion={"type": "string"},
        kind={"type": "string"},
        metadata=_METADATA,
        spec=_closed(
            ("selector", "podMetricsEndpoints"),
            selector=_closed(matchLabels=_TEXT_MAP),
            podTargetLabels={"type": "array", "items": {"type": "string"}},
            podMetricsEndpoints={
                "type": "array",
                "items": _closed(port={"type": "string"}, path={"type": "string"}, interval={"type": "string"}),
            },
        ),
    ),
}
"""What we render of two CRDs, in short: InferencePool of gateway-api-inference-extension v1.6.0
(config/crd/bases/inference.networking.k8s.io_inferencepools.yaml), PodMonitor of the Prometheus operator's API reference
(monitoring.coreos.com/v1). Fields that we never set are left out, so a misspelt one is refused as the CRD would."""


def structural_fault(obj: dict[str, Any]) -> Wrong | None:
    """The first thing a real API server would refuse about ``obj``, or None."""
    found = _schema(str(obj["apiVersion"]), str(obj["kind"]))
    if found is None:
        return None  # a CRD whose schema is not known here
    schema, validator = found
    typed = next(_typed(obj, schema, ""), "")
    if typed:
        what = (
            f"{obj['metadata'].get('namespace', 'scepsy')}/{obj['metadata']['name']}; {obj['apiVersion']}, Kind={obj['kind']}"
        )
        return 500, f"failed to create typed patch object ({what}): {typed}"
    error = next(iter(sorted(validator.iter_errors(obj), key=lambda e: list(map(str, e.path)))), None)
    if error is not None:
        path = ".".join(map(str, error.path))
        return 422, f'{obj["kind"]} "{obj["metadata"]["name"]}" is invalid: {path}: Invalid value: {error.message}'
    semantic = next(_semantic(obj), "")
    if semantic:
        return 422, f'{obj["kind"]} "{obj["metadata"]["name"]}" is invalid: {semantic}'
    return None


def list_keys(minor: str = MINOR) -> dict[str, tuple[str, ...]]:
    """The keys of every keyed list of the pod template's types, by field name: what drift must compare entries by."""
    found: dict[str, tuple[str, ...]] = {}
    for name in ("PodSpec", "Container", "ResourceRequirements"):
        for field, schema in _definitions(minor)[f"io.k8s.api.core.v1.{name}"]["properties"].items():
            if schema.get("x-kubernetes-list-type") == "map":
                found[field] = tuple(schema["x-kubernetes-list-map-keys"])
    return found


def _typed(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    """Faults of structure, worded as structured-merge-diff does."""
    schema = _resolve(schema)
    if isinstance(value, dict):
        known = schema.get("properties")
        for key, each in value.items():
            if known is not None and key in known:
                yield from _typed(each, known[key], f"{path}.{key}")
            elif isinstance(schema.get("additionalProperties"), dict):
                yield from _typed(each, schema["additionalProperties"], f"{path}.{key}")
            elif known is not None and schema.get("additionalProperties") is False:
                yield f"{path}.{key}: field not declared in schema"
    elif isinstance(value, list):
        yield from _duplicates(value, schema, path)
        for index, each in enumerate(value):
            yield from _typed(each, schema.get("items", {}), f"{path}[{index}]")


def _duplicates(value: list[Any], schema: dict[str, Any], path: str) -> Iterator[str]:
    kind = schema.get("x-kubernetes-list-type")
    if kind not in ("map", "set"):
        return
    seen = set()
    for each in value:
        if kind == "set":
            key = json.dumps(each)
        else:
            item = _resolve(schema["items"]).get("properties", {})
            keys = schema["x-kubernetes-list-map-keys"]
            key = ",".join(f"{k}={json.dumps(each.get(k, item.get(k, {}).get('default')))}" for k in keys)
        if key in seen:
            yield f"{path}: duplicate entries for key [{key}]"
        seen.add(key)


def _semantic(obj: dict[str, Any]) -> Iterator[str]:
    """A few of the server's own checks that no schema states and that what we render could break."""
    spec = obj.get("spec", {})
    pod = (
        spec.get("template", {}).get("spec") if obj["kind"] in ("Deployment", "Job") else spec if obj["kind"] == "Pod" else None
    )
    if pod is None:
        return
    claims = {each["name"] for each in pod.get("resourceClaims", [])}
    volumes = {each["name"] for each in pod.get("volumes", [])}
    for container in [*pod.get("initContainers", []), *pod.get("containers", [])]:
        for each in container.get("resources", {}).get("claims", []):
            if each["name"] not in claims:
                yield f"containers[{container['name']}].resources.claims: Not found: {each['name']!r}"
        mounts = [each["mountPath"] for each in container.get("volumeMounts", [])]
        if len(set(mounts)) < len(mounts):
            yield f"containers[{container['name']}].volumeMounts: Invalid value: must be unique"
        for each in container.get("volumeMounts", []):
            if each["name"] not in volumes:
                yield f"containers[{container['name']}].volumeMounts: Not found: {each['name']!r}"
    selector = spec.get("selector", {}).get("matchLabels", {})
    labels = spec.get("template", {}).get("metadata", {}).get("labels", {})
    if obj["kind"] == "Deployment" and not selector.items() <= labels.items():
        yield "spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`"
    for key, value in obj["metadata"].get("labels", {}).items():
        if not re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?", value):
            yield f"metadata.labels: Invalid value: {key}={value!r}"


def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = _definitions(MINOR)[schema["$ref"].rpartition("/")[2]]
    return schema


@functools.cache
def _definitions(minor: str) -> dict[str, Any]:
    return dict(_document(f"v{minor}.0-local-strict/_definitions.json")["$defs"])


def _document(name: str) -> dict[str, Any]:
    folder = importlib.resources.files(kubernetes_validate).joinpath("kubernetes-json-schema")
    return dict(json.loads(folder.joinpath(name).read_text()))


@functools.cache
def _schema(api_version: str, kind: str) -> tuple[dict[str, Any], Any] | None:
    definitions = referencing.Resource.from_contents(_document(f"v{MINOR}.0-local-strict/_definitions.json"))
    registry: Any = definitions @ referencing.Registry()  # type: ignore[operator]
    if (api_version, kind) in CUSTOM:
        schema = {"$defs": _definitions(MINOR), **CUSTOM[api_version, kind]}
        return schema, jsonschema.Draft202012Validator(schema)
    short = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    try:
        schema = _document(f"v{MINOR}.0-local-strict/{kind.lower()}-{short}.json")
    except FileNotFoundError:
        return None
    registry = referencing.Resource.from_contents(schema) @ registry
    return schema, jsonschema.Draft202012Validator(schema, registry=registry)
