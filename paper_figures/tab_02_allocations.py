"""Table 2: what each system decided near half of the best system's highest rate, on the largest default cluster."""

import evaluated
import style
import tables

PART = 0.55


def main() -> None:
    data, output = style.folders(__doc__ or "")
    points, maxima = style.read(data, "points"), style.read(data, "maxima")
    kept = evaluated.overall(evaluated.base(points, gpus_per_node=8))
    kept = kept[kept["best"] & (kept["group"] != "ablation") & (kept["gpus"] <= 16)]
    if kept.empty:
        style.skip("tab_02_allocations", f"{data}/points.parquet has no rows at the default assumptions")
    kept = kept[kept["gpus"] == kept.groupby("workload")["gpus"].transform("max")]
    top = evaluated.base(maxima, gpus_per_node=8).groupby(["workload", "gpus"])["load"].max()
    best = [top.get((w, g), 1.0) for w, g in zip(kept["workload"], kept["gpus"], strict=True)]
    kept = kept.assign(off=(kept["load"] / best - PART).abs())
    kept = kept[kept["off"] == kept.groupby("workload")["off"].transform("min")]
    order = {name: n for n, name in enumerate(evaluated.systems(kept))}
    chosen = kept.sort_values(["workload", "system"], key=lambda c: c.map(order) if c.name == "system" else c, kind="stable")
    chosen = chosen.assign(
        system=[evaluated.title(name, chosen) for name in chosen["system"]],
        carried=chosen["carried"].fillna("").str.replace(r": .*", "", regex=True),
    )
    columns = {
        "workload": "workload", "gpus": "GPUs", "rate_per_s": "runs/s", "system": "system", "option": "option",
        "decided": "decided", "carried": "carried over",
    }  # fmt: skip
    caption = (
        f"Decisions at the common rate nearest to {PART:.0%} of the best system's highest stable rate (each system's best "
        "option); share in percent of one GPU's SMs; carried over: it found no plan for that rate."
    )
    tables.save(chosen[list(columns)].rename(columns=columns), output, "tab_02_allocations", caption)


if __name__ == "__main__":
    main()
