"""Checks of accuracy and speed, each a command: `python -m experiments.checks.NAME`."""
