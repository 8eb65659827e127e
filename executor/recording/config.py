"""What a gateway records."""

from scepsy.value import Value, require, require_finite


class Recording(Value, frozen=True, kw_only=True):
    """Whether and how calls are recorded."""

    path: str
    """JSON Lines, appended to; relative to the configuration file."""
    workflow: str = "default"
    """Of calls that do not name one (header ``x-scepsy-workflow`` or path ``/workflow/<name>/…``)."""
    isolated: bool = False
    """One run at a time: calls that nothing attributes belong to the run in flight."""
    isolated_gap_s: float = 2.0
    """Silence after which the next such call begins a new run."""
    text: bool = False
    """Keep prompts and outputs too. Off: lengths and hashes only."""

    def __post_init__(self) -> None:
        require(bool(self.path), "path", self.path, "a file to append to")
        require(bool(self.workflow), "workflow", self.workflow, "a non-empty string")
        require_finite("isolated_gap_s", self.isolated_gap_s, exclusive=True)
