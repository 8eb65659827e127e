"""What stands around every command: one-line errors and exit codes, ``--debug``, output checked first, signals, streams."""

import functools
import inspect
import math
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar, cast, get_args, get_type_hints

import typer

from scepsy.crash import DEBUG, tell
from scepsy.errors import InputError
from scepsy.plaintext import HANDLER
from scepsy.signals import SIGNAL_MESSAGES, ended_by, working

P = ParamSpec("P")
R = TypeVar("R")

PIPE_CLOSED = 141
"""Exit code when the reader of our output has gone (128 + SIGPIPE, as other programs have it)."""

Debug = Annotated[bool, typer.Option("--debug", help="Print tracebacks of errors.")]

OwnExit: tuple[type[Exception], ...] = (typer.Exit, typer.Abort, typer.BadParameter.__bases__[0].__bases__[0])
"""How commands and the option parser end on purpose."""


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Stand around a command.

    ``ScepsyError`` becomes one line on stderr and its exit code, every other exception one line with how to report it and
    exit 4; tracebacks come with ``--debug`` only. A signal is one line and 128 + its number; a closed pipe ends quietly.
    What ``-o`` names is tried before the work begins. Number options must not be NaN.
    """
    outputs = _outputs(function)

    @functools.wraps(function)
    def wrapped(*args: Any, debug: bool = False, **kwargs: Any) -> R:
        if debug:
            os.environ[DEBUG] = "1"
        _survive_poor_terminals()
        with working():
            try:
                given = inspect.signature(function).bind(*args, **kwargs).arguments
                _refuse_nan(given)
                if given.get("as_csv") and given.get("as_json"):
                    raise InputError("--csv and --json are both given: give one")
                for name, folder in outputs.items():
                    if isinstance(given.get(name), Path):
                        require_writable(given[name], folder=folder)
                with _tables_as_csv(bool(given.get("as_csv"))):
                    done = function(*args, **kwargs)
                sys.stdout.flush()
                return done
            except OwnExit:
                raise
            except KeyboardInterrupt as error:
                number = ended_by(error)
                print(f"scepsy: {SIGNAL_MESSAGES[number]}", file=sys.stderr)
                raise typer.Exit(128 + number) from None
            except BrokenPipeError:
                _close_stdout()
                raise typer.Exit(PIPE_CLOSED) from None
            except Exception as error:
                if (interruption := _interruption(error)) is not None:  # an import that Ctrl-C broke, say
                    number = ended_by(interruption)
                    print(f"scepsy: {SIGNAL_MESSAGES[number]}", file=sys.stderr)
                    raise typer.Exit(128 + number) from None
                code = tell(error)
                if isinstance(error, OSError):
                    _close_stdout()
                raise typer.Exit(code) from error

    signature = inspect.signature(function)
    extra = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    wrapped.__signature__ = signature.replace(parameters=[*signature.parameters.values(), extra])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {**get_type_hints(function, include_extras=True), "debug": Debug}
    return cast(Callable[P, R], wrapped)


csv_of_command: ContextVar[list[int] | None] = ContextVar("csv_of_command", default=None)
"""With ``--csv``: how many tables the command has printed."""


@contextmanager
def _tables_as_csv(wanted: bool) -> Iterator[None]:
    token = csv_of_command.set([0] if wanted else None)
    try:
        yield
    finally:
        csv_of_command.reset(token)


def printing_csv() -> bool:
    """Whether the command was asked for CSV."""
    return csv_of_command.get() is not None


def tables_so_far() -> int:
    """Tables printed before this one; counts this one."""
    counter = csv_of_command.get()
    assert counter is not None
    counter[0] += 1
    return counter[0] - 1


def _outputs(function: Callable[..., Any]) -> dict[str, bool]:
    """Parameters that name what is written (``-o``, or by their help), and whether that is a folder (as their help says)."""
    found = {}
    for name, hint in get_type_hints(function, include_extras=True).items():
        for each in get_args(hint)[1:]:
            declared = getattr(each, "param_decls", None) or ()
            told = str(getattr(each, "help", "") or "")
            written = "-o" in declared or "--output" in declared or told.startswith(("Write ", "Draw ", "Folder to write"))
            if written and not told.startswith("File or folder"):  # which of the two, only the command knows
                found[name] = told.startswith("Folder")
    return found


def _refuse_nan(given: dict[str, Any]) -> None:
    for name, value in given.items():
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, float) and math.isnan(each):
                raise InputError(f"--{name.replace('_', '-')} is nan: must be a number")


def require_writable(path: Path, *, folder: bool) -> None:
    """Raise ``InputError`` unless ``path`` can be written now: its folder is there, ours to write to, and has space.

    ``folder``: the path is a folder of files, which is made where it is missing.
    """
    where = path if folder else path.parent
    if folder:
        while not where.exists() and not where.is_symlink() and where != where.parent:
            where = where.parent
    try:
        if not folder and path.exists() and not stat.S_ISREG(path.stat().st_mode):
            kind = "a directory" if path.is_dir() else "no regular file"
            raise InputError(f"{path}: is {kind}: must be a file to write (name another)")
        if not where.is_dir():
            problem = "Not a directory" if where.exists() else "No such file or directory"
            raise InputError(f"{path}: cannot be written: {problem} (create its folder or choose another)")
        with tempfile.TemporaryFile(dir=where) as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror or error} (choose another, or free some space)"
        ) from error


def _survive_poor_terminals() -> None:
    """Characters that the locale lacks are written as their nearest ASCII, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and (stream.encoding or "").lower().replace("-", "") != "utf8":
            reconfigure(errors=HANDLER)


def _close_stdout() -> None:
    """Nobody reads, or nothing can be written: what is left in the buffer goes nowhere, without another error at exit."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        return


def _interruption(error: BaseException) -> KeyboardInterrupt | None:
    """The interruption that an exception comes from, if any."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        if isinstance(each, KeyboardInterrupt):
            return each
        seen.add(id(each))
        each = each.__cause__ or each.__context__
    return None
