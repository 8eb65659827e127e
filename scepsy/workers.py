"""Worker processes that end with whoever started them, and leave Ctrl-C to it.

joblib's workers notice that their parent is gone only when they have finished what they compute, which can take minutes. So
each watches its parent while it works. They are started with SIGINT blocked: Ctrl-C goes to all processes of a terminal, and
it is the parent that ends them, in order.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from scepsy.errors import InputError

R = TypeVar("R")

LOOK_EVERY_S = 0.5
"""Between two looks at the parent."""

_watching = False


def watch_parent(parent: int) -> None:
    """End this process when ``parent`` ends. Does nothing in the parent itself and in workers of Dask or Ray."""
    global _watching
    if _watching or os.getpid() == parent or not multiprocessing.current_process().name.startswith("LokyProcess"):
        return
    _watching = True

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_EVERY_S)
        os._exit(1)

    threading.Thread(target=look, daemon=True, name="watch-parent").start()


def _task(parent: int, function: Callable[..., R], arguments: tuple[Any, ...], named: dict[str, Any]) -> R:
    watch_parent(parent)
    return function(*arguments, **named)


def delayed(function: Callable[..., R]) -> Callable[..., Any]:
    """Like ``joblib.delayed``, for a worker that ends with this process."""

    def call(*arguments: Any, **named: Any) -> Any:
        import joblib  # slow to import, and commands that find everything kept start no worker

        return joblib.delayed(_task)(os.getpid(), function, arguments, named)

    return call


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Children inherit what is blocked; what arrives here meanwhile is delivered afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def require_jobs(jobs: int, name: str = "--jobs") -> None:
    """Raise ``InputError`` unless ``jobs`` is a number of processes: >= 1, or −1 for one per core."""
    if jobs == 0 or jobs < -1:
        raise InputError(f"{name} is {jobs}: must be >= 1, or -1 for one process per core")


def parallel(work: Iterable[Any], *, jobs: int | None = None, unordered: bool = False, **options: Any) -> Iterator[Any]:
    """Results of ``delayed`` calls as they come, in the order of the calls unless ``unordered``.

    ``jobs``: processes at once, None for what ``joblib.parallel_config`` says. ``options`` are joblib's.
    """
    import joblib

    if jobs is not None:
        require_jobs(jobs, "jobs")
        options["n_jobs"] = jobs
    with _sigint_blocked():
        results: Iterator[Any] = joblib.Parallel(return_as="generator_unordered" if unordered else "generator", **options)(work)
    return results
