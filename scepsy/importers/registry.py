"""Every format that can be imported, by the name the command line uses."""

import difflib
from collections.abc import Mapping

from scepsy.errors import InputError
from scepsy.importers.azure import AZURE
from scepsy.importers.base import Importer
from scepsy.importers.kvcache import KV_CACHE_TESTER
from scepsy.importers.mooncake import MOONCAKE
from scepsy.importers.openai_logs import OPENAI_JSONL
from scepsy.importers.openinference import OPENINFERENCE, PHOENIX
from scepsy.importers.otel import OTEL
from scepsy.importers.recorded.reader import RECORDING
from scepsy.importers.tau2 import TAU2

IMPORTERS: Mapping[str, Importer] = {
    "recording": RECORDING,
    "openinference": OPENINFERENCE,
    "otel": OTEL,
    "phoenix": PHOENIX,
    "tau2": TAU2,
    "kv-cache-tester": KV_CACHE_TESTER,
    "azure": AZURE,
    "mooncake": MOONCAKE,
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
