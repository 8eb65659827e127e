"""Every planner by the name the command line knows it."""

from scepsy.baselines.independent import plan_independent
from scepsy.baselines.whole_gpus import plan_equal, plan_proportional
from scepsy.search.goals import plan_exact
from scepsy.search.hierarchical import plan_hierarchical
from scepsy.search.paper import plan_paper
from scepsy.search.problem import Planner

PLANNERS: dict[str, Planner] = {
    "exact": plan_exact,
    "hierarchical": plan_hierarchical,
    "paper": plan_paper,
    "equal": plan_equal,
    "proportional": plan_proportional,
    "independent": plan_independent,
}
