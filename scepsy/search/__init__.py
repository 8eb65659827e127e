"""Planners: from a problem to a plan."""

from scepsy.search.problem import Goal, Planner, Problem
from scepsy.search.registry import PLANNERS

__all__ = ["PLANNERS", "Goal", "Planner", "Problem"]
