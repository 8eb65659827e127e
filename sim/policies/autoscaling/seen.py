"""What an autoscaler's metrics say of the calls of each LLM since it last looked."""

from dataclasses import dataclass, field
from typing import Any

from sim.engine.clock import seconds
from sim.engine.request import Request
from sim.world.control import DRAINING, READY, Control


@dataclass
class Ended:
    """Calls of one LLM that ended since the last look."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    ttft_s: list[float] = field(default_factory=list)
    """Issue to first token of each."""


class Seen:
    """Counters by LLM."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._ended: dict[str, Ended] = {llm: Ended() for llm in control.llms}
        self._flying = {llm: self._in_flight(llm) for llm in control.llms}
        self._total = dict.fromkeys(control.llms, 0)
        control.tell_ended_calls(self._call_ended)

    def _call_ended(self, request: Request) -> None:
        caller: Any = request.caller
        mine = self._ended[caller.walk.run.calls[request.node].llm]
        mine.calls += 1
        mine.input_tokens += request.input_tokens
        mine.output_tokens += request.output_tokens
        first = request.first_token if request.first_token >= 0 else request.end
        mine.ttft_s.append(seconds(first - request.issued))
        self._total[caller.walk.run.calls[request.node].llm] += 1

    def arrived(self, llm: str) -> int:
        """Calls that arrived since this was last asked: those that ended, and what more is in flight than then."""
        flying = self._in_flight(llm)
        count = self._total[llm] + flying - self._flying[llm]
        self._flying[llm], self._total[llm] = flying, 0
        return max(0, count)

    def ended(self, llm: str) -> Ended:
        """Calls that ended since this was last asked."""
        found, self._ended[llm] = self._ended[llm], Ended()
        return found

    def _in_flight(self, llm: str) -> int:
        members = self._control.of(llm, READY, DRAINING)
        return sum(member.waiting + member.running for member in members) + self._control.held(llm)
