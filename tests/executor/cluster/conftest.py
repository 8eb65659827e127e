"""One cluster for the tests: the double, or the one of KUBECONFIG when they are run with ``-m cluster``."""

import os
from collections.abc import Iterator

import pytest

from tests.executor import plans
from tests.executor.cluster.double import Double, serve
from tests.executor.cluster.lab import DoubleLab, Lab, RealLab


@pytest.fixture
def double() -> Iterator[Double]:
    """A double with the nodes and GPUs of ``plans.two_nodes``."""
    with serve(plans.two_nodes().cluster) as running:
        yield running


@pytest.fixture(params=["double", pytest.param("real", marks=pytest.mark.cluster)])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A cluster with the nodes and GPUs of ``plans.two_nodes``: the same test bodies run on both."""
    if request.param == "double":
        with serve(plans.two_nodes().cluster) as running:
            yield DoubleLab(running)
    else:
        if not os.environ.get("KUBECONFIG"):
            pytest.skip("KUBECONFIG is not set: no cluster to run against")
        with RealLab(plans.two_nodes().cluster).prepared() as real:
            yield real
