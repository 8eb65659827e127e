"""Allocation rules that planners are compared with."""
