"""Why a process ended, from its exit code and its log."""

import os
import re
import signal
from pathlib import Path

_CAUSE = re.compile(r"\b\w*(?:Error|Exception|Killed): .*")
_HARMLESS = re.compile(r"\b(?:DEBUG|INFO|WARNING)\b|Warning: ")
"""Lines that may name an error without being one, as in ``WARNING … this can cause OSError: …``."""

_TAIL_BYTES = 256 * 1024


def log_tail(path: Path, lines: int = 2) -> str:
    """Why a process ended, from its log: the first error in its last part (later ones follow from it), else its end."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace").splitlines()[-400:]
    except OSError:
        return "no log"
    causes = [_with_detail(match[0], text[n + 1 :]) for n, line in enumerate(text) if (match := _cause(line))]
    return " | ".join(line.strip()[-300:] for line in (causes[:1] or text[-lines:])) or "empty log"


def _cause(line: str) -> re.Match[str] | None:
    found = _CAUSE.search(line)
    return None if found is None or _HARMLESS.search(line, 0, found.start()) else found


def _with_detail(cause: str, after: list[str]) -> str:
    """A cause that only counts what is wrong (pydantic's ``1 validation error for …``) with the first of these, which follows
    indented."""
    detail = after[0] if after and "validation error" in cause and after[0].startswith("  ") else ""
    return f"{cause}: {detail.strip()}" if detail else cause


def explain_exit(code: int, tail: str) -> str:
    """Why an engine ended, as far as its exit and its log tell."""
    if code == -signal.SIGKILL or "out of memory" in tail.lower() or "OutOfMemory" in tail:
        return f"killed or out of memory (exit {code}): plan less memory or fewer instances on its device; log: {tail}"
    if "address already in use" in tail.lower() or "Errno 98" in tail:
        return f"its port is taken: set base_port to a free range; log: {tail}"
    return f"exit {code}; log: {tail}"
