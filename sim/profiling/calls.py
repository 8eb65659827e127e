"""What happened to the calls of one replay, as arrays, and what the instances did meanwhile."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scepsy.predictors.aggregate import Floats, Integers


@dataclass(frozen=True)
class Duty:
    """How an instance spent its time between warm-up and the last arrival."""

    decoding: float
    """Part of its busy time with a call decoding."""
    stretchable: float
    """Part of its busy time that was not prompt processing."""


@dataclass(frozen=True)
class Calls:
    """What happened to every call that ended in a replay: arrays of one entry per call."""

    workflow: Integers
    """Index of the caller among the bench's streams."""
    run: Integers
    """Number of the issued run."""
    issued_s: Floats
    end_s: Floats
    input_tokens: Floats
    output_tokens: Floats
    cached_tokens: Floats

    def where(self, keep: Any) -> "Calls":
        """The calls selected by a mask or an order."""
        return Calls(**{name: getattr(self, name)[keep] for name in self.__dataclass_fields__})

    def __len__(self) -> int:
        return len(self.run)

    @property
    def latency_s(self) -> Floats:
        """Seconds from issue to end."""
        return self.end_s - self.issued_s


def joined(parts: Sequence[Calls]) -> Calls:
    """Several replays one after another: their runs and times are kept apart."""
    if len(parts) == 1:
        return parts[0]
    later_s, later_runs, moved = 0.0, 0, []
    for part in parts:
        columns = {name: getattr(part, name) for name in part.__dataclass_fields__}
        columns["issued_s"] = part.issued_s + later_s
        columns["end_s"] = part.end_s + later_s
        columns["run"] = part.run + later_runs
        moved.append(columns)
        later_s = float(columns["issued_s"].max(initial=later_s)) + 1.0
        later_runs = int(columns["run"].max(initial=later_runs)) + 1
    return Calls(**{name: np.concatenate([columns[name] for columns in moved]) for name in moved[0]})
