"""The share law of cores against its committed rows."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.checks.core_shares import slopes
from scepsy.api.engine_profiles import CORE_LAW

ROWS = pd.read_csv(Path(__file__).parents[2] / "experiments" / "results" / "core_shares.csv")


def test_the_law_is_what_its_rows_say():
    k = slopes(ROWS).groupby("kind")["k"].median()
    assert CORE_LAW.prefill_k == CORE_LAW.prefill_small_k == pytest.approx(k["rerank"], abs=0.005)
    assert CORE_LAW.decode_k == CORE_LAW.decode_large_k == pytest.approx(k["generate"], abs=0.05)
