"""From what is there to what a plan wants: who stays, who goes first, who starts, who goes last. Pure."""

from dataclasses import dataclass

from executor.cluster.kinds import CLAIM, DEPLOYMENT
from executor.cluster.snapshot import Key, Snapshot, component, going, gpus_of
from executor.manifests import Engine, Rendered


@dataclass(frozen=True)
class Transition:
    """The steps between a snapshot and a rendered plan; carried out in this order they never overfill a GPU."""

    keep: tuple[str, ...]
    """Engines that run already and are wanted as they are; nothing restarts them."""
    evict: tuple[str, ...]
    """Engines to drain and delete first: something new needs their GPUs."""
    release: tuple[Key, ...]
    """Claims or daemons to delete once their engines are gone, before new ones take their GPUs."""
    start: tuple[Engine, ...]
    """Engines to start, by wave."""
    retire: tuple[str, ...]
    """Engines to drain and delete once the new plan serves."""
    discard: tuple[Key, ...]
    """Everything else that is no longer wanted, deleted last."""

    @property
    def moves(self) -> int:
        """Engines that start or stop."""
        return len(self.evict) + len(self.start) + len(self.retire)


def transition(now: Snapshot, wanted: Rendered) -> Transition:
    """Compare. An engine or a holder is the same exactly when its name is, since names are digests of content."""
    names = {engine.name for engine in wanted.engines}
    present = {obj["metadata"]["name"]: obj for obj in now.engines}
    held_now = {_key(obj): gpus_of(obj) for obj in [*now.of(CLAIM), *now.of(DEPLOYMENT, "mps")]}
    dying = {_key(obj) for obj in [*now.of(CLAIM), *now.of(DEPLOYMENT, "mps")] if going(obj)}
    lost = frozenset[str]().union(*(held_now[key] for key in dying))
    keep = tuple(name for name, obj in present.items() if name in names and not going(obj) and not gpus_of(obj) & lost)
    start = tuple(engine for engine in wanted.engines if engine.name not in keep)
    wanted_keys = {(obj["kind"], obj["metadata"]["name"]) for obj in wanted.objects}
    arriving = [gpus_of(obj) for obj in wanted.holders if _key(obj) not in held_now or _key(obj) in dying]
    needed = frozenset[str]().union(*arriving, *(engine.gpus for engine in start))
    # A claim in the way of a new one must go, and with it every engine that it serves, also those on its other GPUs.
    leaving = {key: gpus for key, gpus in held_now.items() if key not in wanted_keys or key in dying}
    release = tuple(key for key, gpus in leaving.items() if gpus & needed)
    needed = needed.union(*(leaving[key] for key in release))
    unwanted = [name for name in present if name not in keep]
    evict = tuple(name for name in unwanted if name in names or going(present[name]) or gpus_of(present[name]) & needed)
    later = {*release, *((DEPLOYMENT.name, name) for name in [*evict, *unwanted])}
    discard = tuple(
        key for key, obj in now.objects.items() if key not in wanted_keys and key not in later and component(obj) != "plan"
    )
    return Transition(
        keep=keep,
        evict=evict,
        release=release,
        start=start,
        retire=tuple(name for name in unwanted if name not in evict),
        discard=discard,
    )


def _key(obj: dict[str, object]) -> Key:
    metadata = obj["metadata"]
    assert isinstance(metadata, dict)
    return str(obj["kind"]), str(metadata["name"])
