"""Latency against cost as a picture: one series per GPU type, and the line that no offer beats."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from scepsy.files.atomic import atomic_path
from scepsy.report.style import looks, readable_log, styled
from scepsy.search.offers import Offer


def cost_figure(offers: Sequence[Offer], title: str) -> Figure:
    """Dollars per hour across, mean latency (s) upwards; each marker a plan with its number of GPUs.

    Offers without a plan or a price are left out.
    """
    shown = [(o, o.cost.usd_per_hour, o.latency_s) for o in offers if o.cost is not None and o.cost.usd_per_hour is not None]
    points = [(o, dollars, latency) for o, dollars, latency in shown if latency is not None and isfinite(latency)]
    with styled():
        figure, axes = plt.subplots(figsize=(7.0, 4.0), layout="constrained")
        for name, look in looks(list(dict.fromkeys(o.gpu_type for o, _, _ in points))).items():
            mine = [(dollars, latency, o.plan) for o, dollars, latency in points if o.gpu_type == name]
            axes.plot([d for d, _, _ in mine], [s for _, s, _ in mine], linestyle="none", marker=look.marker, markersize=5,
                      color=look.colour, markerfacecolor="white", label=name)  # fmt: skip
        line = sorted((dollars, latency, o) for o, dollars, latency in points if o.on_pareto)
        if line:
            axes.step([d for d, _, _ in line], [s for _, s, _ in line], where="post", color="#555555", linewidth=1.2,
                      label="no offer is better in both", zorder=0)  # fmt: skip
            for dollars, latency, offer in line:
                count = offer.cost.gpus if offer.cost else offer.gpus
                axes.annotate(f"{count}", (dollars, latency), textcoords="offset points", xytext=(4, 4), fontsize=7)
        readable_log(axes, [latency for _, _, latency in points])
        axes.set_xlim(left=0)
        axes.set_xlabel("US dollars per hour of the GPUs touched")
        axes.set_ylabel("mean latency (s)")
        axes.set_title(title, fontsize=9, loc="left")
        if points:
            axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def write_cost_figure(offers: Sequence[Offer], title: str, path: Path) -> None:
    """Draw into an SVG, PNG or PDF file, by its name. Raises ``InputError`` where it cannot be written."""
    figure = cost_figure(offers, title)
    with styled(), atomic_path(path) as aside:
        figure.savefig(aside, format=path.suffix.removeprefix("."), metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
