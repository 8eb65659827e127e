"""n_m, p_m and tool time: the statistics that the Aggregate LLM Pipeline reads."""

from scepsy.value import Value, require, require_finite


class LlmUse(Value, frozen=True, kw_only=True):
    """What one workflow asks of one LLM, per run."""

    llm: str
    calls_per_run: float
    """n_m"""
    parallelism: float
    """p_m: Σ call seconds over Σ seconds in which at least one is in flight."""

    def __post_init__(self) -> None:
        require_finite("calls_per_run", self.calls_per_run, exclusive=True)
        require(self.parallelism >= 1.0 - 1e-9, "parallelism", self.parallelism, ">= 1")


class WorkflowUse(Value, frozen=True, kw_only=True):
    """What one workflow asks of every LLM."""

    workflow: str
    runs: int
    llms: tuple[LlmUse, ...]
    tool_s: float = 0.0
    """Mean seconds per run in which no LLM call is in flight: tool and think time, uncontended."""

    def calls_per_run(self, llm: str) -> float:
        """n_m, or 0 when the workflow never calls ``llm``."""
        return sum(use.calls_per_run for use in self.llms if use.llm == llm)
