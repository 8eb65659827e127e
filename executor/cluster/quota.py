"""Whether the namespace's ResourceQuotas leave room for a switch, asked before the first write. Pure but for one list.

A quota that is met half-way would stop a switch when the old engines are already gone, so the peak is computed first: what
is used now, less what goes first, plus what is new. (A server-side dry run checks one object at a time, never their sum.)
"""

from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity

from executor.cluster.api import Api, Object
from executor.cluster.kinds import CLAIM, DEPLOYMENT, QUOTA, kind_of
from scepsy.errors import BackendError

Demand = dict[str, Decimal]
"""By the name under which a quota counts it (``pods``, ``requests.cpu``, ``count/deployments.apps``, …)."""

_OURS = {"NotTerminating", "NotBestEffort"}
"""Quota scopes that all our pods are in: they run until they are stopped, and they ask for CPU and memory."""


def check_quotas(api: Api, arriving: Iterable[Object], leaving: Iterable[Object]) -> None:
    """Raise ``BackendError`` naming the quota, what it allows, and what is missing.

    ``leaving`` are stored objects that are gone before ``arriving`` are written.
    """
    quotas = api.list_all(QUOTA)[0]
    if not quotas:
        return
    more, less = demand(arriving), demand(leaving)
    for quota in quotas:
        spec = quota.get("spec", {})
        scopes = {*spec.get("scopes", ()), *(e["scopeName"] for e in spec.get("scopeSelector", {}).get("matchExpressions", ()))}
        if not scopes <= _OURS:
            continue
        used = quota.get("status", {}).get("used", {})
        for name, hard in spec.get("hard", {}).items():
            needs = more.get(name, Decimal(0)) - less.get(name, Decimal(0))
            has = _amount(used.get(name, "0"))
            if more.get(name) and needs > 0 and has + needs > _amount(hard):
                raise BackendError(
                    f"ResourceQuota {quota['metadata']['name']} of namespace {api.namespace} allows {hard} {name}, "
                    f"{_plain(has)} are used and this plan needs {_plain(needs)} more while it switches: raise it to "
                    f"{_plain(has + needs)} or plan fewer instances"
                )


def demand(objects: Iterable[Object]) -> Demand:
    """What objects count for in quotas, the pods of Deployments included.

    >>> demand([{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}])
    {'count/services': Decimal('1'), 'services': Decimal('1')}
    """
    total: defaultdict[str, Decimal] = defaultdict(Decimal)
    for obj in objects:
        kind = kind_of(obj)
        total[f"count/{kind.plural}{f'.{kind.group}' if kind.group else ''}"] += Decimal(1)
        if not kind.group:
            total[kind.plural] += Decimal(1)
        if kind == DEPLOYMENT:
            total["count/replicasets.apps"] += Decimal(1)
            for name, amount in _pod(obj["spec"]["template"]["spec"]).items():
                total[name] += amount * int(obj["spec"].get("replicas", 1))
        if kind == CLAIM:
            for request in obj["spec"]["devices"]["requests"]:
                exactly = request["exactly"]
                total[f"{exactly['deviceClassName']}.deviceclass.resource.k8s.io/devices"] += Decimal(exactly.get("count", 1))
    return dict(total)


def _pod(spec: Object) -> Demand:
    total: defaultdict[str, Decimal] = defaultdict(Decimal, {"pods": Decimal(1), "count/pods": Decimal(1)})
    for container in spec["containers"]:
        resources = container.get("resources", {})
        limits = resources.get("limits", {})
        for name, amount in {**limits, **resources.get("requests", {})}.items():
            value = _amount(amount)
            total[f"requests.{name}"] += value
            if name in ("cpu", "memory"):
                total[name] += value
        for name, amount in limits.items():
            total[f"limits.{name}"] += _amount(amount)
    return dict(total)


def _amount(text: object) -> Decimal:
    return Decimal(parse_quantity(text))  # type: ignore[no-untyped-call]


def _plain(value: Decimal) -> str:
    return f"{value.normalize():f}"
