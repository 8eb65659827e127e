"""An API-server double on ``kmock``: kmock speaks HTTP and parses requests, this adds what a deployer relies on.

Server-side apply with creation, dry runs and immutable claim specs, label selectors, watches from a version, foreground
deletion, access reviews, and faults: any request can be answered by an error, cut off, or kill the caller's process.
"""

import asyncio
import copy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp.web
import attrs
import kmock
from kubernetes.client import ApiClient, Configuration
from typing_extensions import override

from executor.cluster.api import Api, Patience
from executor.cluster.preflight import Grant, grants
from tests.builders import plans
from tests.executor.cluster.controllers import Controllers, Verdict, ready
from tests.executor.cluster.schema import structural_fault
from tests.executor.cluster.store import Object, Store, matches
from tests.executor.cluster.stored import as_stored

NAMESPACE = "scepsy"
CLUSTER_SCOPED = {
    "nodes",
    "deviceclasses",
    "resourceslices",
    "runtimeclasses",
    "namespaces",
    "selfsubjectaccessreviews",
    "selfsubjectrulesreviews",
}


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    verb: str
    group: str
    plural: str
    name: str
    subresource: str
    dry: bool
    path: str
    detail: str = ""


@dataclass
class Faults:
    """What happens to the request number ``at`` (from 0) instead of, or after, being served."""

    at: int = -1
    kind: str = ""
    """A status, 'drop' (connection closed unserved), 'cut' (served, answer lost)."""
    times: int = 1
    struck: list[Seen] = field(default_factory=list)


@attrs.define(kw_only=True)
class ApiServer(kmock.KubernetesScaffold):
    """The handler; ``serve`` runs it on a port of this machine."""

    store: Store = attrs.field(factory=Store)
    controllers: Controllers = attrs.field(default=None)
    seen: list[Seen] = attrs.field(factory=list)
    used: set[Grant] = attrs.field(factory=set)
    faults: Faults = attrs.field(factory=Faults)
    minor: str = "36"
    missing: set[str] = attrs.field(factory=set)
    """API groups that are not served."""
    forbidden: set[str] = attrs.field(factory=set)
    """'verb plural' that this user may not."""
    refuse: Callable[[Object], str] = attrs.field(default=lambda obj: "")
    """Admission: a reason to refuse an object, or nothing."""
    mutate: Callable[[Object], None] = attrs.field(default=lambda obj: None)
    """Admission: changes to an object before it is stored."""
    token: str = ""
    """The only accepted bearer token, if any."""
    proxied: Callable[[str], str | None] = attrs.field(default=lambda path: None)
    """What a pod answers through the proxy, by ``<pod>:<port>/<path>``; None: not reachable."""

    @override
    async def _handle(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        path = request.url.path
        seen = self._note(request)
        fault = self._fault(seen)
        if fault == "drop":
            return self._close(request)
        if fault.isdigit():
            return _status(int(fault), "injected", headers={"Retry-After": "0"} if fault == "429" else {})
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        if path == "/version":
            return _json({"major": "1", "minor": self.minor, "gitVersion": f"v1.{self.minor}.0"})
        if request.resource is None or any(path.startswith(f"/apis/{group}") for group in self.missing):
            return _status(404, "the server could not find the requested resource")
        if not seen.plural:
            return _json({"kind": "APIResourceList", "groupVersion": path.removeprefix("/apis/"), "resources": []})
        if f"{seen.verb} {seen.plural}" in self.forbidden:
            return _status(403, f'{seen.plural} is forbidden: User "tester" cannot {seen.verb} resource "{seen.plural}"')
        answer = await self._serve(request, seen)
        return self._close(request) if fault == "cut" else answer

    async def _serve(self, request: kmock.Request, seen: Seen) -> aiohttp.web.StreamResponse:
        plural, namespace = seen.plural, "" if seen.plural in CLUSTER_SCOPED else request.namespace or ""
        if seen.subresource.startswith("proxy"):
            text = self.proxied(f"{seen.name}/{seen.subresource.removeprefix('proxy').lstrip('/')}")
            return _status(503, "no endpoints available") if text is None else aiohttp.web.Response(text=text)
        if seen.subresource == "log":
            text = self.proxied(f"{seen.name}/log")
            return _status(404, "no log") if text is None else aiohttp.web.Response(text=text)
        if plural == "selfsubjectaccessreviews":
            asked = request.data["spec"]["resourceAttributes"]
            return _json(
                {**request.data, "status": {"allowed": f"{asked['verb']} {asked['resource']}" not in self.forbidden}}, 201
            )
        if plural == "selfsubjectrulesreviews":
            allowed = [g for g in grants() if f"{g.verb} {g.resource}" not in self.forbidden]
            rules = [
                {"verbs": [g.verb], "apiGroups": [g.group], "resources": [g.resource]} for g in allowed if not g.subresource
            ]
            return _json({**request.data, "status": {"resourceRules": rules, "incomplete": True}}, 201)
        if namespace and seen.verb == "patch" and self.store.get("namespaces", "", namespace) is None:
            return _status(404, f'namespaces "{namespace}" not found')
        if seen.verb == "watch":
            return await self._watch(request, plural, namespace)
        if seen.verb == "list":
            selector = request.params.get("labelSelector", "")
            items = [_bare(o) for (p, ns, _), o in self.store.items(plural) if ns == namespace and matches(o, selector)]
            return _json({"kind": "List", "metadata": {"resourceVersion": str(self.store.version)}, "items": items})
        if seen.verb == "get":
            obj = self.store.get(plural, namespace, seen.name)
            return _status(404, f'{plural} "{seen.name}" not found') if obj is None else _json(obj)
        if plural == "leases" and seen.verb in ("create", "update"):
            return self._lease(namespace, json.loads(request.text), creating=seen.verb == "create")
        if plural == "pods" and seen.verb == "create":
            assert seen.dry, "we never create pods"
            return self._rehearse_pod(json.loads(request.text))
        if seen.verb == "delete":
            return self._delete(plural, namespace, seen, request.data or {})
        if request.headers["Content-Type"] == "application/merge-patch+json":  # what a test's own kubelet sends
            return self._edit((plural, namespace, seen.name), json.loads(request.text))
        if plural == "resourcequotas":  # an administrator's; settled at once
            return _json(self.store.put(plural, namespace, json.loads(request.text)))
        return self._apply(request, plural, namespace, seen)

    def _lease(self, namespace: str, wanted: Object, *, creating: bool) -> aiohttp.web.StreamResponse:
        """POST makes it only if there is none, PUT changes it only from the version that the caller has seen."""
        fault = structural_fault(wanted)
        if fault is not None:
            return _status(*fault)
        name = wanted["metadata"]["name"]
        if self.store.get("namespaces", "", namespace) is None:
            return _status(404, f'namespaces "{namespace}" not found')
        old = self.store.get("leases", namespace, name)
        if creating and old is not None:
            return _status(409, f'leases.coordination.k8s.io "{name}" already exists')
        if not creating and old is None:
            return _status(404, f'leases.coordination.k8s.io "{name}" not found')
        if not creating and old is not None and wanted["metadata"].get("resourceVersion") != old["metadata"]["resourceVersion"]:
            return _status(409, "the object has been modified; please apply your changes to the latest version and try again")
        return _json(self.store.put("leases", namespace, wanted), 201 if creating else 200)

    def _security(self, pod: Object) -> str:
        """Pod Security of the namespace, as far as what we render can break it."""
        level = (self.store.get("namespaces", "", NAMESPACE) or {}).get("metadata", {}).get("labels", {})
        hosts = [v for v in pod["spec"].get("volumes", []) if "hostPath" in v]
        if level.get("pod-security.kubernetes.io/enforce") != "restricted" or not hosts:
            return ""
        return 'violates PodSecurity "restricted:latest": hostPath volumes'

    def _rehearse_pod(self, pod: Object) -> aiohttp.web.StreamResponse:
        fault = structural_fault(pod)
        reason = self.controllers.admit(pod)
        if fault is not None:
            return _status(*fault)
        return _status(403, f'pods "{pod["metadata"]["name"]}" is forbidden: {reason}') if reason else _json(pod, 201)

    def _apply(self, request: kmock.Request, plural: str, namespace: str, seen: Seen) -> aiohttp.web.StreamResponse:
        assert request.headers["Content-Type"] == "application/apply-patch+yaml", request.headers
        assert request.params["fieldManager"].startswith("scepsy")
        wanted = json.loads(request.text)
        fault = structural_fault(wanted)
        if fault is not None:
            return _status(*fault)
        reason = self.refuse(wanted)
        if reason:
            return _status(422, reason)
        old = self.store.get(plural, namespace, seen.name)
        if old is None:
            self.used.add(Grant("create", seen.group, plural, namespaced=plural not in CLUSTER_SCOPED))
        if old is not None and plural == "resourceclaims" and old["spec"] != wanted["spec"]:
            return _status(422, "spec: Invalid value: field is immutable")
        full = self.controllers.quota_refusal(f"count/{plural}.{seen.group}") if old is None else ""
        if full:
            return _status(403, f'{plural}.{seen.group} "{seen.name}" is forbidden: {full}')
        merged = _merge(old, as_stored(wanted))
        self.mutate(merged)
        if seen.dry:
            return _json(merged)
        stored = self.store.put(plural, namespace, merged)
        self.controllers.settle()
        return _json(stored, 200 if old else 201)

    def _edit(self, key: tuple[str, str, str], patch: Object) -> aiohttp.web.StreamResponse:
        if key not in self.store.objects:
            return _status(404, f'{key[0]} "{key[2]}" not found')
        self.store.change(key, lambda obj: _patch(obj, patch))
        self.controllers.settle()
        return _json(self.store.objects[key])

    def _delete(self, plural: str, namespace: str, seen: Seen, options: Object) -> aiohttp.web.StreamResponse:
        key = (plural, namespace, seen.name)
        obj = self.store.objects.get(key)
        if obj is None:
            return _status(404, f'{plural} "{seen.name}" not found')
        if (
            options.get("preconditions", {}).get("resourceVersion", obj["metadata"]["resourceVersion"])
            != obj["metadata"]["resourceVersion"]
        ):
            return _status(409, "Precondition failed: resourceVersion")
        if plural == "pods" and options.get("gracePeriodSeconds") == 0:
            self.store.remove(key)
        elif plural in ("deployments", "jobs", "resourceclaims", "pods"):
            self.store.mark_deleted(key)
        else:
            self.store.remove(key)
        self.controllers.settle()
        return _json({"kind": "Status", "status": "Success"})

    async def _watch(self, request: kmock.Request, plural: str, namespace: str) -> aiohttp.web.StreamResponse:
        since, selector = int(request.params.get("resourceVersion") or 0), request.params.get("labelSelector", "")
        if since < self.store.oldest:
            return _status(410, "too old resource version")
        response = aiohttp.web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        assert request._raw_request is not None
        await response.prepare(request._raw_request)
        queue: asyncio.Queue[tuple[str, Object]] = asyncio.Queue()
        for version, changed, what, obj in self.store.log:
            if version > since and changed == plural:
                queue.put_nowait((what, obj))
        mine = (plural, queue)
        self.store.watchers.append(mine)
        deadline = asyncio.get_running_loop().time() + float(request.params.get("timeoutSeconds", "30"))
        try:
            while (left := deadline - asyncio.get_running_loop().time()) > 0:
                try:
                    what, obj = await asyncio.wait_for(queue.get(), left)
                except TimeoutError:
                    break
                if obj["metadata"].get("namespace", "") == namespace and matches(obj, selector):
                    await response.write(json.dumps({"type": what, "object": obj}).encode() + b"\n")
        finally:
            self.store.watchers.remove(mine)
        return response

    def _note(self, request: kmock.Request) -> Seen:
        resource, params = request.resource, request.params
        watching = params.get("watch") == "true"
        method = request.method.value
        verb = {"PATCH": "patch", "DELETE": "delete", "POST": "create", "PUT": "update"}.get(method)
        verb = verb or ("watch" if watching else "get" if request.name else "list")
        plural, group = (resource.plural or "", resource.group or "") if resource else ("", "")
        name = request.name or ""
        if not plural and request.namespace:  # a namespace itself
            plural, name = "namespaces", request.namespace
        seen = Seen(
            verb=verb,
            group=group,
            plural=plural,
            name=name,
            subresource=request.subresource or "",
            dry="dryRun" in params,
            path=request.url.path,
            detail=json.dumps(request.data["spec"]["resourceAttributes"]) if plural == "selfsubjectaccessreviews" else "",
        )
        self.seen.append(seen)
        if plural:
            part = seen.subresource.partition("/")[0]
            self.used.add(Grant(verb, group, plural, part, namespaced=plural not in CLUSTER_SCOPED))
        return seen

    def _fault(self, seen: Seen) -> str:
        faults = self.faults
        if faults.at < 0 or len(self.seen) - 1 < faults.at or len(faults.struck) >= faults.times:
            return ""
        faults.struck.append(seen)
        return faults.kind

    def _close(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        assert request._raw_request is not None
        transport = request._raw_request.transport
        if transport is not None:
            transport.close()
        return aiohttp.web.Response(status=500)


def _merge(old: Object | None, wanted: Object) -> Object:
    """Server-side apply by the only manager there is: what it sets replaces what it had set; the server's own stays."""
    new = copy.deepcopy(wanted)
    if old is None:
        return new
    for name in ("uid", "creationTimestamp", "resourceVersion", "namespace", "deletionTimestamp"):
        if name in old["metadata"]:
            new["metadata"][name] = old["metadata"][name]
    if "status" in old:
        new["status"] = old["status"]
    return new


def _patch(obj: Object, patch: Object) -> None:
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(obj.get(key), dict):
            _patch(obj[key], value)
        else:
            obj[key] = value


def _bare(obj: Object) -> Object:
    return {key: value for key, value in obj.items() if key not in ("kind", "apiVersion")}


def _json(document: Any, status: int = 200) -> aiohttp.web.Response:
    return aiohttp.web.json_response(document, status=status)


def _status(code: int, message: str, headers: dict[str, str] | None = None) -> aiohttp.web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}
    return aiohttp.web.json_response(body, status=code, headers=headers or {})


def populate(store: Store, plan_cluster: Any) -> None:
    """Nodes, slices and the device class of a cluster of ours, as the NVIDIA driver would publish them."""
    store.put("namespaces", "", {"metadata": {"name": NAMESPACE}})
    store.put("deviceclasses", "", {"metadata": {"name": "gpu.nvidia.com"}})
    store.put("runtimeclasses", "", {"metadata": {"name": "nvidia"}})
    for node in plan_cluster.nodes:
        for plural, obj in node_objects(node):
            store.put(plural, "", obj)


def node_objects(node: Any) -> Iterator[tuple[str, Object]]:
    """A ready node and the slice that lists its GPUs."""
    yield (
        "nodes",
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": node.name,
                "labels": {"kubernetes.io/hostname": node.name},
                "annotations": {"hami.io/node-nvidia-register": ":".join(f"{u},10,81920,100" for u in node.gpu_uuids)},
            },
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "allocatable": {"cpu": "256", "memory": "2Ti", "pods": "500", **_hami_resources(node.gpus)},
                "capacity": {"cpu": "256", "memory": "2Ti", "pods": "500", **_hami_resources(node.gpus)},
            },
        },
    )
    devices = [
        {
            "name": f"gpu-{index}",
            "attributes": {
                "uuid": {"string": uuid},
                "productName": {"string": "NVIDIA A100-SXM4-80GB"},
                "type": {"string": "gpu"},
                "resource.kubernetes.io/pciBusID": {"string": f"0000:{index + 1:02x}:00.0"},
            },
            "capacity": {"memory": {"value": f"{plans.A100.memory_bytes // 2**20}Mi"}},
        }
        for index, uuid in enumerate(node.gpu_uuids)
    ]
    yield (
        "resourceslices",
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": f"{node.name}-gpu.nvidia.com"},
            "spec": {
                "driver": "gpu.nvidia.com",
                "nodeName": node.name,
                "pool": {"name": node.name, "generation": 1, "resourceSliceCount": 1},
                "devices": devices,
            },
        },
    )


def _hami_resources(gpus: int) -> dict[str, str]:
    """What HAMi's device plugin and scheduler account for: slots, MiB and percent of every GPU."""
    return {"nvidia.com/gpu": str(10 * gpus), "nvidia.com/gpumem": str(81920 * gpus), "nvidia.com/gpucores": str(100 * gpus)}


@dataclass
class Double:
    """A running double, for a test."""

    server: ApiServer
    url: str
    token: str = "good"
    loop: asyncio.AbstractEventLoop | None = None

    @property
    def store(self) -> Store:
        return self.server.store

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call something on the server's own thread, a little later."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.loop.call_later, delay_s, call)

    def client(self) -> ApiClient:
        settings = Configuration(host=self.url, retries=0)
        settings.retries = False
        settings.api_key = {"BearerToken": f"Bearer {self.token}"}
        return ApiClient(configuration=settings)

    def api(self, **changes: Any) -> Api:
        quick = Patience(total_s=60.0, first_s=0.001, longest_s=0.02, request_s=25.0)  # answers wait for a busy machine
        return Api(self.client, NAMESPACE, **{"patience": quick, **changes})


@contextmanager
def serve(plan_cluster: Any, verdict: Verdict = ready) -> Iterator[Double]:
    """Run a double in a thread of its own: the client under test is synchronous."""
    server = ApiServer()
    server.controllers = Controllers(server.store, verdict)
    server.controllers.admit = server._security
    populate(server.store, plan_cluster)
    loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    found: list[str] = []

    async def main() -> None:
        async with server, kmock.Server(server) as running:
            found.append(str(running.url).rstrip("/"))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield Double(server, found[0], loop=loop)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
