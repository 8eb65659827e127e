"""Table 2: what each system decided at the second load of the headline experiment."""

import style
import tables


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.sweep(style.read(data, "headline"))
    loads = sorted(set(frame["load"]))
    load = loads[min(1, len(loads) - 1)]
    best = style.best_option(style.over_seeds(style.per_point(frame[frame["load"] == load])))
    chosen = best.merge(
        frame[["workload", "system", "option", "load", "decided", "carried"]].drop_duplicates(
            ["workload", "system", "option", "load"]
        ),
        on=["workload", "system", "option", "load"],
    )
    chosen["system"] = chosen["system"].map(style.TITLES)
    chosen["carried"] = chosen["carried"].fillna("").str.replace(r": .*", "", regex=True)
    columns = {"workload": "workload", "system": "system", "option": "option", "decided": "decided", "carried": "carried over"}
    caption = (
        f"Decisions at {load:.0%} of the highest planned rate (each system's best option); share in percent of one GPU's SMs."
    )
    tables.save(chosen[list(columns)].rename(columns=columns), output, "tab_02_allocations", caption)


if __name__ == "__main__":
    main()
