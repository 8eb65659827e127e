"""Is the controller of ``scepsy operate`` worth it? The same loads, which change, under it and under others, in simulation.

    python -m experiments.checks.operate --azure AzureLLMInferenceTrace_conv.csv     # → experiments/results/operate.csv

Every system begins with the same plan: the fewest GPUs that keep the 95th percentile of latency within the limit under the
load that comes first. static stays with it. oracle knows every change and the new load when it happens, plans with the same
planner, judges plans by simulation and switches with the same drains and cold starts. hpa-load and keda are Kubernetes' and
KEDA's autoscalers, of instances as the first plan has them, by the calls that each has and by those that wait. adaptive is the
controller. All may use the whole cluster. Planning takes no simulated time.

Rows that are in the output already are kept. To make one again, take it out.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from experiments.checks.operate.measuring import Measured, measure
from experiments.checks.operate.scenarios import scenarios
from experiments.checks.operate.systems import RULES, bench_of
from experiments.code_version import stamped

ROOT = Path(__file__).parents[3]
DEFAULT_OUT = ROOT / "experiments" / "results" / "operate.csv"
DEFAULT_TIMELINE = ROOT / "paper_figures" / "data" / "operate.parquet"
KEY = ["scenario", "system", "seed"]

Key = tuple[str, str, int]


def table(
    names: Sequence[str] | None,
    systems: Sequence[str],
    seeds: int,
    known: set[Key],
    azure: Path | None,
    before_s: float,
    after_s: float,
) -> Iterator[Measured]:
    """What is not known yet, one by one."""
    for scenario in scenarios(before_s, after_s, azure):
        if names and scenario.name not in names:
            continue
        missing = [
            (system, seed) for seed in range(seeds) for system in systems if (scenario.name, system, seed) not in known
        ]  # fmt: skip
        bench = bench_of(scenario) if missing else None
        for system, seed in missing:
            assert bench is not None
            yield measure(bench, system, seed)


def joined(before: pd.DataFrame | None, new: pd.DataFrame) -> pd.DataFrame:
    """Old rows and new ones, with what made them."""
    return stamped(new) if before is None else pd.concat([before, stamped(new)], ignore_index=True)


def main() -> None:
    """Write the table and the time lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", action="append", help="only this one; repeat for several")
    parser.add_argument("--system", action="append", choices=RULES)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--before", type=float, default=300.0, help="seconds before the change")
    parser.add_argument("--after", type=float, default=600.0, help="seconds after it")
    parser.add_argument("--azure", type=Path, help="AzureLLMInferenceTrace_conv.csv; its scenario is left out without")
    parser.add_argument("-o", "--output", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--timeline", type=Path, default=DEFAULT_TIMELINE)
    given = parser.parse_args()
    rows = pd.read_csv(given.output, dtype={"commit": str}) if given.output.exists() else None
    lines = pd.read_parquet(given.timeline) if given.timeline.exists() else None
    known = set() if rows is None else set(rows[KEY].itertuples(index=False, name=None))
    systems = given.system or RULES
    for one in table(given.scenario, systems, given.seeds, known, given.azure, given.before, given.after):
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in one.row.items()}, flush=True)
        rows, lines = joined(rows, pd.DataFrame([one.row])), joined(lines, pd.DataFrame(one.timeline))
        rows.to_csv(given.output, index=False, float_format="%.6g")
        lines.to_parquet(given.timeline, index=False)


if __name__ == "__main__":
    main()
