"""Draw the pictures of the documentation: ``make pictures``. The same program gives the same files."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import scepsy
from scepsy.api.prepare import Load, prepare
from scepsy.files.cache import cache_dir
from scepsy.report.figures import gpu_map
from scepsy.report.offers import cost_figure
from scepsy.report.style import looks, styled
from scepsy.search.offers import offers, side_by_side

HERE = Path(__file__).parent
MODELS = {
    "gpt-4o": "qwen3-30b-a3b",
    "gpt-4o-mini": "llama-3.1-8b",
    "text-embedding-3-small": "bge-large-en-v1.5",
    "rerank-v3.5": "bge-reranker-large",
    "claude-haiku-4-5": "qwen3-4b",
}
RATE_PER_S = 6.0
FACTORS = (0.5, 1.0, 2.0, 4.0, 6.0, 7.0)
"""Simulated rates over the plan's."""


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.02", facecolor=colour, edgecolor="#444444"))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color="#444444"))


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def in_and_out() -> Figure:
    """What goes in and what comes out."""
    figure, axes = _canvas(8.0, 3.0)
    for y, text in (
        (2.2, "traces\nwho calls whom,\nhow many tokens"),
        (1.1, "models and GPUs\nstep times, memory"),
        (0.1, "target\nrequests/s, limits"),
    ):
        _box(axes, 0.1, y, 2.0, 0.7, text, "#e8f0f8")
        _arrow(axes, (2.15, y + 0.35), (2.95, 1.5))
    _box(axes, 3.0, 1.0, 1.7, 1.0, "Scepsy\npredict, search,\nplace, simulate", "#fdf0e0")
    for y, text in (
        (2.2, "plan\nshares, degrees, replicas,\nwhich GPU"),
        (1.1, "what to expect\nlatency, highest rate,\nsimulated and measured"),
        (0.1, "deployment\nvLLM on one host,\nKubernetes"),
    ):
        _box(axes, 5.6, y, 2.3, 0.7, text, "#e8f4ea")
        _arrow(axes, (4.75, 1.5), (5.55, y + 0.35))
    return figure


def layers() -> Figure:
    """Which package may know which."""
    figure, axes = _canvas(8.0, 4.3)
    rows = (
        ("scepsy.cli  ·  experiments", "commands, the evaluation", "#f4e8f0"),
        ("scepsy.api", "plan, predict, simulate, compare: what programs use", "#f4e8f0"),
        ("sim   |   executor", "token-exact simulator   |   gateway, vLLM, Kubernetes", "#fdf0e0"),
        ("scepsy.search  ·  scepsy.baselines", "planners", "#e8f0f8"),
        ("scepsy.predictors  ·  scepsy.place", "latency of an allocation  ·  packing onto GPUs", "#e8f0f8"),
        (
            "scepsy.importers  ·  scepsy.generate  ·  scepsy.files",
            "traces from elsewhere, generated ones, our files",
            "#e8f0f8",
        ),
        ("scepsy.workload  ·  cluster  ·  llm  ·  plans  ·  profile", "values", "#e8f4ea"),
    )
    for number, (name, what, colour) in enumerate(rows):
        y = 3.75 - 0.6 * number
        _box(axes, 0.3, y, 7.0, 0.45, f"{name}\n{what}", colour)
    _arrow(axes, (7.7, 4.1), (7.7, 0.2))
    axes.text(7.78, 2.1, "may know", rotation=270, va="center", fontsize=8)
    return figure


def latency(frame: pd.DataFrame) -> Figure:
    """Predicted and simulated latency of the tutorial's plan against the rate."""
    with styled():
        figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
        axes.plot(frame["rate_per_s"], frame["predicted_s"], color="#0072B2", linestyle="--", label="predicted mean")
        axes.plot(frame["rate_per_s"], frame["mean_s"], color="#0072B2", marker="o", label="simulated mean")
        axes.plot(frame["rate_per_s"], frame["p95_s"], color="#D55E00", marker="s", label="simulated p95")
        axes.set(xlabel="requests per second", ylabel="latency (s)", ylim=(0, None), xlim=(0, None))
        axes.legend()
    return figure


def timeline(records: scepsy.Records, llms: list[str], runs: int = 12) -> Figure:
    """Calls of the first runs over time, one row a run."""
    calls = records.calls.to_pandas()
    first = list(dict.fromkeys(calls.sort_values("issued_s")["run"]))[:runs]
    look = looks(llms)
    with styled():
        figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
        for row, run in enumerate(first):
            mine = calls[calls["run"] == run]
            start = mine["issued_s"].min()
            for llm, part in mine.groupby("llm"):
                spans = [(a - start, b - a) for a, b in zip(part["issued_s"], part["end_s"], strict=True)]
                axes.broken_barh(spans, (row - 0.35, 0.7), facecolor=look[str(llm)].colour, alpha=0.55)
        for llm in llms:
            axes.plot([], [], color=look[llm].colour, linewidth=6, alpha=0.55, label=llm)
        axes.set(xlabel="seconds since the request arrived", ylabel="request", yticks=range(len(first)), xlim=(0, None))
        axes.invert_yaxis()
        axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8)
    return figure


def cost(trace: scepsy.Trace) -> Figure:
    """Latency against cost over three GPU types."""
    clusters = [scepsy.load_cluster(8, name) for name in ("A100-80G", "H100-80G", "L40S")]
    both = side_by_side(clusters)
    load = Load(trace=trace, arrivals=scepsy.Arrivals(rate_per_s=RATE_PER_S))
    problem = prepare([load], both, scepsy.profiles_of(MODELS, both), cache_dir=cache_dir())
    found, _ = offers(problem, clusters)
    return cost_figure(found, f"{load.workflow} at {RATE_PER_S:g} runs/s")


def draw(folder: Path) -> list[Path]:
    """Draw every picture into ``folder``."""
    trace = scepsy.import_trace(HERE / "samples" / "support.otlp.jsonl.gz")
    cluster = scepsy.load_cluster(8, "H100-80G")
    plan = scepsy.plan(trace, rate_per_s=RATE_PER_S, cluster=cluster, profiles=MODELS)
    rows = []
    for factor in FACTORS:
        rate = RATE_PER_S * factor
        (expected,) = scepsy.predict(plan, trace, rate_per_s=rate, profiles=MODELS)
        summary = scepsy.summarise(scepsy.simulate(plan, trace, rate_per_s=rate, profiles=MODELS, runs=1500))
        rows.append(
            {
                "rate_per_s": rate,
                "predicted_s": expected["latency_s"]["mean"],
                "mean_s": summary["latency_s"]["mean"],
                "p95_s": summary["latency_s"]["p95"],
            }
        )
    pictures = {
        "cost": cost(trace),
        "in-out": in_and_out(),
        "layers": layers(),
        "gpu-map": gpu_map(plan),
        "latency": latency(pd.DataFrame(rows).replace(np.inf, np.nan)),
        "timeline": timeline(scepsy.simulate(plan, trace, profiles=MODELS, runs=60), list(MODELS)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in pictures.items():
        with styled():
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)
        written.append(folder / f"{name}.svg")
    return written


if __name__ == "__main__":
    for path in draw(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "pictures"):
        print(path)
