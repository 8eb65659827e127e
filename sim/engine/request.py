"""One LLM call while an instance serves it."""

from typing import Any, Protocol

from sim.engine.kv import Block, Segment


class Caller(Protocol):
    """Who issued the call and wants to hear of its end."""

    id: str
    served_tokens: int
    """Tokens of the run's calls that have ended."""
    waited_ticks: int
    """What those calls waited in all, from issue to first admission."""
    served_ticks: int
    """What they took after that."""

    @property
    def remaining_tokens(self) -> int:
        """Tokens of the run's calls that have not ended."""

    def call_ended(self, request: "Request") -> None:
        """The call completed or was rejected: see ``request.end`` and ``request.rejected``."""


NO_KEYS: list[int] = []
NO_BLOCKS: list[Block] = []
"""Stands for an empty list; never appended to."""


class Request:
    """Times are ticks, −1 until known.

    With slots: calls in flight are what a large simulation's memory consists of, and they are touched in random order.
    """

    __slots__ = (
        "blocks",
        "cached_tokens",
        "caller",
        "computed",
        "emitted",
        "end",
        "first_token",
        "held",
        "input_tokens",
        "instance",
        "issued",
        "joined_at",
        "keys",
        "node",
        "number",
        "output_tokens",
        "own",
        "own_full",
        "preemptions",
        "rejected",
        "residue",
        "scheduled",
        "status",
        "target",
    )

    def __init__(self, caller: Any, node: int, input_tokens: int, output_tokens: int, keys: list[int], issued: int) -> None:
        self.caller: Caller = caller
        self.node = node
        """Index of the call within its run."""
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        """0: a pooling call, done when its prompt is."""
        self.keys = keys
        """Prefix keys of the prompt's leading KV blocks."""
        self.issued = issued
        self.scheduled = self.first_token = self.end = -1
        self.rejected = False
        self.status = "unfinished"
        self.instance: str | None = None
        self.number = -1
        """Order of admission while running, else −1."""
        self.emitted = 0
        """Output tokens so far; while decoding, as of the last (re)prefill's end."""
        self.computed = 0
        """Tokens with KV; while decoding, as of the last (re)prefill's end."""
        self.target = 0
        """Tokens that the current (re)prefill must compute."""
        self.joined_at = 0
        """Iteration count of the instance when decoding began."""
        self.residue = 0
        """Needs a new block in iterations congruent to this, modulo the block size."""
        self.blocks: list[Block] = NO_BLOCKS
        """Keyed prompt blocks held."""
        self.held = 0
        """All blocks held as of the last (re)prefill chunk, ``blocks`` included."""
        self.own: Segment | None = None
        """After a preemption: its own blocks beyond the keyed ones, as far as they were not evicted."""
        self.own_full = 0
        """How many of them were full, and so cached, when it was preempted."""
        self.cached_tokens = 0
        self.preemptions = 0

    def forget(self) -> None:
        """Start anew elsewhere: nothing is computed, nothing emitted; when it was issued and first scheduled stands."""
        self.number = -1
        self.emitted = self.computed = self.target = self.held = 0
        self.first_token = -1
        self.blocks = NO_BLOCKS
        self.own = None
