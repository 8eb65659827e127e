"""One pass over a workflow's runs, keeping numbers only: what the statistics are computed from."""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from scepsy.dag import latency_s, timed
from scepsy.stats.use import UseSums
from scepsy.workload import Run

Floats = npt.NDArray[np.float64]


@dataclass
class _LlmColumns:
    seconds: "array[float]" = field(default_factory=lambda: array("d"))
    """Per run, up to the last run that called it."""
    input_tokens: "array[int]" = field(default_factory=lambda: array("q"))
    output_tokens: "array[int]" = field(default_factory=lambda: array("q"))


@dataclass
class RunTable:
    """Numbers of one workflow's runs; about 30 bytes per call."""

    workflow: str
    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))
    use: UseSums = field(default_factory=UseSums)
    classes: Counter[tuple[str, ...]] = field(default_factory=Counter)
    """How many runs call exactly these LLMs (names sorted)."""
    nominal_runs: int = 0
    """Runs that were not recorded in full: nominal service times stand in."""
    most_in_flight: int = 0
    llms: dict[str, _LlmColumns] = field(default_factory=dict)

    def add(self, run: Run) -> None:
        """Take in one run."""
        recorded = timed(run)
        self.nominal_runs += recorded is not run
        self.use.add(recorded)
        number = len(self.latencies_s)
        self.latencies_s.append(latency_s(recorded))
        self.classes[tuple(sorted({call.llm for call in recorded.calls}))] += 1
        moments: list[tuple[float, int]] = []
        for call in recorded.calls:
            columns = self.llms.setdefault(call.llm, _LlmColumns())
            columns.seconds.extend(0.0 for _ in range(number + 1 - len(columns.seconds)))
            columns.seconds[number] += call.duration_s
            columns.input_tokens.append(call.input_tokens)
            columns.output_tokens.append(call.output_tokens)
            moments += [(call.start_s or 0.0, 1), (call.end_s or 0.0, -1)]
        open_calls = 0
        for _, step in sorted(moments):
            open_calls += step
            self.most_in_flight = max(self.most_in_flight, open_calls)

    @property
    def runs(self) -> int:
        """Runs taken in."""
        return len(self.latencies_s)

    @property
    def calls(self) -> int:
        """Calls taken in."""
        return sum(len(columns.input_tokens) for columns in self.llms.values())

    def latency_s(self) -> Floats:
        """Latency of every run; shape (runs,), seconds."""
        return np.array(self.latencies_s, dtype=float)

    def seconds(self) -> Floats:
        """Summed call seconds of every run and LLM; shape (runs, LLMs), LLMs in order of first appearance."""
        table = np.zeros((self.runs, len(self.llms)))
        for place, columns in enumerate(self.llms.values()):
            table[: len(columns.seconds), place] = columns.seconds
        return table


def tabulate(runs: Iterable[Run]) -> dict[str, RunTable]:
    """One table per workflow, in order of first appearance. The runs are read once and not kept."""
    tables: dict[str, RunTable] = {}
    for run in runs:
        tables.setdefault(run.workflow, RunTable(run.workflow)).add(run)
    return tables
