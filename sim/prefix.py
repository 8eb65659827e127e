"""Which KV blocks of a prompt could be shared: keys from the prefix hash ids of a trace.

A trace's ids cover ``prefix_block_tokens`` tokens each and name the whole prefix up to their end. A KV block is known when the id
that covers its last token is known. When a traced run is replayed several times, the text that only its
session has is another user's and another text; ids that occur in several sessions (system prompts, tool lists) stay shared.
"""

from collections.abc import Mapping, Sequence

from scepsy.workload import Run, Trace

Keys = tuple[list[int], list[int]]
"""Leading keys shared with other sessions, then the private ones."""

_OFFSETS = 1 << 12
_SALT_BITS = 96


class PrefixKeys:
    """Makes the keys of every call of the workload's traces."""

    def __init__(self, traces: Sequence[tuple[Trace, bool]], block_tokens: Mapping[str, int]) -> None:
        self._block_tokens = block_tokens
        """KV block size by LLM."""
        self._id_tokens: dict[int, int] = {}
        self._salted: set[int] = set()
        owner: dict[int, str] = {}
        self._shared: set[int] = set()
        for trace, sampled in traces:
            if sampled:
                self._salted.update(id(run) for run in trace.runs)
            if not trace.prefix_block_tokens:
                continue
            for run in trace.runs:
                self._id_tokens[id(run)] = trace.prefix_block_tokens
                name = run.session or run.id
                for call in run.calls:
                    for item in call.prefix_hashes:
                        if owner.setdefault(item, name) != name:
                            self._shared.add(item)

    def of(self, run: Run) -> list[Keys]:
        """Keys of each call of a run, in order; both lists empty for calls without hashes."""
        id_tokens = self._id_tokens.get(id(run), 0)
        if not id_tokens:
            return [([], [])] * len(run.calls)
        return [
            self._keys(
                call.prefix_hashes, call.input_tokens, id_tokens, self._block_tokens.get(call.llm, 16), id(run) in self._salted
            )
            for call in run.calls
        ]

    def _keys(self, ids: tuple[int, ...], input_tokens: int, id_tokens: int, block_tokens: int, salted: bool) -> Keys:
        blocks = min(input_tokens, len(ids) * id_tokens) // block_tokens
        of_block = [ids[(block_tokens * (block + 1) - 1) // id_tokens] for block in range(blocks)]
        keys = [item * _OFFSETS + block % _OFFSETS for block, item in enumerate(of_block)]
        shared = blocks
        if salted:
            shared = next((block for block, item in enumerate(of_block) if item not in self._shared), blocks)
        return keys[:shared], keys[shared:]

    def session(self, run: Run) -> str:
        """The run's session, unless each replay of the run is another user's."""
        return "" if id(run) in self._salted else run.session


def salted(shared: list[int], private: list[int], salt: int) -> list[int]:
    """All keys of one issued call: the private ones made its own."""
    offset = salt << _SALT_BITS
    return shared + [key + offset for key in private]
