"""Cluster files: ``format: scepsy.cluster`` as YAML."""

from pathlib import Path

from scepsy.cluster import Cluster
from scepsy.files.document import read_yaml, write_yaml

FORMAT, VERSION = "scepsy.cluster", 1


def load_cluster(path: str | Path) -> Cluster:
    """Read a cluster. Raises ``InputError`` naming file, line, field and remedy."""
    return read_yaml(path, Cluster, FORMAT, VERSION)


def save_cluster(path: str | Path, cluster: Cluster) -> None:
    """Write a cluster, atomically."""
    write_yaml(path, cluster, FORMAT, VERSION)
