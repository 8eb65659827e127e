"""Records: what happened to every run and every call, in one schema for simulated and measured results.

Two tables, written side by side as ``<name>.runs.parquet`` and ``<name>.calls.parquet``. All times are seconds on one
clock that starts with the workload. ``status`` is completed, rejected or unfinished, and
``issued = completed + rejected + unfinished`` for runs and for calls.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

COMPLETED, REJECTED, UNFINISHED = "completed", "rejected", "unfinished"

RUN_SCHEMA = pa.schema(
    [
        ("run", pa.string()),  # unique among the issued runs
        ("template", pa.string()),  # id of the traced run that was replayed
        ("workflow", pa.string()),
        ("arrival_s", pa.float64()),
        ("end_s", pa.float64()),  # null unless completed
        ("status", pa.string()),
    ]
)

CALL_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("call", pa.string()),
        ("workflow", pa.string()),
        ("llm", pa.string()),
        ("instance", pa.string()),  # null when no instance took it
        ("issued_s", pa.float64()),  # the agent sent it
        ("scheduled_s", pa.float64()),  # first admitted to a batch
        ("first_token_s", pa.float64()),  # pooling calls: the end
        ("end_s", pa.float64()),
        ("input_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("cached_tokens", pa.int32()),  # prompt tokens that the prefix cache served
        ("preemptions", pa.int32()),
        ("status", pa.string()),
    ]
)


@dataclass(frozen=True)
class Records:
    """The two tables and what they came from."""

    runs: pa.Table
    calls: pa.Table
    meta: Mapping[str, str] = field(default_factory=dict)
    """Provenance: source (simulated or measured), seed, plan, versions, …"""

    def __post_init__(self) -> None:
        if not self.runs.schema.equals(RUN_SCHEMA):
            raise ValueError(f"runs table has schema {self.runs.schema}: must be RUN_SCHEMA")
        if not self.calls.schema.equals(CALL_SCHEMA):
            raise ValueError(f"calls table has schema {self.calls.schema}: must be CALL_SCHEMA")
