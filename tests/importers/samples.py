"""Fixtures in the foreign schemas, found by folder: ``fixtures/<name in the registry>/<any file>``, each an input of its own.

Every text that a prompt, an answer or a tool's result would be holds ``CANARY``, which no output of ours may ever hold.
"""

from pathlib import Path

from scepsy.importers.registry import IMPORTERS

FOLDER = Path(__file__).parent / "fixtures"
CANARY = "CANARY"

WITHOUT_TEXT = {"azure", "burstgpt", "kv-cache-tester", "mooncake", "mooncake-sessions", "qwen-bailian"}
"""Formats that record no text at all."""


def samples() -> list[tuple[str, Path]]:
    """(name in the registry, file) of every fixture."""
    return [(name, path) for name in IMPORTERS for path in sorted((FOLDER / name).glob("*"))]
