"""Cost: what follows from a plan's GPUs, prices and rates, and what is said where one of them is not known."""

from math import fsum

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scepsy.cluster import Cluster, Node
from scepsy.cost import Price, PriceList, cost_document, cost_lines, cost_of, gpus_by_type, money, price_of, with_prices
from scepsy.errors import InputError
from scepsy.files.prices import load_prices
from scepsy.plans import Plan
from scepsy.profile import catalogue
from tests.builders import plans


def a_plan(rate_per_s: float = 2.0) -> Plan:
    plan = plans.two_nodes()
    targets = tuple(msgspec.structs.replace(t, arrivals=t.arrivals.at_rate(rate_per_s)) for t in plan.targets)
    kind = catalogue.gpu_type("A100-80G")
    types = tuple(msgspec.structs.replace(kind, name=gpu.name) for gpu in plan.cluster.gpu_types)
    return msgspec.structs.replace(plan, targets=targets, cluster=msgspec.structs.replace(plan.cluster, gpu_types=types))


def test_a_plan_pays_for_every_gpu_it_touches_whole() -> None:
    plan = a_plan()
    cost = cost_of(plan)
    assert cost.gpus == len(plan.gpu_shares)
    assert cost.usd_per_hour == pytest.approx(2.45 * cost.gpus)
    assert cost.cluster_usd_per_hour == pytest.approx(2.45 * len(plan.cluster.gpus))
    runs_per_hour = 3600 * fsum(t.arrivals.rate_per_s or 0.0 for t in plan.targets)
    assert cost.usd_per_1000_runs == pytest.approx(cost.usd_per_hour / runs_per_hour * 1000)
    assert cost.gpu_hours_per_1000_runs == pytest.approx(1000 * cost.gpus / runs_per_hour)
    assert cost.power_kw == pytest.approx(0.4 * cost.gpus)
    assert cost.energy_kwh_per_1000_runs == pytest.approx(0.4 * cost.gpus / runs_per_hour * 1000)


@given(factor=st.floats(1.01, 100))
def test_twice_the_price_twice_the_cost_and_more_runs_make_each_cheaper(factor: float) -> None:
    cost, busier = cost_of(a_plan(1.0)), cost_of(a_plan(factor))
    assert busier.usd_per_hour == cost.usd_per_hour
    assert busier.usd_per_1000_runs == pytest.approx(cost.usd_per_1000_runs / factor)
    plan = a_plan(1.0)
    dearer = with_prices(
        plan.cluster, PriceList(prices=(Price(gpu_type=plan.cluster.gpu_types[0].name, usd_per_hour=2.45 * factor),))
    )
    assert cost_of(msgspec.structs.replace(plan, cluster=dearer)).usd_per_hour == pytest.approx(cost.usd_per_hour * factor)


def test_a_price_that_is_not_known_is_said_and_never_taken_for_a_dollar() -> None:
    plan = a_plan()
    types = tuple(msgspec.structs.replace(gpu, cost_per_hour=1.0, price="", tdp_w=0.0) for gpu in plan.cluster.gpu_types)
    cost = cost_of(msgspec.structs.replace(plan, cluster=msgspec.structs.replace(plan.cluster, gpu_types=types)))
    assert cost.usd_per_hour is cost.usd_per_1000_runs is cost.cluster_usd_per_hour is cost.power_kw is None
    assert cost_document(cost)["prices"][0]["usd_per_hour"] is None
    told = "\n".join(cost_lines(cost))
    assert "not known" in told
    assert "--prices" in told
    assert "$1" not in told
    assert "kW" not in told


def test_own_prices_stand_over_the_built_in_ones_with_their_source() -> None:
    cluster = Cluster(
        name="c",
        gpu_types=(catalogue.gpu_type("A100-80G"), catalogue.gpu_type("L4")),
        nodes=(Node(name="a", gpu_type="A100-80G", gpus=1), Node(name="b", gpu_type="L4", gpus=1)),
    )
    own = PriceList(prices=(Price(gpu_type="L4", usd_per_hour=0.5, source="contract of May"),))
    priced = with_prices(cluster, own)
    assert priced.gpu_type("L4").cost_per_hour == 0.5
    assert priced.gpu_type("L4").price == "contract of May"
    assert priced.gpu_type("A100-80G") == cluster.gpu_type("A100-80G")


def test_a_price_for_an_unknown_type_is_refused_with_the_nearest() -> None:
    cluster = catalogue.cluster_of(1)
    wrong = PriceList(prices=(Price(gpu_type="A100-80", usd_per_hour=1.0),))
    with pytest.raises(InputError, match=r"gpu_type is 'A100-80': .*did you mean 'A100-80G'"):
        with_prices(cluster, wrong, catalogue.gpu_types())
    elsewhere = PriceList(prices=(Price(gpu_type="L4", usd_per_hour=1.0),))
    assert with_prices(cluster, elsewhere, catalogue.gpu_types()) == cluster


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prices: []", "prices is []: must be at least one price"),
        ("prices: [{gpu_type: L4, usd_per_hour: 0}]", "usd_per_hour is 0"),
        ("prices: [{gpu_type: L4, usd_per_hour: 1}, {gpu_type: L4, usd_per_hour: 2}]", "one price for each GPU type"),
        ("prices: [{gpu_type: L4, usd: 1}]", "usd is not a known field"),
    ],
)
def test_a_price_file_by_hand(tmp_path, text: str, told: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(f"format: scepsy.prices\nversion: 1\n{text}\n")
    with pytest.raises(InputError) as caught:
        load_prices(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


def test_every_gpu_type_has_a_price_and_a_published_power_each_with_a_source() -> None:
    for gpu in catalogue.gpu_types().values():
        assert price_of(gpu), gpu.name
        assert gpu.price, gpu.name
        assert 50 <= gpu.tdp_w <= 1500, gpu.name
        assert gpu.tdp_source, gpu.name


def test_gpus_by_type_are_those_touched() -> None:
    plan = a_plan()
    assert sum(gpus_by_type(plan).values()) == len(plan.gpu_shares)
    assert money(None) == "not known"
