"""Figure 4: predicted against simulated mean latency, its error by load, and the simulator's error on measured engine runs."""

import matplotlib.pyplot as plt
import numpy as np
import style

KEYS = ["workflow", "load"]
PREDICTORS = ("aggregate", "critical-path", "paper")
NAMES = {"aggregate": "aggregate", "critical-path": "critical path", "paper": "the paper's formula"}


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.read(data, "prediction")
    simulated = (
        frame[frame["source"] == "simulated"]
        .groupby(KEYS, as_index=False)
        .agg(simulated_s=("latency_mean_s", "mean"), stable=("stable", "all"))
    )
    predicted = frame[frame["source"] == "predicted"].groupby([*KEYS, "predictor"], as_index=False)["latency_mean_s"].mean()
    both = predicted.merge(simulated[simulated["stable"]], on=KEYS)
    if both.empty:
        style.skip("fig_04_prediction", f"{data}/prediction.parquet has no stable point: run it at another scale")
    both["error_pct"] = 100 * (both["latency_mean_s"] / both["simulated_s"] - 1)
    engines = frame[frame["source"] == "measured"]
    figure, grid = plt.subplots(1, 3 if len(engines) else 2, figsize=(style.PAGE_IN, 2.5), layout="constrained")
    left, right = grid[0], grid[1]
    if len(engines):
        measured(grid[2], engines)
    span = np.array([both["simulated_s"].min() * 0.8, both["simulated_s"].max() * 1.25])
    left.fill_between(span, span * 0.85, span * 1.15, color="#e8f0e8", label="±15 %")
    left.plot(span, span, color="black", linewidth=0.7)
    loads = sorted(set(both["load"]))
    width = 0.8 / len(PREDICTORS)
    for number, predictor in enumerate(PREDICTORS):
        mine = both[both["predictor"] == predictor]
        look = style.look(predictor, PREDICTORS)
        left.plot(
            mine["simulated_s"],
            mine["latency_mean_s"],
            linestyle="none",
            marker=look["marker"],
            color=look["color"],
            markersize=4,
            label=NAMES[predictor],
            markerfacecolor="none",
        )
        mape = [mine[mine["load"] == load]["error_pct"].abs().mean() for load in loads]
        right.bar(
            np.arange(len(loads)) + (number - 1) * width,
            mape,
            width,
            color=look["color"],
            hatch=style.HATCHES[number],
            edgecolor="black",
            linewidth=0.5,
            label=NAMES[predictor],
        )
    left.set(xscale="log", yscale="log", xlabel="simulated mean latency (s)", ylabel="predicted mean latency (s)")
    style.plain(left)
    style.plain(left, "x")
    left.legend()
    right.set_xticks(range(len(loads)), [f"{load:.0%}" for load in loads])
    right.set(xlabel="load (part of the highest planned rate)", ylabel="mean absolute error (%)")
    right.set_title(f"{both['workflow'].nunique()} workflows, stable points")
    right.set_ylim(top=1.35 * right.get_ylim()[1])
    right.legend()
    style.note(figure, frame)
    style.save(figure, output, "fig_04_prediction")


ERRORS = {
    "latency_mean_err_pct": "mean\nlatency",
    "latency_p95_err_pct": "p95\nlatency",
    "tpot_mean_err_pct": "TPOT",
    "ttft_mean_err_pct": "TTFT",
}


def measured(axes, engines) -> None:  # type: ignore[no-untyped-def]
    """Signed error of the simulator on the scored part of each recorded run."""
    width = 0.8 / len(engines)
    for number, row in enumerate(engines.itertuples(index=False)):
        places = np.arange(len(ERRORS)) + (number - (len(engines) - 1) / 2) * width
        name = row.workload.removeprefix("engine:")
        axes.bar(
            places,
            [getattr(row, key) for key in ERRORS],
            width,
            color=style.PALETTE[number],
            hatch=style.HATCHES[number],
            edgecolor="black",
            linewidth=0.5,
            label=name,
        )
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(ERRORS)), list(ERRORS.values()), fontsize=5.5)
    axes.set_ylabel("simulated against measured (%)")
    axes.set_title("real engine runs, last two thirds")
    axes.legend()


if __name__ == "__main__":
    main()
