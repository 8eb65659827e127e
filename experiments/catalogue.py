"""Every experiment by name. To add one, write a module with a ``STUDY`` and add a line here (docs/adding.md)."""

import difflib
from collections.abc import Mapping

from experiments.runner import Experiment
from experiments.studies import (
    calls,
    curves,
    evaluation,
    mix,
    oracle,
    overload,
    placement,
    prediction,
    robustness,
    search,
    workflows,
)
from scepsy.errors import InputError

_ALL = (
    evaluation.STUDY,
    mix.STUDY,
    robustness.STUDY,
    prediction.STUDY,
    oracle.STUDY,
    overload.STUDY,
    calls.RUNS_STUDY,
    calls.SHARES_STUDY,
    curves.STUDY,
    search.STUDY,
    placement.STUDY,
    workflows.STUDY,
    curves.COST_STUDY,
)

EXPERIMENTS: Mapping[str, Experiment] = {study.name: study for study in _ALL}


def find_experiment(name: str) -> Experiment:
    """The experiment called ``name``. Raises ``InputError`` naming what there is."""
    if name not in EXPERIMENTS:
        close = difflib.get_close_matches(name, EXPERIMENTS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"experiment is {name!r}: must be one of {', '.join(EXPERIMENTS)} ({hint}see: scepsy experiment list)")
    return EXPERIMENTS[name]
