"""Which upper ends are replayed again, and that overload is still found there."""

import json
from pathlib import Path

import msgspec
import pandas as pd

from experiments.points.questions import Question
from experiments.points.settled import Budget
from experiments.studies.evaluation.unstable_ends import DEFAULT_OUT, ends, replayed
from tests.experiments.test_findings import highest

BUDGET = Budget(seeds=(1,), precision=0.1, tolerance=0.1, first_calls=4_000, most_calls=80_000)


def test_the_page_says_what_the_committed_table_says() -> None:
    counts = pd.read_parquet(DEFAULT_OUT)["verdict"].value_counts().to_dict()
    text = " ".join((Path(__file__).parents[2] / "docs" / "accuracy.md").read_text(encoding="utf-8").split())
    said = f"of {sum(counts.values())} ends, {counts['unstable']} are confirmed, {counts['stable']} turned out stable"
    assert said in text


def asked(system: str, low: float, high: float) -> dict:
    task = {"question": msgspec.to_builtins(Question(("rag-rerank",), gpus=4)), "budget": msgspec.to_builtins(BUDGET)}
    return highest(system, low, high)[0] | {"task": json.dumps(task | {"option": {}})}


def test_only_known_ends_of_compiled_systems_are_drawn() -> None:
    rows = [asked("scepsy", 10, 20), asked("equal", 10, float("inf")), asked("aegaeon", 10, 20), asked("equal", 0, 20)]
    rows.append(asked("equal", 10, 20) | {"confirmed": None})  # by an older rule: its end is not used
    assert [row["system"] for row in ends(pd.DataFrame(rows), 40, 0)] == ["scepsy"]


def test_an_end_at_twice_the_full_load_is_confirmed() -> None:
    found = replayed(asked("equal", 10, 40))  # load 2.0
    assert found["verdict"] == "unstable"
    assert found["part"] > 0.2
