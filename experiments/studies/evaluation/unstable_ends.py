"""Is "shown unstable" true? The upper ends of the evaluation's brackets, replayed longer and with other seeds.

    python -m experiments.studies.evaluation.unstable_ends -o paper_figures/data/unstable_ends.parquet

A system that fills slowly grows for a while although it keeps up, and a short replay may take that for overload. So each end
is replayed ``TIMES`` times as long as the longest round that the bracket could spend on it, with ``SEEDS``. ``part`` is what
stays behind of the work that arrives. An end that turns out stable is a lower end in the tables that are derived next
(``findings.derive``). Systems that need the interpreted engine are left out.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.code_version import stamped
from experiments.findings.compare import KEYS, Row, records
from experiments.points.measured import deployed, interpreted
from experiments.points.questions import measured_streams
from experiments.points.settled import budget_of, first_runs, play
from experiments.runner import save_table
from experiments.studies.loads import question_of
from scepsy.api.settle import calls_per_run

TABLE = Path(__file__).parents[3] / "paper_figures" / "data" / "evaluation.parquet"
DEFAULT_OUT = TABLE.parent / "unstable_ends.parquet"
TIMES = 3
"""As rounds of a point grow (``experiments.points.settled``): one more look."""
SEEDS = (11, 12, 13, 14, 15)
"""None of the evaluation's."""


def ends(table: pd.DataFrame, sample: int, seed: int) -> list[Row]:
    """Rows of highest rates whose upper end counts (``findings.compare``), drawn without replacement."""
    known = table[(table["kind"] == "maximum") & np.isfinite(table["load_unstable"]) & (table["load_stable"] > 0)]
    known = known[known["confirmed"] == 1]
    known = known[~known["system"].map(interpreted)]
    return records(known.sample(n=min(sample, len(known)), random_state=seed))


def replayed(end: Row) -> Row:
    """One upper end, replayed longer."""
    params = json.loads(end["task"])
    question, budget, load = question_of(params), budget_of(params), end["load_unstable"]
    row = {name: end[name] for name in (*KEYS, "system", "option", "load_stable", "load_unstable")}
    row["of_commit"] = end["commit"]
    found = deployed(question, end["system"], params["option"], load)
    if isinstance(found, str):
        return row | {"verdict": "no plan", "why": found}
    calls = calls_per_run(measured_streams(question, load))
    runs = max(TIMES * math.ceil(budget.most_calls / calls), first_runs(question, load, budget))
    again = play(found, question, load, SEEDS, runs, budget.tolerance)
    worst = max((one.whole for one in again.growth.values()), key=lambda one: one.part)
    return row | {"verdict": again.verdict, "part": worst.part, "p": worst.p, "why": again.why(budget.tolerance)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table and print how many ends are confirmed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE, help="the evaluation's rows")
    parser.add_argument("--sample", type=int, default=1_000, help="ends to replay (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("-o", "--output", type=Path, default=DEFAULT_OUT)
    given = parser.parse_args(arguments)
    chosen = ends(pd.read_parquet(given.table), given.sample, given.seed)
    rows: list[Row] = []
    for number, end in enumerate(chosen, 1):
        rows.append(replayed(end))
        save_table(given.output, stamped(pd.DataFrame(rows)))
        said = f"{rows[-1]['verdict']} {rows[-1]['why']}"
        print(f"{number} of {len(chosen)}: {end['workload']} {end['gpus']} {end['system']} {said}", flush=True)
    print(pd.Series([row["verdict"] for row in rows]).value_counts().to_string())


if __name__ == "__main__":
    main()
