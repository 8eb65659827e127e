"""What a user fixes or forbids before the search: an LLM's own allocation, and instance types that it must not get."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scepsy.errors import InputError
from scepsy.plans import Allocation

Kind = tuple[str, int, int]
"""GPU type, tensor-parallel degree, share in percent."""


@dataclass(frozen=True)
class Pin:
    """One LLM's allocation as the user wants it: the search decides the others'."""

    llm: str
    tensor_parallel: int
    share_pct: int
    replicas: int

    def __str__(self) -> str:
        return f"{self.llm}={self.tensor_parallel}:{self.share_pct}:{self.replicas}"


@dataclass(frozen=True)
class Ban:
    """Instances that one LLM must not get: of a degree, at one share or (None) at any."""

    llm: str
    tensor_parallel: int
    share_pct: int | None = None

    def __str__(self) -> str:
        return f"{self.llm}={self.tensor_parallel}" + ("" if self.share_pct is None else f":{self.share_pct}")


@dataclass(frozen=True)
class Choices:
    """All pins and bans of a problem; none by default."""

    pins: tuple[Pin, ...] = ()
    bans: tuple[Ban, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pins or self.bans)

    def pin(self, llm: str) -> Pin | None:
        """The LLM's pin, if it has one."""
        return next((pin for pin in self.pins if pin.llm == llm), None)

    def allow(self, llm: str, degree: int, share_pct: int) -> bool:
        """Whether the LLM may get instances of this degree and share."""
        pin = self.pin(llm)
        if pin is not None and (pin.tensor_parallel, pin.share_pct) != (degree, share_pct):
            return False
        return not any(
            ban.llm == llm and ban.tensor_parallel == degree and ban.share_pct in (None, share_pct) for ban in self.bans
        )

    def allow_all(self, allocations: Iterable[Allocation]) -> bool:
        """Whether these allocations are as pinned and free of what is banned."""
        for each in allocations:
            pin = self.pin(each.llm)
            if not self.allow(each.llm, each.tensor_parallel, each.share_pct) or (pin and pin.replicas != each.replicas):
                return False
        return True

    def why_none(self, llm: str, kinds: Sequence[Kind]) -> str:
        """What to say where nothing is left for an LLM; ``kinds``: its instance types without pins and bans."""
        pin = self.pin(llm)
        had = ", ".join(f"{degree}:{share}" for degree, share in sorted({kind[1:] for kind in kinds})) or "none"
        if pin is None:
            return f"LLM {llm}: --exclude leaves no instance type (TP:share that fit: {had})"
        return f"LLM {llm}: --pin {pin} is no instance type that was profiled and fits here (TP:share that fit: {had})"

    def notes(self) -> list[str]:
        """What a plan says of them."""
        pinned = [
            f"pinned, not searched: {p.llm} at TP {p.tensor_parallel}, {p.share_pct} %, {p.replicas} instances"
            for p in self.pins
        ]
        return pinned + [f"excluded from the search: {ban} (LLM=TP:share)" for ban in self.bans]


def read_pin(text: str, llms: Sequence[str]) -> Pin:
    """``LLM=TP:SHARE:REPLICAS`` as a pin. Raises ``InputError``."""
    llm, _, rest = text.rpartition("=")
    found = re.fullmatch(r"(\d+):(\d+)%?:(\d+)", rest)
    if not found or llm not in llms:
        raise InputError(
            f"--pin is {text!r}: must be LLM=TP:SHARE:REPLICAS, e.g. {llms[0]}=2:100:3, with LLM one of {', '.join(llms)}"
        )
    degree, share, replicas = map(int, found.groups())
    if not (degree >= 1 and 1 <= share <= 100 and replicas >= 1):
        raise InputError(f"--pin is {text!r}: TP and REPLICAS must be >= 1, SHARE 1 to 100 percent of a GPU")
    return Pin(llm, degree, share, replicas)


def read_ban(text: str, llms: Sequence[str]) -> Ban | None:
    """``LLM=TP`` or ``LLM=TP:SHARE`` as a ban; None for a text that is neither (a node or a GPU type, say)."""
    llm, _, rest = text.rpartition("=")
    found = re.fullmatch(r"(\d+)(?::(\d+)%?)?", rest)
    if not found or llm not in llms:
        return None
    return Ban(llm, int(found[1]), int(found[2]) if found[2] else None)
