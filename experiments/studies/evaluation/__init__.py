"""The evaluation: which systems face which workloads (``design``), and in which steps they are measured (``steps``)."""

from experiments.studies.evaluation.steps import STUDY

__all__ = ["STUDY"]
