"""Writes what follows from the evaluation's rows beside them: points over seeds, comparisons, losses, claims and more."""

from pathlib import Path

import pandas as pd

from experiments.findings.claims import claims
from experiments.findings.compare import checked_ends, comparisons, maxima, points, read_table
from experiments.findings.losses import losses
from experiments.findings.sensitivity import sensitivity
from experiments.runner import save_table
from scepsy.errors import InputError

FACTS = ("scale", "version", "commit", "code", "machine")
DERIVED = ("points", "comparisons", "maxima", "losses", "claims", "sensitivity")


def derive(results: Path) -> dict[str, pd.DataFrame]:
    """Every derived table by name. Raises ``InputError`` without the evaluation's rows."""
    frame = read_table(results, "evaluation")
    if frame is None:
        raise InputError(f"{results / 'evaluation.parquet'} is missing: run: scepsy experiment run evaluation -o {results}")
    compared, highest = comparisons(frame), maxima(frame, checked_ends(read_table(results, "unstable_ends")))
    tables = {"comparisons": compared, "maxima": highest}
    others = {name: table for name in ("shares", "search") if (table := read_table(results, name)) is not None}
    found = (
        {"points": points(frame)}
        | tables
        | {
            "losses": losses(compared, highest),
            "claims": claims(tables | others, str(frame["scale"].iloc[0])),
            "sensitivity": sensitivity(compared, highest),
        }
    )
    # Rows that a mended fault has touched are made again and name their own commit: the tables that follow name all.
    facts = {name: ", ".join(dict.fromkeys(map(str, frame[name]))) for name in FACTS}
    return {name: table.assign(**facts) for name, table in found.items()}


def write_derived(results: Path) -> list[Path]:
    """Derive and write; the files written."""
    written = []
    for name, table in derive(results).items():
        path = results / f"{name}.parquet"
        save_table(path, table)
        written.append(path)
    return written
