"""Figure 2: shares of LLM time are steadier than times: CDFs over runs, and the CV of share and latency per workflow."""

import matplotlib.pyplot as plt
import numpy as np
import style


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.read(data, "shares")
    runs, summary = frame[frame["kind"] == "run"], frame[frame["kind"] == "summary"]
    names = list(dict.fromkeys(runs["workflow"]))
    figure, axes = plt.subplots(
        1, len(names) + 1, figsize=(style.PAGE_IN, 2.6), layout="constrained", width_ratios=[1] * len(names) + [1.35]
    )
    for one, name in zip(axes, names, strict=False):
        mine = runs[runs["workflow"] == name]
        latency = mine.drop_duplicates("run")["latency_s"].to_numpy()
        cdf(one, latency, {"color": "#666666", "linestyle": ":"}, "latency")
        llms = list(dict.fromkeys(mine["llm"]))
        for llm in llms:
            look = style.look(llm, llms)
            cdf(
                one,
                mine[mine["llm"] == llm]["share"].to_numpy(),
                {"color": look["color"], "linestyle": look["linestyle"]},
                f"share of {llm}",
            )
        one.set_xlim(0, 3)
        one.set_title(name)
        one.set_xlabel("value over its mean")
        one.set_ylabel("fraction of runs")
        one.legend(fontsize=5, loc="lower right")
    bars(axes[-1], summary)
    style.note(figure, frame)
    style.save(figure, output, "fig_02_shares")


def cdf(axes, values, look, label) -> None:  # type: ignore[no-untyped-def]
    values = np.sort(values / values.mean())
    axes.step(values, (np.arange(len(values)) + 1) / len(values), where="post", label=label, **look)


def bars(axes, summary) -> None:  # type: ignore[no-untyped-def]
    """CV of the dominant LLM's share beside the CV of the latency."""
    places = np.arange(len(summary))[::-1]
    axes.barh(
        places + 0.2,
        summary["latency_cv"],
        0.36,
        color=style.PALETTE[5],
        hatch="//",
        edgecolor="black",
        linewidth=0.5,
        label="latency",
    )
    axes.barh(
        places - 0.2,
        summary["share_cv"],
        0.36,
        color=style.PALETTE[0],
        edgecolor="black",
        linewidth=0.5,
        label="share of the dominant LLM",
    )
    labels = [f"{w.removeprefix('real:')}{' (real)' if w.startswith('real:') else ''}" for w in summary["workflow"]]
    axes.set_yticks(places, labels, fontsize=5.5)
    axes.set_xlabel("coefficient of variation over runs")
    axes.set_title("steady share, unsteady latency?")
    axes.legend(fontsize=5.5)


if __name__ == "__main__":
    main()
