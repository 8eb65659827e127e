"""Every system on RAG with a reranker, beam search, and both, at 16 GPUs: latency against rate, and the highest stable rate."""

from dataclasses import replace

from experiments.points.measured import Effort
from experiments.points.questions import Question
from experiments.runner import Experiment, Scale, Task
from experiments.studies.loads import calls_of_loads, load_tasks, run_loads

QUESTIONS = (
    Question(workflows=("rag-rerank",)),
    Question(workflows=("beam-search",)),
    Question(workflows=("rag-rerank", "beam-search")),
)
SYSTEMS = (
    "scepsy",
    "scepsy-exact",
    "scepsy-paper",
    "scepsy-judged",
    "equal",
    "proportional",
    "independent",
    "oracle-user",
    "hpa",
    "ayo",
    "aegaeon",
    "muxserve",
    "scepsy-plas",
)


QUICK_EFFORT = Effort(spans=5.0, most_calls=15_000)
QUICK_LOADS = (0.3, 0.6, 0.9)
"""16 GPUs take many calls to fill, so even the quick headline simulates more of them than the other quick experiments. Beyond
the highest planned rate that many calls would last for less than one latency, and say nothing about stability."""
FULL_ONLY = ("scepsy-exact", "scepsy-judged")
"""Variants that the ``oracle`` and ``robustness`` experiments have at the quick scale."""


def tasks(scale: Scale) -> list[Task]:
    """All systems on all three workloads."""
    systems = [system for system in SYSTEMS if scale.full or system not in FULL_ONLY]
    if not scale.full:
        scale = replace(scale, effort=QUICK_EFFORT, loads=QUICK_LOADS)
    return load_tasks(QUESTIONS, systems, scale)


STUDY = Experiment("headline", "latency against rate at 16 GPUs, every system", "fig_05_main", tasks, run_loads, calls_of_loads)
