"""Logs without what clients and engines said: neither keys nor prompts, at any level, from any library.

HTTP libraries log what they could not parse, and what they could not parse may be a key or a prompt. Their records are
therefore reduced to where they came from and the kind of error. The same holds for what Python itself prints of errors
that nobody caught.
"""

import asyncio
import logging
import sys
import traceback
from types import TracebackType
from typing import Any

log = logging.getLogger("scepsy.gateway")

FOREIGN = (
    "asyncio",
    "aiohttp.access",
    "aiohttp.client",
    "aiohttp.internal",
    "aiohttp.server",
    "aiohttp.web",
    "aiohttp.websocket",
    "concurrent.futures",
)
"""Loggers of libraries through which requests and replies pass."""


class Discreet(logging.Filter):
    """Reduces every record to its place and the kind of its error."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record in place; it always passes."""
        kind = record.exc_info[0] if isinstance(record.exc_info, tuple) else None
        what = f", {kind.__name__}" if kind is not None else ""
        record.msg = f"{record.name}: {record.filename}:{record.lineno}{what}"
        record.args = record.exc_info = record.exc_text = record.stack_info = None
        return True


_FILTER = Discreet()


def hush() -> None:
    """Make this process discreet: foreign loggers, and errors that nobody caught."""
    for name in FOREIGN:
        logger = logging.getLogger(name)
        if _FILTER not in logger.filters:
            logger.addFilter(_FILTER)
    sys.unraisablehook = _unraisable
    sys.excepthook = _uncaught


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """For ``loop.set_exception_handler``."""
    log.error("internal error: %s", describe(context.get("exception")))


def describe(error: BaseException | None) -> str:
    """An error's kind and the place it came from; never its message, which may quote what was sent.

    >>> describe(ValueError("secret"))
    'ValueError'
    """
    if error is None:
        return "no exception"
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    log.error("internal error: %s", describe(unraisable.exc_value))


def _uncaught(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    log.critical("internal error: %s", describe(error))
