"""A cluster without some GPUs, and plans there and back."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scepsy.cluster import Gpu
from scepsy.errors import Infeasible
from scepsy.operate.lost import moved, without
from scepsy.plans import Served
from tests.builders.plans import plans, two_nodes


def test_what_is_left_is_numbered_without_gaps_and_keeps_its_links() -> None:
    cluster = two_nodes().cluster
    found = without(cluster, [Gpu(node="n1", index=1), Gpu(node="n2", index=0), Gpu(node="n2", index=1)])
    assert [(node.name, node.gpus) for node in found.cluster.nodes] == [("n1", 3)]
    assert found.cluster.nodes[0].gpu_uuids == ("GPU-n1-0", "GPU-n1-2", "GPU-n1-3")
    assert found.to_left[Gpu(node="n1", index=3)] == Gpu(node="n1", index=2)


def test_nothing_left_is_infeasible() -> None:
    cluster = two_nodes().cluster
    with pytest.raises(Infeasible, match="all 6 GPUs"):
        without(cluster, cluster.gpus)


@given(plans(), st.data())
def test_a_plan_goes_there_and_back(plan, data) -> None:
    gpus = list(plan.cluster.gpus)
    lost = data.draw(st.lists(st.sampled_from(gpus), max_size=len(gpus) - 1, unique=True))
    left = without(plan.cluster, lost)
    served = tuple(Served(llm=a.llm, model=a.llm) for a in plan.allocations)
    plan = msgspec.structs.replace(plan, models=served)
    there = moved(plan, left.cluster, left.to_left)
    back = moved(there, plan.cluster, left.to_whole)
    survivors = sorted(i.gpus for i in plan.instances if not set(i.gpus) & set(lost))
    assert sorted(i.gpus for i in back.instances) == survivors
    assert not {gpu for i in back.instances for gpu in i.gpus} & set(lost)
    assert {served.llm for served in back.models} == {a.llm for a in back.allocations}
    if not lost:
        assert back.instances == tuple(plan.instances)
