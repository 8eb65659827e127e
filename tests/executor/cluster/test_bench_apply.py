"""How long the deployer itself takes: 200 instances against the double, whose pods are ready at once."""

from typing import Any

from executor.cluster.apply import apply
from executor.manifests import render
from tests.builders import plans
from tests.executor.cluster.double import NAMESPACE, serve
from tests.executor.cluster.lab import QUICK

PLAN = plans.many(200)
RENDERED = render(PLAN, plans.profiles(), plans.OPTIONS)


def test_apply_200_instances(benchmark: Any) -> None:
    with serve(PLAN.cluster) as double:

        def reset() -> None:
            for key in [key for key in double.store.objects if key[1] == NAMESPACE]:
                double.store.remove(key)
            double.store.log.clear()

        done = benchmark.pedantic(lambda: apply(double.api(), RENDERED, limits=QUICK), setup=reset, rounds=2)
        assert done.started == 200
        assert sum(key[0] == "pods" for key in double.store.objects) == 201


def test_apply_200_instances_again(benchmark: Any) -> None:
    with serve(PLAN.cluster) as double:
        apply(double.api(), RENDERED, limits=QUICK)
        done = benchmark.pedantic(lambda: apply(double.api(), RENDERED, limits=QUICK), rounds=3)
        assert (done.kept, done.requests) == (200, 0)
