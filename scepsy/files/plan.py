"""Plan files, ``*.plan.yaml``: ``format: scepsy.plan`` as YAML.

Paths inside a plan (its trace, its profiles) are relative to the plan file. An overloaded baseline's expected latency is
infinite, so ``.inf`` is read where a value allows it; NaN never is.
"""

from pathlib import Path

from scepsy.files.document import read_yaml, write_yaml
from scepsy.plans import Plan

FORMAT, VERSION = "scepsy.plan", 1


def load_plan(path: str | Path) -> Plan:
    """Read a plan. Raises ``InputError`` naming file, line, field and remedy."""
    return read_yaml(path, Plan, FORMAT, VERSION, allow_infinity=True)


def save_plan(path: str | Path, plan: Plan) -> None:
    """Write a plan, atomically."""
    write_yaml(path, plan, FORMAT, VERSION, allow_infinity=True)
