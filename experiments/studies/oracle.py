"""Small instances on which every allocation can be simulated: how far each planner is from the best there is."""

from dataclasses import replace

from experiments.points.questions import Question
from experiments.runner import Experiment, Scale, Task
from experiments.studies.loads import calls_of_loads, load_tasks, run_loads

SYSTEMS = ("exhaustive", "scepsy", "scepsy-exact", "scepsy-paper", "scepsy-predicted", "oracle-user")


def tasks(scale: Scale) -> list[Task]:
    """Two GPUs, coarse shares, two loads."""
    names = ("beam-search", "reflection", "map-reduce-7") if scale.full else ("beam-search",)
    questions = [Question(workflows=(name,), gpus=2, share_unit_pct=25) for name in names]
    return load_tasks(questions, SYSTEMS, replace(scale, halvings=0), loads=(0.3, 0.6, 0.8) if scale.full else (0.5,))


STUDY = Experiment("oracle", "against the exhaustive oracle on two GPUs", "tab_05_oracle", tasks, run_loads, calls_of_loads)
