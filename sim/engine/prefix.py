"""Which KV blocks of a prompt could be shared: keys from the prefix hash ids of a trace.

A trace's ids cover ``prefix_block_tokens`` tokens each and name the whole prefix up to their end. A KV block is known when
the id that covers its last token is known. When a traced run is replayed several times, the text that only its session has
is another user's and another text; ids that occur in several sessions (system prompts, tool lists) stay shared.

Only what a second call could ask for gets a key: the blocks behind the last such id are anonymous, like generated ones.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from scepsy.prefixes import shared_between_sessions
from scepsy.workload import Call, Run, Trace

Keys = tuple[list[int], list[int]]
"""Leading keys shared with other sessions, then the private ones."""

_OFFSETS = 1 << 12
_SALT_BITS = 96


class PrefixKeys:
    """Makes the keys of every call of the workload's traces."""

    def __init__(self, traces: Sequence[tuple[Trace, bool]], block_tokens: Mapping[str, int]) -> None:
        """``traces``: each with whether its runs are sampled, so that one run may be issued several times."""
        self._block_tokens = block_tokens
        """KV block size by LLM."""
        self._id_tokens: dict[int, int] = {}
        self._salted: set[int] = set()
        self._uses: Counter[int] = Counter()
        """Calls of all traces in which an id occurs."""
        known: list[Run] = []
        for trace, sampled in traces:
            if sampled:
                self._salted.update(id(run) for run in trace.runs)
            if trace.prefix_block_tokens:
                known += trace.runs
                self._id_tokens.update({id(run): trace.prefix_block_tokens for run in trace.runs})
        self._shared = shared_between_sessions(known)
        for run in known:
            for call in run.calls:
                self._uses.update(call.prefix_hashes)

    def add_part(self, part: Run, whole: Run) -> None:
        """Know a run that consists of some calls of a known one: its text is the whole run's."""
        if id(whole) in self._id_tokens:
            self._id_tokens[id(part)] = self._id_tokens[id(whole)]
        if id(whole) in self._salted:
            self._salted.add(id(part))

    def of(self, run: Run) -> list[Keys]:
        """Keys of each call of a run, in order; both lists empty for calls without hashes."""
        id_tokens = self._id_tokens.get(id(run), 0)
        if not id_tokens:
            return [([], [])] * len(run.calls)
        if id(run) not in self._salted:
            return [(self._keys(call, id_tokens, len(self._asked(call, self._uses))), []) for call in run.calls]
        uses = Counter(item for call in run.calls for item in call.prefix_hashes)
        uses.update(self._shared.intersection(uses))
        found = []
        for call in run.calls:
            asked = self._asked(call, uses)
            shared = next((place for place, item in enumerate(asked) if item not in self._shared), len(asked))
            keys = self._keys(call, id_tokens, len(asked))
            blocks = self._blocks(call, id_tokens, shared)
            found.append((keys[:blocks], keys[blocks:]))
        return found

    @staticmethod
    def _asked(call: Call, uses: Mapping[int, int]) -> tuple[int, ...]:
        """The leading ids up to the last that some other call has as well."""
        ids = call.prefix_hashes
        end = len(ids)
        while end and uses[ids[end - 1]] < 2:
            end -= 1
        return ids[:end]

    def _keys(self, call: Call, id_tokens: int, ids: int) -> list[int]:
        """Keys of the KV blocks that the first ``ids`` ids cover."""
        block_tokens = self._block_tokens.get(call.llm, 16)
        hashes = call.prefix_hashes
        return [
            hashes[(block_tokens * (block + 1) - 1) // id_tokens] * _OFFSETS + block % _OFFSETS
            for block in range(self._blocks(call, id_tokens, ids))
        ]

    def _blocks(self, call: Call, id_tokens: int, ids: int) -> int:
        """KV blocks that the first ``ids`` ids cover."""
        return min(call.input_tokens, ids * id_tokens) // self._block_tokens.get(call.llm, 16)

    def session(self, run: Run) -> str:
        """The run's session, unless each replay of the run is another user's."""
        return "" if id(run) in self._salted else run.session


def salted(shared: list[int], private: list[int], salt: int) -> list[int]:
    """All keys of one issued call: the private ones made its own."""
    offset = salt << _SALT_BITS
    return shared + [key + offset for key in private]
