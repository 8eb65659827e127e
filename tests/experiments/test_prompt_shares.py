"""The what-if behind MuxServe's lead: which points it asks about, what it changes, and what the committed table says."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.findings.derive import write_derived
from experiments.studies.evaluation.prompt_shares import DEFAULT_OUT, free_prompts, lost_points
from tests.builders.by_hand import profiles
from tests.experiments.test_findings import highest, point


def test_prompts_are_free_and_decoding_is_not() -> None:
    made = profiles(["m"])
    law = free_prompts(made).share_law
    assert [law.prefill_factor(tokens, 10) for tokens in (10, 5000)] == [1.0, 1.0]
    assert law.decode_factor(1, 50) == made.share_law.decode_factor(1, 50) > 1.0
    assert free_prompts(made).profiles == made.profiles


def test_only_certain_losses_of_latency_to_the_rival_are_asked_about(tmp_path: Path) -> None:
    task = '{"question": {"workflows": ["rag-rerank"], "gpus": 4, "arrivals": "gamma:2"}}'
    rows = point("scepsy", [1.0, 1.001, 1.002], load=0.5) + point("equal", [0.8, 0.801, 0.802], load=0.5)
    rows += point("ayo", [0.5, 0.501, 0.502], load=0.5)
    rows += point("scepsy", [1.0, 1.001, 1.002], load=0.7) + point("equal", [0.4, 1.9, 0.9], load=0.7)
    rows += highest("scepsy", 20) + highest("equal", 20)
    pd.DataFrame([row | {"task": task} for row in rows]).to_parquet(tmp_path / "evaluation.parquet")
    write_derived(tmp_path)
    ((asked, loss),) = lost_points(tmp_path, "equal")
    assert (asked.gpus, asked.arrivals) == (4, "gamma:2")
    assert (loss["load"], loss["other_s"]) == (0.5, pytest.approx(0.801))


def test_the_committed_table_says_what_the_docs_say() -> None:
    table = pd.read_csv(DEFAULT_OUT)
    assert set(table["system"]) == {"muxserve"}
    assert (abs(table["fixed_s"] / table["ours_s"] - 1) < 0.05).all(), "the plan is not the one that lost"
    assert (table["free_prompts_s"] < table["fixed_s"]).all()
    overtaken = (table["free_prompts_s"] < table["other_s"]).sum()
    text = (Path(__file__).parents[2] / "docs" / "accuracy.md").read_text(encoding="utf-8")
    assert f"faster than MuxServe at {overtaken} of these {len(table)} points" in " ".join(text.split())
