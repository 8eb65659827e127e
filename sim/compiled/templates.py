"""Traced runs as numbers: what all replays of one have in common (``sim.world.agent.Walk``), made at the first."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from scepsy.workload import Run, Trace
from sim.compiled import layout as at
from sim.engine.clock import ticks
from sim.engine.prefix import PrefixKeys

Words = npt.NDArray[np.int64]


def split(total: int) -> tuple[int, int]:
    """Ticks as (epochs, the rest)."""
    return total >> at.EPOCH_BITS, total & (at.EPOCH - 1)


class Templates:
    """A growing array of templates, and what the rows need to know of them."""

    def __init__(self, prefixes: PrefixKeys, llms: Sequence[str]) -> None:
        """``llms``: their order is their number."""
        self._prefixes = prefixes
        self._llms: Mapping[str, int] = {llm: number for number, llm in enumerate(llms)}
        self.traces: list[Trace] = []
        self.words: Words = np.zeros(1 << 12, dtype=np.int64)
        self.size = 0
        self._places: dict[int, int] = {}
        self._key_numbers: dict[int, int] = {}
        self.sessions: dict[str, int] = {}
        self.runs: list[Run] = []
        self.call_ids: list[str] = []
        self.call_llms: list[int] = []
        self.call_templates: list[int] = []
        self.call_inputs: list[int] = []
        self.call_outputs: list[int] = []
        self.most_children = 1
        self.most_keys = 0
        self.most_calls = 1

    def session(self, run: Run) -> str:
        """What a run's calls have in common with those of other runs; empty: nothing."""
        return self._prefixes.session(run)

    def place(self, run: Run) -> int:
        """Where a run's template is."""
        place = self._places.get(id(run))
        if place is None:
            place = self._places[id(run)] = self._add(run)
        return place

    def _add(self, run: Run) -> int:
        calls, start = run.calls, self.size
        index = {call.id: number for number, call in enumerate(calls)}
        parents = [sorted({index[parent] for parent in call.parents}) for call in calls]
        children: list[list[int]] = [[] for _ in calls]
        for node, mine in enumerate(parents):
            for parent in mine:
                children[parent].append(node)
        roots = [node for node, mine in enumerate(parents) if not mine]
        session = self.session(run)
        keys = [[self._numbers(part) for part in each] for each in self._prefixes.of(run)]
        behind = start + at.T_WORDS + at.S_WORDS * len(calls)
        words = [
            len(self.runs),
            len(calls),
            len(roots),
            behind,
            *split(ticks(run.tail_s)),
            sum(call.input_tokens + call.output_tokens for call in calls),
            self.sessions.setdefault(session, len(self.sessions)) if session else -1,
        ]
        tail = list(roots)
        for node, call in enumerate(calls):
            shared, private = keys[node]
            words += [
                len(self.call_ids) + node,
                self._llms[call.llm],
                call.input_tokens,
                call.output_tokens,
                *split(ticks(call.gap_s)),
                len(parents[node]),
                len(children[node]),
                behind + len(tail),
                len(shared),
                len(shared) + len(private),
                behind + len(tail) + len(children[node]),
            ]
            tail += children[node] + shared + private
            self.most_children = max(self.most_children, len(children[node]))
            self.most_keys = max(self.most_keys, len(shared) + len(private))
        self.most_children = max(self.most_children, len(roots))
        self.most_calls = max(self.most_calls, len(calls))
        self.call_ids += [call.id for call in calls]
        self.call_llms += [self._llms[call.llm] for call in calls]
        self.call_templates += [len(self.runs)] * len(calls)
        self.call_inputs += [call.input_tokens for call in calls]
        self.call_outputs += [call.output_tokens for call in calls]
        self.runs.append(run)
        self._append(words + tail)
        return start

    def place_part(self, part: Run, whole: Run) -> int:
        """Where the template of some calls of a run is, without those that they waited for; their text is the whole run's."""
        place = self._places.get(id(part))
        if place is None:
            place = self._places[id(part)] = self._add_part(part, self.place(whole), whole)
        return place

    def _add_part(self, part: Run, whole_at: int, whole: Run) -> int:
        calls, start = part.calls, self.size
        index = {call.id: number for number, call in enumerate(calls)}
        there = {call.id: number for number, call in enumerate(whole.calls)}
        parents = [sorted({index[parent] for parent in call.parents}) for call in calls]
        children: list[list[int]] = [[] for _ in calls]
        for node, mine in enumerate(parents):
            for parent in mine:
                children[parent].append(node)
        roots = [node for node, mine in enumerate(parents) if not mine]
        behind = start + at.T_WORDS + at.S_WORDS * len(calls)
        words = self.words[whole_at : whole_at + at.T_WORDS].tolist()
        words[at.T_CALLS], words[at.T_ROOTS], words[at.T_ROOTS_AT] = len(calls), len(roots), behind
        words[at.T_TOKENS] = sum(call.input_tokens + call.output_tokens for call in calls)
        tail = list(roots)
        for node, call in enumerate(calls):
            step = whole_at + at.T_WORDS + at.S_WORDS * there[call.id]
            fields = self.words[step : step + at.S_WORDS].tolist()
            fields[at.S_GAP_EPOCHS], fields[at.S_GAP] = split(ticks(call.gap_s))
            fields[at.S_PARENTS], fields[at.S_CHILDREN] = len(parents[node]), len(children[node])
            fields[at.S_CHILDREN_AT] = behind + len(tail)
            words += fields
            tail += children[node]
            self.most_children = max(self.most_children, len(children[node]))
        self.most_children = max(self.most_children, len(roots))
        self._append(words + tail)
        return start

    def _numbers(self, keys: Sequence[int]) -> list[int]:
        known = self._key_numbers
        return [known.setdefault(key, len(known)) for key in keys]

    def _append(self, words: list[int]) -> None:
        end = self.size + len(words)
        if end > len(self.words):
            larger = np.zeros(2 * end, dtype=np.int64)
            larger[: self.size] = self.words[: self.size]
            self.words = larger
        self.words[self.size : end] = words
        self.size = end
