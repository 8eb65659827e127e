"""Every format that can be imported, by the name the command line uses."""

import difflib
from collections.abc import Mapping

from scepsy.errors import InputError
from scepsy.importers.agentic_mooncake import AGENTIC_MOONCAKE
from scepsy.importers.aiperf import AIPERF
from scepsy.importers.azure import AZURE
from scepsy.importers.base import Importer
from scepsy.importers.burstgpt import BURSTGPT
from scepsy.importers.claude_code import CLAUDE_CODE
from scepsy.importers.codex import CODEX
from scepsy.importers.dynamo_trace import DYNAMO_TRACE
from scepsy.importers.guidellm import GUIDELLM
from scepsy.importers.inference_perf import INFERENCE_PERF
from scepsy.importers.kvcache import KV_CACHE_TESTER
from scepsy.importers.langfuse import LANGFUSE
from scepsy.importers.langsmith import LANGSMITH
from scepsy.importers.litellm import LITELLM
from scepsy.importers.mlflow import MLFLOW
from scepsy.importers.mooncake import MOONCAKE
from scepsy.importers.mooncake_sessions import MOONCAKE_SESSIONS
from scepsy.importers.openai_logs import OPENAI_JSONL
from scepsy.importers.openhands import OPENHANDS
from scepsy.importers.openinference import OPENINFERENCE, PHOENIX
from scepsy.importers.otel import OTEL
from scepsy.importers.qwen_bailian import QWEN_BAILIAN
from scepsy.importers.recorded.reader import RECORDING
from scepsy.importers.semantic_router import SEMANTIC_ROUTER
from scepsy.importers.sweagent import SWE_AGENT
from scepsy.importers.tau2 import TAU2
from scepsy.importers.tracelab import TRACELAB
from scepsy.importers.vllm_bench import VLLM_BENCH

IMPORTERS: Mapping[str, Importer] = {
    "recording": RECORDING,
    "openinference": OPENINFERENCE,
    "otel": OTEL,
    "mlflow": MLFLOW,
    "inference-perf": INFERENCE_PERF,
    "phoenix": PHOENIX,
    "langfuse": LANGFUSE,
    "langsmith": LANGSMITH,
    "litellm": LITELLM,
    "openhands": OPENHANDS,
    "swe-agent": SWE_AGENT,
    "claude-code": CLAUDE_CODE,
    "codex": CODEX,
    "tracelab": TRACELAB,
    "tau2": TAU2,
    "kv-cache-tester": KV_CACHE_TESTER,
    "dynamo-trace": DYNAMO_TRACE,
    "agentic-mooncake": AGENTIC_MOONCAKE,
    "mooncake-sessions": MOONCAKE_SESSIONS,
    "qwen-bailian": QWEN_BAILIAN,
    "mooncake": MOONCAKE,
    "azure": AZURE,
    "burstgpt": BURSTGPT,
    "semantic-router": SEMANTIC_ROUTER,
    "vllm-bench": VLLM_BENCH,
    "guidellm": GUIDELLM,
    "aiperf": AIPERF,
    "openai-jsonl": OPENAI_JSONL,
}
"""Name → importer. Detection asks them in this order, so special formats stand before general ones."""


def find_importer(name: str) -> Importer:
    """The importer called ``name``. Raises ``InputError`` naming what there is."""
    if name not in IMPORTERS:
        close = difflib.get_close_matches(name, IMPORTERS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"format is {name!r}: must be one of {', '.join(IMPORTERS)} ({hint}see: scepsy trace list)")
    return IMPORTERS[name]
