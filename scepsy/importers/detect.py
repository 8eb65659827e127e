"""Which format an input is of: every importer of the registry looks at a sample; one format must fit all inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scepsy.errors import InputError
from scepsy.importers.base import Importer
from scepsy.importers.fields import get, walk
from scepsy.importers.record_reader import FileSample, take_sample
from scepsy.importers.source import Source

NEAREST_NAMED = 3
"""Formats that are named when none fits."""


@dataclass(frozen=True)
class Fields:
    """Detects JSON records by their fields: one of the first records has all of ``needs`` and none of ``lacks``.

    A field is a dotted place (lists on the way are gone through); ``a|b`` means either.
    """

    needs: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    """Lists that hold the records, as for ``json_records``."""

    def __call__(self, sample: FileSample) -> str | None:
        """Why a sample is of this format; None: it is not."""
        for record in sample.records(*self.within):
            if not self.missing(record) and not any(_has(record, name) for name in self.lacks):
                return f"{sample.form}, records have {', '.join(self.needs)}"
        return None

    def missing(self, record: Any) -> list[str]:
        """The needed fields that a record lacks."""
        return [name for name in self.needs if not _has(record, name)]

    def nearest(self, sample: FileSample) -> tuple[float, str]:
        """How much of it a sample has, from 0 to 1, and what does not fit."""
        best = (0.0, f"has none of {', '.join(self.needs)}")
        for record in sample.records(*self.within):
            missing = self.missing(record)
            share = 1.0 - len(missing) / len(self.needs)
            wrong = [name for name in self.lacks if _has(record, name)]
            if share > best[0]:
                best = share, f"has no {', '.join(missing)}" if missing else f"has {', '.join(wrong)}"
        return best


@dataclass(frozen=True)
class Columns:
    """Detects CSV inputs by their header."""

    needs: tuple[str, ...]

    def __call__(self, sample: FileSample) -> str | None:
        """Why a sample is of this format; None: it is not."""
        if sample.form == "csv" and not set(self.needs) - set(sample.columns):
            return f"CSV with columns {', '.join(self.needs)}"
        return None

    def nearest(self, sample: FileSample) -> tuple[float, str]:
        """How much of it a sample has, from 0 to 1, and what does not fit."""
        if sample.form != "csv":
            return 0.0, "is no CSV"
        missing = [name for name in self.needs if name not in sample.columns]
        return 1.0 - len(missing) / len(self.needs), f"has no column {', '.join(missing)}"


def _has(record: Any, names: str) -> bool:
    return any(next(walk(record, name), None) is not None or get(record, name) is not None for name in names.split("|"))


@dataclass(frozen=True)
class DetectedFormat:
    """The one format of all inputs."""

    format: str
    reason: str


def find_format(sources: Sequence[Source], importers: Mapping[str, Importer]) -> DetectedFormat:
    """The format of the inputs. Raises ``InputError`` on one that no importer knows, and on a mixture."""
    found: dict[str, DetectedFormat] = {}
    for source in sources:
        sample = take_sample(source)
        match = _match(sample, importers)
        if match is None:
            raise InputError(_unknown(sample, importers))
        found[str(source)] = match
    formats: dict[str, list[str]] = {}
    for name, match in found.items():
        formats.setdefault(match.format, []).append(name)
    if len(formats) > 1:
        said = ", ".join(f"{format_} ({names[0]}{_more(names)})" for format_, names in formats.items())
        raise InputError(f"inputs are of {len(formats)} formats, {said}: must be of one (import them one format at a time)")
    return next(iter(found.values()))


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _match(sample: FileSample, importers: Mapping[str, Importer]) -> DetectedFormat | None:
    """The first importer that says yes: the registry lists special formats before general ones."""
    for name, importer in importers.items():
        reason = importer.detect(sample)
        if reason is not None:
            return DetectedFormat(name, reason)
    return None


def _unknown(sample: FileSample, importers: Mapping[str, Importer]) -> str:
    if sample.form == "empty":
        return f"{sample.source}: is empty: must hold a document (was it cut off while being written?)"
    if any(isinstance(value, dict) and value.get("format") == "scepsy.trace" for value in sample.values):
        return f"{sample.source}: is a Scepsy trace already: must be a recording of another tool (use it as it is)"
    scores: list[tuple[float, int, str, str]] = []
    for name, importer in importers.items():
        nearest = getattr(importer.detect, "nearest", None)
        if nearest is not None:
            share, why = nearest(sample)
            scores.append((-share, len(scores), name, why))
    near = "; ".join(f"{name} {why}" for share, _, name, why in sorted(scores)[:NEAREST_NAMED] if share < 0)
    nearest_ = f"nearest: {near}" if near else "no format has any field in common"
    return (
        f"{sample.source}: {sample.form} of no known format ({nearest_}): must be one of `scepsy trace list` "
        "(name it to see what is wrong: scepsy trace import FORMAT FILE…)"
    )
