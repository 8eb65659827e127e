"""What signals do to the ``scepsy`` command.

A signal ends the program in one of two ways. While it starts, reads its options or leaves, there is nothing to tidy up: it
says so in one line and is gone. While a command works, the signal becomes an exception in the main thread, so that files
that are half written are removed and processes that were started are ended. Either way the exit code is 128 + the signal.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

SIGNAL_MESSAGES = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "terminated (its terminal went away)",
}

MAIN_THREAD_WAIT_S = 5.0
"""A main thread that does not take notice of SIGTERM for so long (it is inside a solver, say) is not waited for."""

_armed = False


class Terminated(KeyboardInterrupt):
    """Another signal than Ctrl-C that ends the program. Libraries treat it as they treat Ctrl-C."""

    number = signal.SIGTERM


def ended_by(error: BaseException) -> signal.Signals:
    """Which signal an interruption stands for."""
    return error.number if isinstance(error, Terminated) else signal.SIGINT


def _die(number: int, frame: FrameType | None) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(2, f"scepsy: {SIGNAL_MESSAGES[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    _noticed.set()
    error = Terminated()
    error.number = signal.Signals(number)
    raise error


def _set(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGTERM:  # nohup stays nohup
            signal.signal(number, handler)


@contextlib.contextmanager
def working() -> Iterator[None]:
    """While a command works, signals are exceptions. Does nothing unless ``arm`` was called (a library keeps its handlers)."""
    if not _armed or threading.current_thread() is not threading.main_thread():
        yield
        return
    deaf = _Deaf()
    _set({signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _raise, signal.SIGHUP: _raise})
    try:
        yield
    finally:
        _set(dict.fromkeys(SIGNAL_MESSAGES, _die))
        deaf.close()


class _Deaf:
    """Ends the program when a SIGTERM that the kernel has delivered is not taken notice of in Python."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, daemon=True, name="deaf").start()

    def _listen(self) -> None:
        while numbers := os.read(self._read, 64):
            if signal.SIGTERM in numbers and not _noticed.wait(MAIN_THREAD_WAIT_S):
                _die(signal.SIGTERM, None)

    def close(self) -> None:
        with contextlib.suppress(ValueError):
            signal.set_wakeup_fd(-1)
        os.close(self._write)


_noticed = threading.Event()
"""The main thread has taken notice of a signal: from now on it may take its time to tidy up."""


def _unraisable(hook: Any) -> None:
    """An interruption that came where Python cannot raise (a destructor) is sent again; the rest is not for users' eyes."""
    if isinstance(hook.exc_value, KeyboardInterrupt):
        signal.raise_signal(ended_by(hook.exc_value))
    elif os.environ.get("SCEPSY_DEBUG"):
        sys.__unraisablehook__(hook)


def _open_streams() -> None:
    """Standard streams that were closed at the start lead nowhere now; else the program's files would take their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            os.set_inheritable(nowhere, True)  # workers need streams too
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def arm() -> None:
    """Take signals in hand; from the main thread of a program of its own only."""
    global _armed
    _armed = True
    _open_streams()
    _set(dict.fromkeys(SIGNAL_MESSAGES, _die))
    sys.unraisablehook = _unraisable
    # Worker processes' helper notes, after a signal, that it removes what they left: nothing that a user could mend.
    quiet = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), quiet]))
