"""A made-up evaluation table with everything in it: for figures and pages, never for conclusions."""

import math

import numpy as np
import pandas as pd

from experiments.systems.registry import SYSTEMS
from scepsy.rng import stream

RATES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.1)
PLACES = [
    *(("rag-rerank", gpus, {}) for gpus in (4, 8, 16)),
    *(("beam-search", gpus, {}) for gpus in (4, 16)),
    ("rag-rerank+beam-search", 16, {}),
    ("debate", 16, {}),
    ("rag-rerank", 8, {"gpu_type": "H100-80G"}),
    ("rag-rerank", 8, {"arrivals": "gamma:4"}),
    ("rag-rerank", 8, {"planned_on": "drift:2.0", "measured_on": "drift:2.0"}),
    ("rag-rerank", 8, {"models": "llama-2-7b=llama-2-13b"}),
    ("rag-rerank", 4, {"gpus_per_node": 2}),
]
QUESTION = {
    "gpus_per_node": 8,
    "gpu_type": "A100-80G",
    "arrivals": "poisson",
    "planned_on": "",
    "measured_on": "",
    "models": "",
}
FACTS = {
    "experiment": "evaluation",
    "scale": "made-up",
    "version": "0.0.0",
    "commit": "none",
    "code": "none",
    "machine": "none",
}
SEEDS = (1, 2, 3, 4, 5)


def table(more: tuple[str, ...] = ()) -> pd.DataFrame:
    """Systems of the registry, and ``more`` that nobody knows; latencies of single queues of random strength."""
    rows = []
    for workload, gpus, change in PLACES:
        question = QUESTION | {"workload": workload, "gpus": gpus} | change
        tight = question["gpus_per_node"] == 2
        kept = [s for s in SYSTEMS.values() if s.group != "oracle"]
        names = [s for s in kept if (s.group == "ablation") == tight or s.name == "scepsy"]
        everyone = [(s.name, s.title, s.group) for s in names] + [(name, name.title(), "engine") for name in more if not tight]
        for name, title, group in everyone:
            rows += _system(name, title, group, question)
    return pd.DataFrame(rows)


def _system(name: str, title: str, group: str, question: dict) -> list[dict]:
    rng = stream(1, "made-up", name, question["workload"], question["gpus"])
    best = 1.0 if name == "scepsy" else float(rng.uniform(0.2, 1.0))
    quick_s = 1.5 if name == "scepsy" else float(rng.uniform(1.6, 4.0))
    rate = 3.0 * question["gpus"]
    options = ("prefill=1 decode=3 spread=True", "prefill=2 decode=2 spread=False") if name == "aegaeon" else ("",)
    rows: list[dict] = []
    for number, option in enumerate(options):
        common = FACTS | question | {
            "system": name, "title": title, "group": group, "option": option, "source": "simulated", "task": "{}",
            "decided": f"{name} made this up", "carried": "planned for 0.8 of the rate: x" if best < 0.3 else "",
        }  # fmt: skip
        settled = best > 0.35
        load = best / (1 + number)
        rows.append(
            common
            | {
                "kind": "maximum", "seed": -1, "seeds": 5, "workflow": "", "load": load, "rate_per_s": load * rate,
                "rate_low_per_s": 0.98 * load * rate, "rate_high_per_s": 1.02 * load * rate, "load_stable": 0.98 * load,
                "load_unstable": 1.02 * load, "settled": settled, "stable": True, "verdict": "stable",
                "why": "" if settled else "not settled: made up",
            }
        )  # fmt: skip
        for part in RATES:
            use = part * (1 + number) / best
            verdict = "stable" if use < 0.97 else "undecided" if use < 1.03 else "unstable"
            mean = quick_s / (1 - min(use, 0.96)) if use < 1.03 else 60.0 * use
            for seed in SEEDS[: 2 if verdict == "unstable" else 5]:
                value = mean * (1 + 0.02 * float(rng.standard_normal()))
                for workflow in question["workload"].split("+"):
                    rows.append(
                        common
                        | {
                            "kind": "sweep", "seed": seed, "workflow": workflow, "load": part, "rate_per_s": part * rate,
                            "latency_mean_s": value, "latency_mean_half_width_s": 0.03 * value, "latency_p50_s": 0.8 * value,
                            "latency_p95_s": 2.5 * value, "latency_p99_s": 4 * value, "stable": verdict == "stable",
                            "point_verdict": verdict, "point_settled": verdict == "stable" and use < 0.9,
                            "point_why": "", "settled": True, "verdict": verdict,
                        }
                    )  # fmt: skip
    assert all(np.isfinite(row["rate_per_s"]) and not math.isnan(row["load"]) for row in rows)
    return rows
