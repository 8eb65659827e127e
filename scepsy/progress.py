"""What a long computation calls while it runs, so that its caller can show how far it is.

Functions take one of these as an argument named ``progress`` or ``notify``. Nothing is shown unless the caller passes one.
"""

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Counts steps: called when steps have ended, or when what is counted changes."""

    def __call__(self, amount: int = 1, *, total: int | None = None, what: str | None = None) -> None:
        """``amount`` more steps have ended. ``total`` is their whole number, where known. ``what`` names what is counted."""


Notify = Callable[[str], None]
"""Called with one line of text when something happened that the person who waits should read."""


def no_progress(amount: int = 1, *, total: int | None = None, what: str | None = None) -> None:
    """Shows nothing."""


def no_notice(line: str) -> None:
    """Shows nothing."""
