from hypothesis import given

from executor.manifests.domains import domains, start_waves
from scepsy.cluster import Gpu
from scepsy.plans import Plan
from tests.builders import plans


def test_instances_that_span_gpus_tie_them_into_one_domain() -> None:
    found = domains(plans.two_nodes())
    assert [([str(g) for g in d.gpus], [i.name for i in d.instances], d.shared) for d in found] == [
        (["n1/0", "n1/1"], ["qwen3-8b-0", "reranker-0", "reranker-1"], True),
        (["n1/2"], ["Meta/Llama-3.1-0"], False),
        (["n2/0"], ["embedder-0", "embedder-1"], True),
    ]


def test_a_lone_instance_below_100_pct_still_needs_its_limiter() -> None:
    only = plans.plan(plans.cluster(plans.node("n", 1)), plans.instance("qwen3-8b", 0, "n", (0,), 40))
    assert [d.shared for d in domains(only)] == [True]


@given(plans.plans())
def test_domains_are_the_finest_partition_that_no_instance_crosses(plan: Plan) -> None:
    found = domains(plan)
    gpus = [gpu for domain in found for gpu in domain.gpus]
    assert sorted(gpus) == sorted({gpu for i in plan.instances for gpu in i.gpus})
    assert sorted(i.name for d in found for i in d.instances) == sorted(i.name for i in plan.instances)
    for domain in found:
        assert len({gpu.node for gpu in domain.gpus}) == 1
        assert all(set(i.gpus) <= set(domain.gpus) for i in domain.instances)
        assert set(_reachable(domain.gpus[0], plan)) == set(domain.gpus)


def _reachable(start: Gpu, plan: Plan) -> set[Gpu]:
    """The slow reference: spread from one GPU until nothing is added."""
    seen = {start}
    while True:
        more = {gpu for i in plan.instances if seen & set(i.gpus) for gpu in i.gpus} - seen
        if not more:
            return seen
        seen |= more


@given(plans.plans())
def test_no_two_instances_of_one_gpu_are_in_one_wave(plan: Plan) -> None:
    waves = start_waves(plan.instances)
    for gpu in plan.cluster.gpus:
        mine = [waves[i.name] for i in plan.instances if gpu in i.gpus]
        assert len(set(mine)) == len(mine)
