"""Real traces for the experiments that use them, imported from the folder ``$SCEPSY_DATA``; nothing of it is stored."""

import functools
import os
from pathlib import Path

import msgspec

from scepsy.errors import InputError
from scepsy.importers.registry import find_importer
from scepsy.workload import Run, Trace

MOST_CONTEXT_TOKENS = 100_000
"""Runs with longer calls are left out: the models that stand in take 128k tokens of context."""
MOST_RUNS = 150

REAL = {
    "tau2-airline": ("tau2", "tau2/gpt41_airline.json"),
    "tau2-retail": ("tau2", "tau2/gpt41_retail.json"),
    "tau2-telecom": ("tau2", "tau2/gpt41_telecom.json"),
    "kvct-neon": ("kv-cache-tester", "kvct_neon/*.json"),
    "kvct-v8": ("kv-cache-tester", "kvct_v8/*.json"),
}
"""Name → (format, files in the folder)."""


def data_folder() -> Path | None:
    """``$SCEPSY_DATA``, or None when it is not set."""
    folder = os.environ.get("SCEPSY_DATA")
    return Path(folder) if folder else None


@functools.lru_cache(maxsize=8)
def read_real(name: str) -> Trace:
    """One real trace. Raises ``InputError`` without the folder, or for an unknown name."""
    if name not in REAL:
        raise InputError(f"real trace is {name!r}: must be one of {', '.join(REAL)}")
    folder = data_folder()
    if folder is None:
        raise InputError(f"real trace {name}: SCEPSY_DATA is not set: set it to the folder that holds {REAL[name][1]}")
    kind, pattern = REAL[name]
    trace = find_importer(kind)(sorted(folder.glob(pattern)))
    runs = [run for run in trace.runs if _longest(run) <= MOST_CONTEXT_TOKENS][:MOST_RUNS]
    left = len(trace.runs) - len(runs)
    notes = (
        *trace.source.notes,
        f"{left} of {len(trace.runs)} runs left out: calls beyond {MOST_CONTEXT_TOKENS} tokens, or a cap",
    )
    source = msgspec.structs.replace(trace.source, notes=notes)
    named = tuple(msgspec.structs.replace(run, workflow=f"real:{name}") for run in runs)
    return msgspec.structs.replace(trace, source=source, runs=named)


def _longest(run: Run) -> int:
    return max(call.input_tokens + call.output_tokens for call in run.calls)
