"""What the command line names as inputs: files, folders, patterns, ``-`` for standard input."""

import filecmp
import glob
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from scepsy.errors import InputError
from scepsy.files.failure import fail, reading
from scepsy.importers.source import Source
from scepsy.importers.tally import Tally

DATA_SUFFIXES = {".json", ".jsonl", ".ndjson", ".csv", ".traj", ".log", ".txt"}
"""Files of a folder that are read; others (read-me, licences, pictures) are left out, which is said."""

_PACKED = {".gz", ".zst"}
_held: list[IO[Any]] = []
"""Standard input as a temporary file: it must live as long as the import."""


def gather(names: Sequence[str | Path], tally: Tally, stdin: IO[bytes] | None = None) -> list[Source]:
    """The inputs behind these names, each once. Raises ``InputError`` when there is none or one does not exist."""
    if not names:
        raise InputError("no file is given: must be at least one")
    sources: list[Source] = []
    for name in names:
        if str(name) == "-":
            sources.append(_standard_input(stdin))
        elif Path(name).is_dir():
            sources += _folder(Path(name), tally)
        elif not Path(name).exists() and glob.has_magic(str(name)):
            found = sorted(path for path in map(Path, glob.glob(str(name), recursive=True)) if path.is_file())
            if not found:
                raise fail(str(name), "matches no file: must match at least one (check the pattern)")
            sources += map(Source, found)
        else:
            with reading(name):
                if not Path(name).stat().st_size:
                    raise fail(name, "is empty: must hold a document (was it cut off while being written?)")
            sources.append(Source(Path(name)))
    return _each_once(sources, tally)


def _standard_input(stdin: IO[bytes] | None) -> Source:
    held = tempfile.NamedTemporaryFile(prefix="scepsy-", suffix=".in")  # noqa: SIM115 - closed with the process
    shutil.copyfileobj(stdin or sys.stdin.buffer, held, 1 << 20)
    held.flush()
    if not held.tell():
        raise InputError("standard input is empty: must hold a document")
    _held.append(held)
    return Source(Path(held.name), "standard input")


def _folder(folder: Path, tally: Tally) -> list[Source]:
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.stat().st_size
    )
    wanted = [path for path in paths if _suffix(path) in DATA_SUFFIXES]
    if left := len(paths) - len(wanted):
        tally.facts[f"files of {folder.name} that are no data (by their names), left out"] += left
    if not wanted:
        known = ", ".join(sorted(DATA_SUFFIXES))
        raise fail(folder, f"is a folder without data: must hold a file that ends in {known} (or name the file itself)")
    return [Source(path) for path in wanted]


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix.lower() in _PACKED else path.suffix.lower()


def _each_once(sources: list[Source], tally: Tally) -> list[Source]:
    """Inputs without those whose content was given before: rows without ids would count twice."""
    kept: dict[int, list[Source]] = {}
    unique = []
    for source in sources:
        same = kept.setdefault(source.bytes, [])
        with reading(str(source)):
            if any(filecmp.cmp(source.path, other.path, shallow=False) for other in same):
                tally.counts["files given twice, read once"] += 1
                continue
        same.append(source)
        unique.append(source)
    return unique
