"""From call records to runs: which have ended, which are open, and what each tells.

Only ended calls are recorded, so nobody says that a run has ended: it has when nothing came for ``idle_s``. Records without a
run id (rung ``none``) are grouped as an import groups them, all those at once that have been quiet for so long.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from scepsy.errors import InputError
from scepsy.importers.recorded.record import CallRecord
from scepsy.importers.recorded.trace import to_trace
from scepsy.operate.controller import KEPT_RUNS
from scepsy.operate.features import Seen, seen_of

IDLE_S = 30.0
UNSEEN = (64, 0.95)
"""A run is seen when its first call has ended. Of the latest 64 runs, 95 % were seen within the time that is waited."""


class LiveRuns:
    """Runs of the workflows of one plan. ``other_names``: LLM by every other name that its instances answer to; a recording
    has the names that were asked for."""

    def __init__(self, workflows: Sequence[str], idle_s: float = IDLE_S, other_names: Mapping[str, str] | None = None) -> None:
        self._workflows, self._llms = tuple(workflows), dict(other_names or {})
        self.quiet_s = idle_s
        """A run is known to have ended so long after its end."""
        self._open: dict[tuple[str, str], list[CallRecord]] = {}
        self._loose: list[CallRecord] = []
        self._ended: dict[str, list[Seen]] = {name: [] for name in workflows}
        self._seen_after_s: deque[float] = deque(maxlen=UNSEEN[0])
        self.calls = self.unnamed = self.strangers = self.failed = 0
        """Records taken in; of these without a run id, of other workflows, and not completed."""

    def add(self, records: Iterable[CallRecord]) -> None:
        """Take in new records."""
        for record in records:
            self.calls += 1
            if record.llm in self._llms:
                record = msgspec.structs.replace(record, llm=self._llms[record.llm])
            workflow = self._workflow(record)
            if workflow is None:
                self.strangers += 1
                continue
            self.failed += record.outcome != "completed"
            if record.rung == "none":
                self.unnamed += 1
                self._loose.append(record)
                self._seen_after_s.append(record.end_s - record.start_s)
            else:
                if (workflow, record.run) not in self._open:
                    self._seen_after_s.append(record.end_s - record.start_s)
                self._open.setdefault((workflow, record.run), []).append(record)

    def _workflow(self, record: CallRecord) -> str | None:
        """The plan's workflow that a call belongs to. Where the plan has one only, calls that name none belong to it."""
        if record.workflow in self._workflows:
            return record.workflow
        return self._workflows[0] if len(self._workflows) == 1 else None

    def known_until_s(self, now_s: float) -> float:
        """Of the runs that arrived later, some are not seen yet. The more an engine is behind, the longer ago that is."""
        return now_s - (float(np.quantile(self._seen_after_s, UNSEEN[1])) if self._seen_after_s else 0.0)

    def seen(self, now_s: float) -> dict[str, tuple[Seen, ...]]:
        """Everything known at ``now_s`` (Unix seconds): the latest runs by workflow in order of arrival, open ones included."""
        self._close(now_s)
        found: dict[str, tuple[Seen, ...]] = {}
        for name in self._workflows:
            still = [
                Seen(workflow=name, arrival_s=min(record.start_s for record in records))
                for (workflow, _), records in self._open.items()
                if workflow == name
            ]
            mine = sorted([*self._ended[name], *still], key=lambda each: each.arrival_s)
            found[name] = tuple(mine[-KEPT_RUNS:])
        return found

    def _close(self, now_s: float) -> None:
        quiet = now_s - self.quiet_s
        for key in [key for key, records in self._open.items() if max(r.end_s for r in records) < quiet]:
            self._end(key[0], self._open.pop(key))
        loose = [record for record in self._loose if record.end_s < quiet]
        if loose:
            self._loose = [record for record in self._loose if record.end_s >= quiet]
            by_workflow: dict[str, list[CallRecord]] = {}
            for record in loose:
                workflow = self._workflow(record)
                if workflow is not None:
                    by_workflow.setdefault(workflow, []).append(record)
            for workflow, records in by_workflow.items():
                self._end(workflow, records)

    def _end(self, workflow: str, records: Sequence[CallRecord]) -> None:
        begin_s = [record.start_s for record in records if record.outcome == "completed" and record.input_tokens >= 1]
        if not begin_s:
            return
        try:
            trace = to_trace(records, "the recording")
        except (InputError, ValueError):
            return
        for run in trace.runs:
            arrival_s = min(begin_s) + (run.arrival_s or 0.0)
            end_s = arrival_s + max(call.end_s or 0.0 for call in run.calls)
            named = run if run.workflow == workflow else msgspec.structs.replace(run, workflow=workflow)
            self._ended[workflow].append(seen_of(named, arrival_s, end_s))
        if len(self._ended[workflow]) > 2 * KEPT_RUNS:
            del self._ended[workflow][:KEPT_RUNS]
