"""What a release consists of right now: its objects, and its engines' pods. Reads only."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from executor.cluster.api import Api, Object
from executor.cluster.kinds import CONFIG_MAP, DEPLOYMENT, OWNED, Kind
from executor.manifests.names import ENGINE, GPUS, LLM, PLAN, STATE, release_selector

Key = tuple[str, str]
"""(kind, name)"""

_COMPONENT = "app.kubernetes.io/component"


def component(obj: Object) -> str:
    """The role of an object of ours."""
    return str(obj["metadata"].get("labels", {}).get(_COMPONENT, ""))


def annotation(obj: Object, name: str) -> str:
    """One annotation, empty when absent."""
    return str(obj["metadata"].get("annotations", {}).get(name, ""))


def gpus_of(obj: Object) -> frozenset[str]:
    """The GPUs that an engine, a claim or a daemon of ours takes, as ``<node>/<uuid>``."""
    return frozenset(filter(None, annotation(obj, GPUS).split(",")))


@dataclass(frozen=True)
class Snapshot:
    """Every object of one release by kind and name."""

    objects: Mapping[Key, Object] = field(default_factory=dict)

    def of(self, kind: Kind, role: str = "") -> list[Object]:
        """Objects of one kind, and of one role if given, by name."""
        found = [obj for (name, _), obj in self.objects.items() if name == kind.name and (not role or component(obj) == role)]
        return sorted(found, key=lambda obj: str(obj["metadata"]["name"]))

    def has(self, obj: Object) -> Object | None:
        """The stored object with this one's kind and name."""
        return self.objects.get((obj["kind"], obj["metadata"]["name"]))

    @property
    def engines(self) -> list[Object]:
        """Engine Deployments, those on their way out included."""
        return self.of(DEPLOYMENT, "engine")

    @property
    def plans(self) -> list[Object]:
        """ConfigMaps that record a plan; more than one while a switch is under way."""
        return self.of(CONFIG_MAP, "plan")

    @property
    def active_plan(self) -> Object | None:
        """The plan that was last brought to readiness; the newest, should several claim it."""
        active = [obj for obj in self.plans if annotation(obj, STATE) == "active"]
        return max(active, key=lambda obj: str(obj["metadata"].get("creationTimestamp", "")), default=None)

    @property
    def record(self) -> Object | None:
        """The plan that this release is: the one under way, else the active one.

        Objects that were applied by ``kubectl`` carry no state; then it is the plan that most engines are labelled with.
        """
        under_way = next((obj for obj in self.plans if annotation(obj, STATE) == "applying"), None)
        if under_way is not None or not self.plans:
            return under_way
        labelled = Counter(str(obj["metadata"].get("labels", {}).get(PLAN, "")) for obj in self.engines)
        active = self.active_plan
        return max(self.plans, key=lambda obj: (labelled[obj["metadata"]["labels"].get(PLAN, "")], obj is active))


def llm_of(engine: Object) -> str:
    """Slug of the LLM that an engine serves."""
    return str(engine["metadata"].get("labels", {}).get(LLM, ""))


def take(api: Api, release: str, kinds: Iterable[Kind] = OWNED) -> Snapshot:
    """List every kind that a release may hold."""
    objects: dict[Key, Object] = {}
    for kind in kinds:
        for obj in api.list_all(kind, release_selector(release))[0]:
            objects[kind.name, obj["metadata"]["name"]] = obj
    return Snapshot(objects)


def going(obj: Object) -> bool:
    """Whether deletion has begun."""
    return "deletionTimestamp" in obj["metadata"]


def engine_of(pod: Object) -> str:
    """Name of the engine Deployment that a pod belongs to."""
    return str(pod["metadata"].get("labels", {}).get(ENGINE, ""))
