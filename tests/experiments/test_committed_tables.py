"""Every committed table says which version and which commit made its rows."""

import re
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
TABLES = sorted(
    path
    for folder in ("experiments/results", "paper_figures/data")
    for path in (ROOT / folder).iterdir()
    if path.suffix in (".csv", ".parquet")
)

MAY_BE_EMPTY = ("losses.parquet", "sensitivity.parquet")
"""Derived from other rows, and there may be nothing to find in those. They have their columns all the same."""


def test_there_are_tables() -> None:
    assert {path.suffix for path in TABLES} == {".csv", ".parquet"}


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.name)
def test_every_row_names_version_and_commit(path: Path) -> None:
    table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    assert len(table) > 0 or path.name in MAY_BE_EMPTY
    assert table["version"].map(lambda text: bool(re.fullmatch(r"\d+\.\d+\.\d+", text))).all()
    assert (
        table["commit"]
        .map(lambda text: bool(re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?(, [0-9a-f]{7,40}(-dirty)?)*", str(text))))
        .all()
    )
