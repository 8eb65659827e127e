"""The committed evaluation against a re-run of a sample of its rows."""

import json
import math
import random
from pathlib import Path

import pandas as pd
import pytest

from experiments.catalogue import EXPERIMENTS
from experiments.code_version import code_hash
from experiments.findings.derive import FACTS, derive

DATA = Path(__file__).parents[2] / "paper_figures" / "data"
SPENT = {"cpu_s"}
"""What depends on the machine."""
SECONDS = 12.0
"""Of processor time that the sample may have taken where it was made."""


def test_derived_tables_are_those_of_the_committed_rows() -> None:
    for name, table in derive(DATA).items():
        kept = pd.read_parquet(DATA / f"{name}.parquet")
        pd.testing.assert_frame_equal(table.reset_index(drop=True), kept, check_dtype=False, rtol=1e-9)


def test_every_row_says_where_it_comes_from() -> None:
    frame = pd.read_parquet(DATA / "evaluation.parquet")
    for name in set(FACTS) - {"commit", "code"}:
        assert frame[name].nunique() == 1, name
    assert frame["commit"].str.fullmatch("[0-9a-f]{12}").all()  # and no "-dirty" behind
    assert len(frame[["commit", "code"]].drop_duplicates()) == frame["commit"].nunique() == frame["code"].nunique()
    assert not frame.groupby("task")["commit"].nunique().gt(1).any()
    assert frame["task"].map(lambda text: json.loads(text)["step"]).isin(["screen", "maximum", "sweep"]).all()


def sample(frame: pd.DataFrame) -> list[str]:
    """Tasks in random order, as many as ``SECONDS`` allow; one of each step at least."""
    tasks = frame.groupby("task", sort=True).agg(cpu_s=("cpu_s", "max"), kind=("kind", "first"))
    order = list(tasks.index)
    random.Random(20).shuffle(order)
    chosen: list[str] = []
    for kind in ("screen", "maximum", "sweep"):
        chosen += [text for text in order if tasks.loc[text, "kind"] == kind][:1]
    spent = 0.0
    for text in order:
        cost = float(tasks.loc[text, "cpu_s"])
        if text not in chosen and spent + cost <= SECONDS:
            chosen.append(text)
            spent += cost
    return chosen[:20]


def test_a_sample_of_the_committed_rows_comes_out_again() -> None:
    """To the last digit under the code that made them; under other code, settled means must lie within three half-widths."""
    frame = pd.read_parquet(DATA / "evaluation.parquet")
    same_code = set(frame["code"]) == {code_hash()}
    off: list[str] = []
    for text in sample(frame):
        kept = frame[frame["task"] == text].to_dict("records")
        again = EXPERIMENTS["evaluation"].run(json.loads(text))
        if same_code:
            assert len(again) == len(kept)
            for new, old in zip(again, kept, strict=True):
                for name in set(new) - SPENT:
                    if name == "option":  # a task's document has its names in order of the alphabet
                        new[name], old[name] = (" ".join(sorted(row[name].split())) for row in (new, old))
                    assert same(new[name], old[name]), f"{name} is {new[name]!r}, committed {old[name]!r} ({text})"
        elif json.loads(text)["step"] == "sweep":
            off += moved(pd.DataFrame(again), pd.DataFrame(kept))
    assert not off, "results moved since they were committed: run make evaluation again and say why:\n" + "\n".join(off)


def same(new: object, old: object) -> bool:
    if isinstance(new, float) and isinstance(old, (int, float)):
        return (math.isnan(new) and math.isnan(old)) or new == old
    return bool(new == old) or (new is None and isinstance(old, float) and math.isnan(old))


def moved(new: pd.DataFrame, old: pd.DataFrame) -> list[str]:
    """Workflows whose settled means are further apart than three of the committed half-widths over seeds."""
    found = []
    for workflow in set(old["workflow"]) & set(new["workflow"]):
        ours, theirs = (f[f["workflow"] == workflow] for f in (new, old))
        if not (ours["point_settled"].all() and theirs["point_settled"].all()):
            continue
        width = float((theirs["latency_mean_half_width_s"] ** 2).mean() ** 0.5 / len(theirs) ** 0.5)
        gap = float(ours["latency_mean_s"].mean() - theirs["latency_mean_s"].mean())
        if abs(gap) > 3 * width:
            row = theirs.iloc[0]
            found.append(f"{row['system']} {row['option']} on {row['workload']} at load {row['load']:g}: by {gap:+.3g} s")
    return found


@pytest.mark.parametrize(("gap", "count"), [(0.0, 0), (0.02, 0), (0.2, 1)])
def test_a_change_beyond_the_intervals_is_found(gap: float, count: int) -> None:
    old = pd.DataFrame(
        {"workflow": "w", "system": "s", "option": "", "workload": "w", "load": 0.5, "point_settled": True,
         "latency_mean_s": [1.0, 1.02], "latency_mean_half_width_s": 0.03}
    )  # fmt: skip
    assert len(moved(old.assign(latency_mean_s=old["latency_mean_s"] + gap), old)) == count
