"""How planning grows: search time and optimality gap against LLMs, GPUs and share unit, up to 1,024 GPUs."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec

from experiments.points.measured import Row
from experiments.runner import Experiment, Scale, Task
from scepsy.errors import Infeasible
from scepsy.search import PLANNERS
from scepsy.search.assemble import evaluate
from scepsy.search.random_problems import Size, random_problem

BASE = Size(llms=5, nodes=2)
METHODS = ("exact", "hierarchical")


def sizes(scale: Scale) -> list[tuple[str, Size]]:
    """(what varies, size): LLMs at 16 GPUs, GPUs at five LLMs (64 with the largest), share unit at 16 GPUs."""
    llms = (2, 3, 5, 8, 12, 16) if scale.full else (2, 5, 8)
    nodes = (1, 2, 4, 16, 64, 128) if scale.full else (1, 2, 4, 16)
    units = (5, 10, 20, 25, 50) if scale.full else (10, 25, 50)
    found = [("llms", resized(BASE, llms=n)) for n in llms]
    found += [("gpus", resized(BASE, nodes=n)) for n in nodes]
    found += [("share unit", resized(BASE, share_unit_pct=unit)) for unit in units]
    return found


def resized(size: Size, **changes: Any) -> Size:
    """The size with some fields changed."""
    return Size(**(asdict(size) | changes))


def tasks(scale: Scale) -> list[Task]:
    """One task per size, planner and seed. The hierarchical search is left out where it would take minutes."""
    found = []
    for varies, size in sizes(scale):
        for method in METHODS:
            slow = method == "hierarchical" and (size.llms > 8 or size.nodes > 16)
            if not slow or (scale.full and size.nodes <= 16):
                for seed in range(5 if scale.full else 2):
                    found.append(Task({"varies": varies, "size": asdict(size), "method": method, "seed": seed}))
    return found


def rows(params: Mapping[str, Any]) -> list[Row]:
    """CPU seconds to plan (a shared machine stretches wall time), the objective reached and the bound the exact planner
    proves.
    """
    size = msgspec.convert(params["size"], Size)
    problem = random_problem(size, params["seed"])
    base = {
        "varies": params["varies"],
        "method": params["method"],
        "seed": params["seed"],
        "llms": size.llms,
        "gpus": size.nodes * size.gpus_per_node,
        "share_unit_pct": size.share_unit_pct,
        "source": "predicted",
    }
    began = time.process_time()
    try:
        plan = PLANNERS[params["method"]](problem)
    except Infeasible as error:
        return [base | {"search_s": time.process_time() - began, "feasible": False, "why": " ".join(str(error).split())}]
    search_s = time.process_time() - began
    return [
        base
        | {
            "search_s": search_s,
            "feasible": True,
            "objective_s": evaluate(problem, plan.allocations, plan.placement).objective_s,
            "bound_s": plan.bound_latency_s,
            "optimal": plan.optimal,
            "why": "",
        }
    ]


STUDY = Experiment("search", "search time and optimality gap", "fig_10_search", tasks, rows)
