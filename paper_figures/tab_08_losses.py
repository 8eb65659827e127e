"""Table 8: every point at which another system is more than 2 % better than Scepsy, certain or possible."""

import evaluated
import style
import tables
from tab_03_ratios import interval


def assumption(row) -> str:  # type: ignore[no-untyped-def]
    """What is not as assumed elsewhere."""
    gpu = row.gpu_type if row.gpu_type != "A100-80G" else ""
    arrivals = row.arrivals if row.arrivals != "poisson" else ""
    return ", ".join(text for text in (gpu, arrivals, row.planned_on, row.models) if text)


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.read(data, "losses")
    changed = [assumption(row) for row in frame.itertuples()]
    frame = frame.assign(
        system=[evaluated.title(name, frame) for name in frame["system"]],
        assumption=changed,
        ratio=[interval(r.ratio, r.low, r.high, r.settled) for r in frame.itertuples()],
    )
    columns = {
        "verdict": "verdict", "statistic": "of", "workload": "workload", "workflow": "workflow", "gpus": "GPUs", "load": "load",
        "assumption": "changed assumption", "system": "system", "option": "option", "ratio": "ratio [95 %]",
        "ours_decided": "Scepsy ran", "other_decided": "the other ran", "explanation": "explanation",
    }  # fmt: skip
    caption = (
        "Points at which another system is more than 2 % better (ratio below 1). loss: settled, and the 95 % interval leaves "
        "out 1. possible: not settled (*), or the interval holds 1."
    )
    tables.save(frame[list(columns)].rename(columns=columns), output, "tab_08_losses", caption)


if __name__ == "__main__":
    main()
