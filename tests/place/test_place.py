"""Placement: what is placed is right, and the exact packer proves what the heuristic misses."""

from collections import Counter

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scepsy.cluster import Cluster, Gpu, GpuType, Node
from scepsy.place.exact import pack_exactly
from scepsy.place.hierarchical import Placement, gpus_touched, layout, pack, pack_around
from scepsy.plans import Allocation

TYPE = GpuType(name="G", memory_bytes=80, bandwidth_bytes_per_s=1.0, flops_per_s=1.0)


def cluster(nodes: int, gpus: int, domains: tuple[tuple[int, ...], ...] = ()) -> Cluster:
    made = tuple(Node(name=f"n{n}", gpu_type="G", gpus=gpus, nvlink_domains=domains) for n in range(nodes))
    return Cluster(name="c", gpu_types=(TYPE,), nodes=made)


def ask(llm: str, share: int, degree: int, replicas: int) -> Allocation:
    return Allocation(llm=llm, share_pct=share, tensor_parallel=degree, replicas=replicas, gpu_type="G")


def check(where: Cluster, allocations: list[Allocation], placement: Placement) -> None:
    used: Counter[Gpu] = Counter()
    domain_of = {gpu: number for number, domain in enumerate(where.nvlink_domains()) for gpu in domain}
    for a in allocations:
        assert len(placement[a.llm]) == a.replicas
        for slot in placement[a.llm]:
            assert len(set(slot)) == a.tensor_parallel
            assert len({domain_of[gpu] for gpu in slot}) == 1
            for gpu in slot:
                used[gpu] += a.share_pct
    assert max(used.values()) <= 100


@st.composite
def questions(draw: st.DrawFn) -> tuple[Cluster, list[Allocation]]:
    where = draw(st.sampled_from([cluster(1, 4), cluster(2, 4), cluster(2, 4, ((0, 1), (2, 3))), cluster(3, 2)]))
    count = draw(st.integers(1, 4))
    shares = st.sampled_from([10, 20, 30, 40, 50, 60, 70, 100])
    asked = [ask(f"m{n}", draw(shares), draw(st.sampled_from([1, 1, 2, 4])), draw(st.integers(1, 4))) for n in range(count)]
    return where, asked


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(questions())
def test_both_packers_place_correctly_and_the_exact_one_never_finds_less(question: tuple[Cluster, list[Allocation]]) -> None:
    where, asked = question
    found = pack(layout(where), asked)
    exact = pack_exactly(layout(where), asked)
    assert exact.status in ("optimal", "infeasible")
    if found is not None:
        check(where, asked, found)
        assert exact.placement is not None
        assert exact.gpus_touched <= gpus_touched(found)
    if exact.placement is not None:
        check(where, asked, exact.placement)
        assert exact.bound_gpus == exact.gpus_touched == gpus_touched(exact.placement)
        assert exact.gpus_touched >= -(-sum(a.gpu_pct for a in asked) // 100)


def test_the_exact_packer_finds_what_best_fit_misses() -> None:
    # Largest first leaves 30 + 20 + 10 in pieces: 60+40 and 50+30+20 fill two GPUs exactly, best fit puts 40 beside 60 too,
    # but 50+40 first would strand 10.
    where = cluster(1, 2)
    asked = [ask("a", 60, 1, 1), ask("b", 50, 1, 1), ask("c", 40, 1, 1), ask("d", 30, 1, 1), ask("e", 20, 1, 1)]
    assert pack_exactly(layout(where), asked).status == "optimal"
    three = [ask("a", 40, 1, 2), ask("b", 30, 1, 4)]  # 40 + 30 + 30 twice; best fit decreasing pairs the 40s
    assert pack(layout(where), three) is None
    exact = pack_exactly(layout(where), three)
    assert exact.placement is not None
    check(where, three, exact.placement)


def test_three_slices_of_sixty_need_three_gpus_though_they_sum_to_less() -> None:
    assert pack_exactly(layout(cluster(1, 2)), [ask("a", 60, 1, 3)]).status == "infeasible"
    assert pack_exactly(layout(cluster(1, 3)), [ask("a", 60, 1, 3)]).gpus_touched == 3


def test_a_group_stays_inside_its_domain() -> None:
    split = cluster(1, 4, ((0, 1), (2, 3)))
    assert pack(layout(split), [ask("a", 100, 4, 1)]) is None
    assert pack_exactly(layout(split), [ask("a", 100, 4, 1)]).status == "infeasible"
    placement = pack(layout(split), [ask("a", 100, 2, 2)])
    assert placement == {"a": ((split.gpus[0], split.gpus[1]), (split.gpus[2], split.gpus[3]))}


def test_a_cap_on_gpus_is_kept_or_proved_impossible() -> None:
    where = cluster(2, 2)
    asked = [ask("a", 50, 1, 4)]
    assert pack_exactly(layout(where), asked, caps={"G": 2}, minimise=False).placement is not None
    assert pack_exactly(layout(where), asked, caps={"G": 1}, minimise=False).status == "infeasible"


def test_groups_at_a_share_are_dealt_to_distinct_gpus() -> None:
    where = cluster(1, 3)
    exact = pack_exactly(layout(where), [ask("a", 50, 2, 3)])
    assert exact.status == "optimal"
    assert exact.placement is not None
    check(where, [ask("a", 50, 2, 3)], exact.placement)


def test_consecutive_instances_stand_on_different_gpus() -> None:
    where = cluster(1, 2)
    placement = pack(layout(where), [ask("a", 50, 1, 4)])
    assert placement is not None
    assert [slot[0].index for slot in placement["a"]] == [0, 1, 0, 1]


def test_what_is_kept_stays_where_it_is() -> None:
    where = cluster(1, 3)
    kept = {"a": ((where.gpus[2],),)}
    placement = pack_around(layout(where), [ask("a", 60, 1, 2), ask("b", 40, 1, 1)], kept)
    assert placement is not None
    assert (where.gpus[2],) in placement["a"]
    check(where, [ask("a", 60, 1, 2), ask("b", 40, 1, 1)], placement)
    assert pack_around(layout(where), [ask("a", 60, 1, 1), ask("b", 50, 1, 1)], {**kept, "b": ((where.gpus[2],),)}) is None


def test_memory_follows_the_share() -> None:
    free = np.array([100, 30, 100])
    placement = pack(layout(cluster(1, 3)), [ask("a", 40, 1, 1)], free)
    assert placement is not None
    assert placement["a"][0][0].index == 0
