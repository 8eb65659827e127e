"""Table 6: latency ratios against the length of the experiment, at 90 % load."""

import style
import tables


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.read(data, "overload")
    keys = ["length", "seed"]
    ours = frame[frame["system"] == "scepsy"].set_index(keys)["latency_mean_s"]
    frame = frame.assign(ratio=frame["latency_mean_s"].to_numpy() / ours.reindex(frame.set_index(keys).index).to_numpy())
    table = frame.groupby(["system", "length"], as_index=False, sort=False).agg(
        latency_s=("latency_mean_s", "mean"), ratio=("ratio", "mean"), stable=("stable", "all")
    )
    table["system"] = table["system"].map(style.TITLES)
    columns = {
        "system": "system",
        "length": "length of the arrivals (x)",
        "latency_s": "mean latency (s)",
        "ratio": "over Scepsy's",
        "stable": "stable",
    }
    caption = (
        "RAG with reranking on 4 GPUs at 90 % of the highest planned rate. A stable system's latency does not depend on how "
        "long arrivals last; an overloaded one's does, and its ratio says how long somebody measured."
    )
    tables.save(table[list(columns)].rename(columns=columns), output, "tab_06_overload", caption)


if __name__ == "__main__":
    main()
