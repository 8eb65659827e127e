"""Every tensor-parallel degree on every target, a whole life each; on the double, and on a real control plane."""

import pytest

from executor.cluster.apply import apply
from executor.cluster.delete import delete
from executor.cluster.diff import diff
from executor.cluster.status import status
from executor.manifests import render
from tests.builders import plans
from tests.executor.cluster.lab import Lab, everything, placement, planned


@pytest.mark.parametrize("tensor_parallel", [1, 2, 4, 8])
@pytest.mark.parametrize("target", ["dra", "mps", "hami"])
def test_a_life(wide_lab: Lab, target: str, tensor_parallel: int) -> None:
    plan = wide_lab.fit(plans.degree(tensor_parallel, whole=target == "hami" and tensor_parallel > 1))
    made = render(plan, plans.profiles(), wide_lab.options(target=target))
    done = apply(wide_lab.api(), made, limits=wide_lab.limits)
    assert (done.started, done.stopped) == (len(plan.instances), 0)
    assert placement(wide_lab) == planned(plan)
    found = status(wide_lab.api(), "scepsy", metrics=False)
    assert (found["state"], found["drift"]) == ("serving", [])
    assert list(diff(wide_lab.api(), made)) == []
    assert apply(wide_lab.api(), made, limits=wide_lab.limits).requests == 0
    delete(wide_lab.api(), "scepsy", limits=wide_lab.limits)
    assert everything(wide_lab) == []
