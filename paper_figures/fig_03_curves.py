"""Figure 3: latency against call rate of each LLM; by tensor-parallel degree on whole GPUs, and by share at degree 1."""

import matplotlib.pyplot as plt
import style

SHARES = (20, 40, 60, 100)


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.read(data, "curves")
    pairs = list(dict.fromkeys(zip(frame["workflow"], frame["llm"], strict=True)))
    figure, grid = plt.subplots(2, len(pairs), figsize=(style.PAGE_IN, 3.6), layout="constrained", squeeze=False)
    degrees = [1, 2, 4, 8]
    for column, (workflow, llm) in enumerate(pairs):
        mine = frame[(frame["workflow"] == workflow) & (frame["llm"] == llm)]
        whole = mine[mine["share_pct"] == 100]
        for degree in [d for d in degrees if d in set(whole["tensor_parallel"])]:
            draw(grid[0][column], whole[whole["tensor_parallel"] == degree], f"TP {degree}", degree, degrees)
        single = mine[mine["tensor_parallel"] == 1]
        for share in [s for s in SHARES if s in set(single["share_pct"])]:
            draw(grid[1][column], single[single["share_pct"] == share], f"{share} %", share, SHARES)
        grid[0][column].set_title(f"{llm}\n({workflow})", fontsize=6)
        for axes in grid[:, column]:
            axes.legend(fontsize=5)
            axes.set_ylim(bottom=0)
    grid[0][0].set_ylabel("mean latency of a call (s)\nwhole GPUs")
    grid[1][0].set_ylabel("mean latency of a call (s)\none GPU, by share")
    grid[1][len(pairs) // 2].set_xlabel("calls/s of one instance")
    style.note(figure, frame)
    style.save(figure, output, "fig_03_curves")


def draw(axes, points, label, value, values) -> None:  # type: ignore[no-untyped-def]
    look = style.look(value, values)
    axes.plot(points["calls_per_s"], points["latency_mean_s"], label=label, markersize=3, linewidth=1.1, **look)


if __name__ == "__main__":
    main()
