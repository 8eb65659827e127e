"""Figure 12: what drift, skipped LLMs, fan-out, tool time and bursts do to latency and to each predictor."""

import matplotlib.pyplot as plt
import numpy as np
import style

DIMENSIONS = {
    "drift": "answers longer than planned for (x)",
    "bimodal": "runs that skip an LLM (part)",
    "fan-out": "parallel calls to each of 2 LLMs",
    "tool": "tool share of latency",
    "burst": "arrival CV",
}
PREDICTORS = ("aggregate", "critical-path", "paper")
SERIES = ("scepsy", "scepsy-exact", "scepsy-paper", "equal")


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.read(data, "robustness")
    frame["who"] = np.where(
        frame["source"] == "predicted", frame["predictor"].fillna("") if "predictor" in frame else "", frame["system"]
    )
    keys = ["dimension", "value", "workload", "source", "who"]
    table = frame.groupby(keys, as_index=False, sort=False).agg(latency_s=("latency_mean_s", "mean"), stable=("stable", "all"))
    generated = table[table["dimension"] != "real"]
    panels = [d for d in DIMENSIONS if d in set(generated["dimension"])]
    real = table[table["dimension"] == "real"]
    columns = len(panels) + (1 if len(real) else 0)
    figure, grid = plt.subplots(2, columns, figsize=(style.PAGE_IN, 3.4), layout="constrained", squeeze=False)
    for column, dimension in enumerate(panels):
        mine = generated[generated["dimension"] == dimension]
        first = list(dict.fromkeys(mine["workload"])) if dimension != "fan-out" else [None]
        mine = mine[mine["workload"] == first[0]] if first[0] else mine
        latencies(grid[0][column], mine[mine["source"] == "simulated"])
        errors(grid[1][column], mine)
        grid[0][column].set_title(dimension + (f" ({first[0]})" if first[0] else ""), fontsize=6)
        grid[1][column].set_xlabel(DIMENSIONS[dimension], fontsize=5.5)
    if len(real):
        bars(grid[0][-1], grid[1][-1], real)
    grid[0][0].set_ylabel("simulated mean latency (s)")
    grid[1][0].set_ylabel("predicted / simulated")
    for row in grid:
        handles, labels = row[0].get_legend_handles_labels()
        row[0].legend(handles, labels, fontsize=6)
    style.note(figure, frame)
    style.save(figure, output, "fig_12_robustness")


def latencies(axes, simulated) -> None:  # type: ignore[no-untyped-def]
    for system in [s for s in SERIES if s in set(simulated["who"])]:
        one = simulated[simulated["who"] == system].sort_values("value")
        look = style.look(system, SERIES)
        axes.plot(one["value"], one["latency_s"], color=look["color"], linestyle=look["linestyle"], linewidth=1.2)
        for stable, face in ((True, look["color"]), (False, "white")):
            part = one[one["stable"] == stable]
            axes.plot(
                part["value"],
                part["latency_s"],
                linestyle="none",
                marker=look["marker"],
                color=look["color"],
                markerfacecolor=face,
                markersize=4.5,
            )
        axes.plot([], [], label=style.TITLES[system], markersize=4.5, **look)
    axes.set_ylim(bottom=0)


def errors(axes, mine) -> None:  # type: ignore[no-untyped-def]
    truth = mine[(mine["source"] == "simulated") & (mine["who"] == "scepsy")].set_index(["value", "workload"])["latency_s"]
    axes.axhspan(0.85, 1.15, color="#e8f0e8")
    axes.axhline(1.0, color="black", linewidth=0.7)
    for predictor in PREDICTORS:
        one = mine[mine["who"] == predictor].sort_values("value")
        ratio = one["latency_s"].to_numpy() / truth.reindex(one.set_index(["value", "workload"]).index).to_numpy()
        axes.plot(
            one["value"],
            ratio,
            label=predictor.replace("-", " "),
            markersize=4.5,
            linewidth=1.2,
            **style.look(predictor, PREDICTORS),
        )


def bars(top, bottom, real) -> None:  # type: ignore[no-untyped-def]
    """Real traces: latency by system above, each predictor's ratio below."""
    names = list(dict.fromkeys(zip(real["workload"], real["value"], strict=True)))
    simulated = real[real["source"] == "simulated"]
    present = [s for s in SERIES if s in set(simulated["who"])]
    for n, system in enumerate(present):
        values = [
            simulated[(simulated["who"] == system) & (simulated["workload"] == w) & (simulated["value"] == v)][
                "latency_s"
            ].mean()
            for w, v in names
        ]
        top.bar(
            np.arange(len(names)) + n * 0.8 / len(present),
            values,
            0.8 / len(present),
            color=style.look(system, SERIES)["color"],
            hatch=style.HATCHES[n],
            edgecolor="black",
            linewidth=0.4,
        )
    truth = simulated[simulated["who"] == "scepsy"].set_index(["workload", "value"])["latency_s"]
    bottom.axhspan(0.85, 1.15, color="#e8f0e8")
    bottom.axhline(1.0, color="black", linewidth=0.7)
    for predictor in PREDICTORS:
        one = real[real["who"] == predictor].set_index(["workload", "value"])["latency_s"]
        ratio = [one.get(name, np.nan) / truth.get(name, np.nan) for name in names]
        bottom.plot(
            range(len(names)),
            ratio,
            linestyle="none",
            marker=style.look(predictor, PREDICTORS)["marker"],
            color=style.look(predictor, PREDICTORS)["color"],
        )
    labels = [w.removeprefix("real:") + (f"\nCV {v:g}" if len({v for _, v in names}) > 1 else "") for w, v in names]
    top.set_xticks([])
    bottom.set_xticks(range(len(names)), labels, rotation=30, ha="right", fontsize=6)
    top.set_title("real traces", fontsize=6)


if __name__ == "__main__":
    main()
