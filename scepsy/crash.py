"""Whatever goes wrong, in one line: what a user reads instead of a traceback, and the exit code that goes with it."""

import errno
import os
import sys
import traceback
from pathlib import Path
from types import TracebackType

from scepsy.errors import BackendError, InputError, ScepsyError

DEBUG = "SCEPSY_DEBUG"
"""Environment variable (what ``--debug`` sets): tracebacks are printed."""

EXTRAS = {
    "aiohttp": "gateway",
    "prometheus_client": "gateway",
    "psutil": "gateway",
    "uvloop": "gateway",
    "kubernetes": "k8s",
    "aiconfigurator_core": "vendor",
    "dask": "cluster",
    "distributed": "cluster",
    "ray": "ray",
    "openai": "agents",
    "langgraph": "agents",
    "langchain_openai": "agents",
    "langchain_core": "agents",
    "pydantic_ai": "agents",
    "vllm": "gpu",
}
"""Module → the extra that installs it."""

_HOST = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
    errno.EFBIG: "files may not grow that large here (see `ulimit -f`)",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EIO: "the disk or terminal fails",
    errno.EMFILE: "too many files are open (see `ulimit -n`)",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOMEM: "free some memory",
    errno.EAGAIN: "no more processes can be started (see `ulimit -u`)",
}
"""Errors that are the machine's, and what to do about them."""


def wants_traceback() -> bool:
    """Whether ``--debug`` was given."""
    return bool(os.environ.get(DEBUG))


def explain(error: BaseException) -> tuple[str, int]:
    """One line about an exception, and the exit code: 2 for what the user can mend, 4 for what failed, bugs included."""
    if isinstance(error, ScepsyError):
        return _one_line(error), error.exit_code
    if isinstance(error, ImportError):
        module = (error.name or "").partition(".")[0]
        if module in EXTRAS:
            return f"{module} is not installed: pip install 'scepsy[{EXTRAS[module]}]'", InputError.exit_code
    if isinstance(error, OSError) and error.errno in _HOST:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror} ({_HOST[error.errno]})", BackendError.exit_code
    if isinstance(error, MemoryError):
        return "not enough memory: ask for fewer runs, or give --jobs 1", BackendError.exit_code
    if type(error).__name__ in ("TerminatedWorkerError", "BrokenProcessPool"):
        return "a worker process was killed (out of memory?): give fewer --jobs", BackendError.exit_code
    return (
        f"internal error: {type(error).__name__}: {_one_line(error)}{_place(error.__traceback__)}: a fault of Scepsy, not of "
        "your input. Please report it to its maintainers with this command line and what it prints with --debug",
        BackendError.exit_code,
    )


def _one_line(error: BaseException, limit: int = 600) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _place(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or list(frames)
    return f" (in {Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def tell(error: BaseException) -> int:
    """Print the line (with ``--debug`` the traceback before it) on stderr; returns the exit code."""
    if wants_traceback():
        traceback.print_exception(error, file=sys.stderr)
    line, code = explain(error)
    print(f"scepsy: {line}", file=sys.stderr)
    return code


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("scepsy: interrupted", file=sys.stderr)
        code = 130
    elif isinstance(error, BrokenPipeError):
        code = 141
    else:
        code = tell(error)
    raise SystemExit(code)


def guard_programs(package: str) -> None:
    """One line for programs of ours that are run as ``python -m PACKAGE…``; does nothing in any other program.

    Called by a package as it is imported, so that also a missing extra, which shows while a program imports, is one line.
    """
    given = sys.orig_argv
    if "-m" in given and (given[given.index("-m") + 1 :] or [""])[0].split(".")[0] == package:
        sys.excepthook = _hook
