"""One cluster for the tests: the double, or the one of KUBECONFIG when they are run with ``-m cluster``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from scepsy.cluster import Cluster
from tests.builders import plans
from tests.executor.cluster.double import Double, serve
from tests.executor.cluster.lab import DoubleLab, Lab, RealLab


@pytest.fixture
def double() -> Iterator[Double]:
    """A double with the nodes and GPUs of ``plans.two_nodes``."""
    with serve(plans.two_nodes().cluster) as running:
        yield running


BOTH = ["double", pytest.param("real", marks=pytest.mark.cluster)]


@pytest.fixture(params=BOTH)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A cluster with the nodes and GPUs of ``plans.two_nodes``: the same test bodies run on both."""
    with _lab(request.param, plans.two_nodes().cluster) as made:
        yield made


@pytest.fixture(params=BOTH)
def wide_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The same with one node of eight GPUs."""
    with _lab(request.param, plans.degree(1).cluster) as made:
        yield made


@contextmanager
def _lab(which: str, cluster: Cluster) -> Iterator[Lab]:
    if which == "double":
        with serve(cluster) as running:
            yield DoubleLab(running)
        return
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG is not set: no cluster to run against")
    with RealLab(cluster).prepared() as real:
        yield real
