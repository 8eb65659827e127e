"""Every format that a trace can be exported to, by the name the command line uses."""

from collections.abc import Mapping

from scepsy.files.exports.agentic import save_agentic
from scepsy.files.exports.aiperf import save_aiperf
from scepsy.files.exports.base import Exporter
from scepsy.files.exports.inference_perf import save_inference_perf
from scepsy.files.exports.mooncake import save_mooncake
from scepsy.files.otlp import save_genai, save_openinference

EXPORTERS: Mapping[str, Exporter] = {
    "otel": Exporter("OTLP JSON, one export request per run, GenAI conventions", save_genai, "import otel"),
    "openinference": Exporter(
        "OTLP JSON, one export request per run, OpenInference", save_openinference, "import openinference"
    ),
    "mooncake": Exporter("Mooncake rows: single calls at fixed times", save_mooncake, "import mooncake"),
    "agentic-mooncake": Exporter("Dynamo's agentic rows: calls that wait for others", save_agentic, "import agentic-mooncake"),
    "aiperf": Exporter(
        "AIPerf's mooncake_trace: conversations and single calls",
        save_aiperf,
        "import mooncake-sessions --set prompts=delta",
    ),
    "inference-perf": Exporter(
        "inference-perf's trace_directory: a folder with one span file per run, filler for text",
        save_inference_perf,
        "import inference-perf",
    ),
}
