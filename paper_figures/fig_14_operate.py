"""Figure 14: what a change of load does to latency under the controller and under others, and the GPUs that each holds."""

import matplotlib.pyplot as plt
import pandas as pd
import style

NAME = "fig_14_operate"
COMMAND = "python -m experiments.checks.operate"
SYSTEMS = ("adaptive", "oracle", "static", "hpa-load", "keda")
TITLES = {
    "adaptive": "Scepsy operate",
    "oracle": "re-planned by an oracle",
    "static": "static plan",
    "hpa-load": "Kubernetes HPA",
    "keda": "KEDA",
}
LEFT_OUT = ("stationary",)
LIMIT_S = 12.0
COLUMNS = 5
MINUTE_S = 60.0


def main() -> None:
    data, output = style.folders(__doc__ or "")
    path = data / "operate.parquet"
    if not path.exists():
        style.skip(NAME, f"{path} is missing: run: {COMMAND} --timeline {path}")
    frame = pd.read_parquet(path)
    frame = frame[(frame["seed"] == frame["seed"].min()) & ~frame["scenario"].isin(LEFT_OUT)]
    if frame.empty:
        style.skip(NAME, f"{path} has no load that changes")
    scenarios = list(dict.fromkeys(frame["scenario"]))
    columns = min(COLUMNS, len(scenarios))
    lines = -(-len(scenarios) // columns)
    figure, grid = plt.subplots(
        2 * lines,
        columns,
        figsize=(style.PAGE_IN, 2.15 * lines + 0.4),
        layout="constrained",
        squeeze=False,
        height_ratios=[1.5, 1.0] * lines,
    )
    for place in range(lines * columns):
        top, bottom = (grid[2 * (place // columns) + below][place % columns] for below in (0, 1))
        if place >= len(scenarios):
            top.set_axis_off()
            bottom.set_axis_off()
            continue
        mine = frame[frame["scenario"] == scenarios[place]]
        panel(top, bottom, mine)
        top.set_title(scenarios[place])
        if place % columns == 0:
            top.set_ylabel("latency (s)")
            bottom.set_ylabel("GPUs held")
        if place + columns >= len(scenarios):
            bottom.set_xlabel("time of arrival (min)")
    handles = [plt.Line2D([], [], label=TITLES[name], **line(name)) for name in SYSTEMS if name in set(frame["system"])]
    handles.append(plt.Line2D([], [], label=f"limit of p95 ({LIMIT_S:g} s)", color="#666666", linewidth=0.6))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, columnspacing=1.2)
    style.save(figure, output, NAME)


def line(name: str) -> dict[str, object]:
    """Colour and dash; the controller's line is the thickest."""
    number = SYSTEMS.index(name)
    return {"color": style.PALETTE[number], "linestyle": style.DASHES[number], "linewidth": 1.3 if number == 0 else 0.9}


def panel(top, bottom, mine) -> None:  # type: ignore[no-untyped-def]
    """One scenario: mean latency of the runs that arrive in each bin, and GPUs held."""
    for name in reversed([name for name in SYSTEMS if name in set(mine["system"])]):
        one = mine[mine["system"] == name].sort_values("begin_s")
        minutes = one["begin_s"] / MINUTE_S
        top.plot(minutes, one["mean_s"], **line(name))
        bottom.step(minutes, one["gpus"], where="post", **line(name))
    top.axhline(LIMIT_S, color="#666666", linewidth=0.6)
    top.set_yscale("log")
    top.set_ylim(bottom=2)
    style.plain(top)
    top.tick_params(labelbottom=False)
    bottom.set_ylim(0, 8.4)
    bottom.set_yticks([0, 4, 8])


if __name__ == "__main__":
    main()
