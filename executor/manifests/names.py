"""Deterministic names and labels. What an object is called follows from what it is, never from when it was made.

Engines, claims and MPS daemons carry a digest of their own content, so an object of another plan with the same content
has the same name and is left alone by a switch; the plan's own ConfigMap carries the digest of the plan.
"""

import hashlib
import json
import re
from typing import Any

FIELD_MANAGER = "scepsy"
PREFIX = "scepsy.dev"

PLAN = f"{PREFIX}/plan"
"""Label: digest of the plan that the object was last applied for."""
ENGINE = f"{PREFIX}/engine"
"""Label: the engine Deployment that a pod belongs to."""
DOMAIN = f"{PREFIX}/domain"
"""Label: the MPS daemon that a pod is (target mps)."""
LLM = f"{PREFIX}/llm"
"""Label: slug of the served LLM."""
WAVE = f"{PREFIX}/wave"
"""Label: engines of wave n start when those of wave n − 1 on the same GPUs serve."""
INSTANCE = f"{PREFIX}/instance"
"""Annotation: the plan's name of the instance, ``<llm>-<index>``."""
GPUS = f"{PREFIX}/gpus"
"""Annotation: ``<node>/<uuid>`` of every GPU used, separated by commas."""
CONTENT = f"{PREFIX}/content"
"""Annotation: digest of what was applied; equal digests need no request."""
STATE = f"{PREFIX}/state"
"""Annotation on a plan's ConfigMap: applying, active or failed."""
SINCE = f"{PREFIX}/serves-since"
"""Annotation on an active plan's ConfigMap: when it came to serve (ISO 8601, UTC)."""

CLAIM_POD_LIMIT = 256
"""A ResourceClaim is reserved for at most this many pods (resource.k8s.io/v1, status.reservedFor)."""
CLAIM_DEVICE_LIMIT = 32
"""A ResourceClaim holds at most this many devices (resource.k8s.io/v1, allocation results)."""


def digest(value: Any, length: int = 10) -> str:
    """Hexadecimal digest of plain data; equal data gives equal digests in any process.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def slug(name: str, limit: int = 24) -> str:
    """A DNS label that stands for ``name``; a digest keeps apart what the label alone would merge.

    >>> slug("qwen3-8b")
    'qwen3-8b'
    >>> slug("Qwen/Qwen3-8B").startswith("qwen-qwen3-8b-")
    True
    """
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if plain == name and len(plain) <= limit:
        return plain
    return f"{plain[: limit - 7].strip('-')}-{digest(name, 6)}".lstrip("-")


def labels(release: str, component: str, name: str) -> dict[str, str]:
    """The recommended ``app.kubernetes.io`` labels."""
    return {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/instance": release,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "scepsy",
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
    }


def release_selector(release: str) -> str:
    """Label selector of everything that one release owns."""
    return f"app.kubernetes.io/managed-by={FIELD_MANAGER},app.kubernetes.io/instance={release}"
