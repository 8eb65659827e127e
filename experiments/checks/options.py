"""Every option of a system at a few loads, each point measured until it is settled: what a baseline's best is.

    python -m experiments.checks.options --system aegaeon --workflows beam-search --gpus 8 --loads 0.1 0.3
    python -m experiments.checks.options --system muxserve --workflows rag-rerank --gpus 16 --loads 0.3 0.6 0.9 --seeds 1 2 3

Load 1 is the highest rate that the exact planner plans for, as everywhere. A line has the mean latency with its 95 %
half-width, the verdict of the measuring rule (``scepsy.steady``) and what was decided. With ``--only`` an option is tried only
where its text contains the given one.
"""

import argparse
import time
from math import ceil, fsum

from experiments.points.questions import Question, measured_streams, planning_case
from experiments.systems.deployment import label_of
from experiments.systems.registry import deploy, find_system
from scepsy.api.settle import FIRST_RUNS, settle
from scepsy.errors import Infeasible
from scepsy.profile import catalogue

MOST_CALLS = 60_000
MEMORIES = 4.0
"""Arrivals last so many times what an autoscaler remembers, at least."""


def lines(system_name: str, question: Question, load: float, seed: int, most_calls: int, only: str) -> list[str]:
    """One line per option."""
    system = find_system(system_name)
    found = []
    for option in system.options(catalogue.cluster_of(question.gpus, question.gpu_type, question.gpus_per_node)):
        label = label_of(option) or "-"
        if only not in label:
            continue
        started = time.process_time()
        head = f"{system_name:18s} {question.name:12s} {question.gpus:3d} GPUs  load {load:<5g} seed {seed}  {label:44s}"
        try:
            deployment = deploy(system, planning_case(question, load), option)
        except Infeasible as error:
            found.append(f"{head} infeasible: {' '.join(str(error).split())[:120]}")
            print(found[-1], flush=True)
            continue
        streams = measured_streams(question, load)
        rate = fsum(item.arrivals.rate_per_s or 0.0 for item in streams)
        first = max(FIRST_RUNS, ceil(MEMORIES * deployment.memory_s * rate))
        measured = settle(deployment.replay, streams, seed=seed, first_runs=first, most_calls=most_calls)
        parts = [
            f"{one.latency.value:8.3f} s ±{one.latency.half_width:6.3f} {one.verdict}{' settled' * one.latency.settled}"
            for one in measured.by_workflow.values()
        ]
        carried = " (carried)" if deployment.carried else ""
        spent = time.process_time() - started
        found.append(f"{head} {'; '.join(parts)}{carried}  [{spent:.0f} s cpu] {deployment.decided[:110]}")
        print(found[-1], flush=True)
    return found


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description="every option of a system, settled")
    parser.add_argument("--system", nargs="+", required=True)
    parser.add_argument("--workflows", nargs="+", default=["rag-rerank"])
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--gpu-type", default="A100-80G")
    parser.add_argument("--loads", nargs="+", type=float, default=[0.3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--arrivals", default="poisson")
    parser.add_argument("--most-calls", type=int, default=MOST_CALLS)
    parser.add_argument("--only", default="", help="text that an option's name must contain")
    given = parser.parse_args()
    question = Question(workflows=tuple(given.workflows), gpus=given.gpus, gpu_type=given.gpu_type, arrivals=given.arrivals)
    for system in given.system:
        for load in given.loads:
            for seed in given.seeds:
                lines(system, question, load, seed, given.most_calls, given.only)


if __name__ == "__main__":
    main()
