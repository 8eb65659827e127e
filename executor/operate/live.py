"""From call records to runs: which have ended, which are open, and what each tells.

A run has ended when it has made no call for ``idle_s``. Only ended calls are recorded, so whether one is under way is not
known: as long is waited again as calls take. A call that took longer, and had begun before the run had been idle for so long,
shows that the run had not ended: it is open again. Records without a run id (rung ``none``) are grouped as an import groups
them, all those at once that have been quiet for so long, and a call that was under way then is in a later group.
"""

from collections import OrderedDict, deque
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
UNDER_WAY = (256, 0.99)
"""Of the latest 256 calls, 99 % took no longer than is waited beside the idle time."""

Key = tuple[str, str]
"""Workflow and run id."""


class LiveRuns:
    """Runs of the workflows of one plan. ``other_names``: LLM by every other name that its instances answer to; a recording
    has the names that were asked for."""

    def __init__(self, workflows: Sequence[str], idle_s: float = IDLE_S, other_names: Mapping[str, str] | None = None) -> None:
        self._workflows, self._idle_s, self._llms = tuple(workflows), idle_s, dict(other_names or {})
        self._open: dict[Key, list[CallRecord]] = {}
        self._over: OrderedDict[Key, tuple[list[CallRecord], list[Seen]]] = OrderedDict()
        """The latest that were taken for ended, in case a call of theirs was under way."""
        self._loose: list[CallRecord] = []
        self._ended: dict[str, list[Seen]] = {name: [] for name in workflows}
        self._seen_after_s: deque[float] = deque(maxlen=UNSEEN[0])
        self._took_s: deque[float] = deque(maxlen=UNDER_WAY[0])
        self.resumed = 0
        """Runs that were taken for ended while a call of theirs was under way."""
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
            self._took_s.append(record.end_s - record.start_s)
            if record.rung == "none":
                self.unnamed += 1
                self._loose.append(record)
                self._seen_after_s.append(record.end_s - record.start_s)
            else:
                self._add((workflow, record.run), record)

    def _add(self, key: Key, record: CallRecord) -> None:
        before, seen = self._over.get(key, ([], []))
        if before and not self._idle_before(record, before):
            del self._over[key]
            self._ended[key[0]] = [each for each in self._ended[key[0]] if not any(each is gone for gone in seen)]
            self._open[key] = [*before, *self._open.get(key, ())]
            self.resumed += 1
        elif key in self._open and self._idle_before(record, self._open[key]):
            self._end_named(key)
        if key not in self._open:
            self._seen_after_s.append(record.end_s - record.start_s)
        self._open.setdefault(key, []).append(record)

    def _idle_before(self, record: CallRecord, records: Sequence[CallRecord]) -> bool:
        """Whether a run that made these calls had ended when another began."""
        return record.start_s > max(each.end_s for each in records) + self._idle_s

    def _workflow(self, record: CallRecord) -> str | None:
        """The plan's workflow that a call belongs to. Where the plan has one only, calls that name none belong to it."""
        if record.workflow in self._workflows:
            return record.workflow
        return self._workflows[0] if len(self._workflows) == 1 else None

    def known_until_s(self, now_s: float) -> float:
        """Of the runs that arrived later, some are not seen yet. The more an engine is behind, the longer ago that is."""
        return now_s - (float(np.quantile(self._seen_after_s, UNSEEN[1])) if self._seen_after_s else 0.0)

    @property
    def quiet_s(self) -> float:
        """A run is taken for ended so long after its last call."""
        return self._idle_s + (float(np.quantile(self._took_s, UNDER_WAY[1])) if self._took_s else 0.0)

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
            self._end_named(key)
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

    def _end_named(self, key: Key) -> None:
        records = self._open.pop(key)
        seen = self._end(key[0], records)
        if not seen:  # it came all the same, and is part of the rate
            begin_s, end_s = min(each.start_s for each in records), max(each.end_s for each in records)
            seen = self._keep(key[0], [Seen(workflow=key[0], arrival_s=begin_s, end_s=end_s)])
        self._over[key] = (records, seen)
        self._over.move_to_end(key)
        if len(self._over) > KEPT_RUNS:
            self._over.popitem(last=False)

    def _end(self, workflow: str, records: Sequence[CallRecord]) -> list[Seen]:
        """Runs that ended with these calls; none where no call was completed."""
        begin_s = [record.start_s for record in records if record.outcome == "completed" and record.input_tokens >= 1]
        if not begin_s:
            return []
        try:
            trace = to_trace(records, "the recording")
        except (InputError, ValueError):
            return []
        found = []
        for run in trace.runs:
            arrival_s = min(begin_s) + (run.arrival_s or 0.0)
            end_s = arrival_s + max(call.end_s or 0.0 for call in run.calls)
            named = run if run.workflow == workflow else msgspec.structs.replace(run, workflow=workflow)
            found.append(seen_of(named, arrival_s, end_s))
        return self._keep(workflow, found)

    def _keep(self, workflow: str, found: list[Seen]) -> list[Seen]:
        self._ended[workflow] += found
        if len(self._ended[workflow]) > 2 * KEPT_RUNS:
            del self._ended[workflow][:KEPT_RUNS]
        return found
