"""A short name for what a plan runs: two plans with the same instances on the same GPUs have the same."""

import hashlib

import msgspec

from scepsy.plans import Plan
from scepsy.search.change import shape


def fingerprint(plan: Plan) -> str:
    """Twelve hexadecimal digits of the plan's instances; names and predictions do not count."""
    rows = sorted((llm, share, [str(gpu) for gpu in gpus]) for llm, share, gpus in map(shape, plan.instances))
    return hashlib.sha256(msgspec.json.encode(rows)).hexdigest()[:12]
