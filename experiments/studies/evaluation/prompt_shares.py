"""Why does MuxServe win where it does? Scepsy's own plans there, replayed as if prompts could take every SM that is free.

    python -m experiments.studies.evaluation.prompt_shares            # → experiments/results/prompt_shares.csv

A plan gives each instance a fixed share of its GPU, which slows its prompts by the share law. MuxServe limits decoding only:
the next prompt takes all SMs that decoding leaves. The what-if keeps plan, placement and decoding as they are and takes the
law for prompts away (k = 0). A GPU still does no more prompt work per second than it can (``sim.engine.budget``). What a
prompt at all SMs costs the decoding beside it is not modelled, so the what-if is a bound on what could be gained.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pandas as pd

from experiments.code_version import stamped
from experiments.findings.compare import KEYS, OURS, Row, records
from experiments.findings.losses import LOSS
from experiments.points.measured import deployed
from experiments.points.questions import Question, planning_case
from experiments.points.settled import Budget, rounds
from experiments.studies.loads import question_of
from experiments.systems.allocations import static
from scepsy.files.atomic import write_bytes
from scepsy.profile.model import ProfileSet

TABLES = Path(__file__).parents[3] / "paper_figures" / "data"
DEFAULT_OUT = Path(__file__).parents[2] / "results" / "prompt_shares.csv"
NAMES = [*KEYS, "workflow", "load", "system"]
"""What names a point of a system."""
BUDGET = Budget(seeds=(1, 2, 3), precision=0.05, tolerance=0.05, first_calls=12_000, most_calls=36_000)
"""As the evaluation measures interpreted systems."""


def free_prompts(profiles: ProfileSet) -> ProfileSet:
    """Profiles by which a share slows decoding and no prompt."""
    law = msgspec.structs.replace(profiles.share_law, prefill_k=0.0, prefill_small_k=0.0)
    return msgspec.structs.replace(profiles, share_law=law)


def lost_points(tables: Path, rival: str) -> Iterator[tuple[Question, Row]]:
    """(Question, row of the loss) of every point at which a rival's mean latency is lower for certain."""
    lost = pd.read_parquet(tables / "losses.parquet")
    lost = lost.merge(pd.read_parquet(tables / "comparisons.parquet")[[*NAMES, "ours_s", "other_s"]], on=NAMES)
    lost = lost[(lost["verdict"] == LOSS) & (lost["statistic"] == "latency") & (lost["system"] == rival)]
    measured = pd.read_parquet(tables / "evaluation.parquet")
    ours = measured[(measured["system"] == OURS) & (measured["kind"] == "sweep")]
    for row in records(lost):
        same = ours[(ours[list(KEYS)] == pd.Series({name: row[name] for name in KEYS})).all(axis=1)]
        yield question_of(json.loads(same["task"].iloc[0])), row


def compare(question: Question, loss: Row) -> Row:
    """One lost point: the rival's mean, Scepsy's, and Scepsy's if prompts could take all free SMs."""
    load, name = loss["load"], loss["workflow"]
    fixed = deployed(question, OURS, {}, load)
    if isinstance(fixed, str) or fixed.plan is None:
        raise ValueError(f"{question} at load {load}: Scepsy has no plan there: {fixed}")
    profiles = planning_case(question, load).problem.profiles
    row = {key: loss[key] for key in (*NAMES, "ours_s", "other_s", "ratio")} | {"plan": fixed.decided}
    for column, laws in (("fixed", profiles), ("free_prompts", free_prompts(profiles))):
        found, _ = rounds(static(fixed.plan, laws), question, load, BUDGET.seeds, BUDGET)
        row |= {f"{column}_s": found.mean_s(name), f"{column}_verdict": found.verdict}
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=TABLES, help="folder of losses.parquet and evaluation.parquet")
    parser.add_argument("--rival", default="muxserve", help="the system whose lead is asked about")
    parser.add_argument("-o", "--output", type=Path, default=DEFAULT_OUT)
    given = parser.parse_args(arguments)
    table = stamped(pd.DataFrame([compare(question, loss) for question, loss in lost_points(given.tables, given.rival)]))
    write_bytes(given.output, table.to_csv(index=False, float_format="%.6g").encode())
    print(table[["workload", "gpus", "load", "ratio", "other_s", "ours_s", "fixed_s", "free_prompts_s"]].round(3).to_string())


if __name__ == "__main__":
    main()
