"""What a plan costs: money, GPU-hours, and energy as an estimate. All of it follows from the plan: GPUs touched, prices, rates.

A GPU that any instance touches is paid for whole. Prices and thermal design powers are those of the plan's cluster, whose
GPU types carry their sources (``scepsy/data/gpus.yaml``, or a price file over them).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from math import fsum
from typing import Any

import msgspec

from scepsy.cluster import Cluster, GpuType
from scepsy.errors import InputError
from scepsy.plans import Plan
from scepsy.value import Value, require, require_finite

HOUR_S = 3600.0
ENERGY_RULE = "published TDP of the GPUs touched, drawn all the time; hosts, switches and cooling are not in it"


class Price(Value, frozen=True, kw_only=True):
    """What one hour of one GPU of a type costs."""

    gpu_type: str
    usd_per_hour: float
    source: str = ""
    """Whose price it is, and of when."""

    def __post_init__(self) -> None:
        require(bool(self.gpu_type), "gpu_type", self.gpu_type, "a non-empty string")
        require_finite("usd_per_hour", self.usd_per_hour, exclusive=True)


class PriceList(Value, frozen=True, kw_only=True):
    """One's own prices, used in place of the built-in ones."""

    prices: tuple[Price, ...]

    def __post_init__(self) -> None:
        require(bool(self.prices), "prices", list(self.prices), "at least one price")
        names = [price.gpu_type for price in self.prices]
        require(len(set(names)) == len(names), "prices", names, "one price for each GPU type")


@dataclass(frozen=True)
class PricedType:
    """GPUs of one type that a plan touches."""

    gpu_type: str
    gpus: int
    usd_per_hour: float | None
    """For one GPU; None: not known."""
    source: str
    tdp_w: float | None
    """Of one GPU; None: not known."""


@dataclass(frozen=True)
class Cost:
    """What a plan costs at its target rates, all workflows together. None where a price, a TDP or a rate is not known."""

    gpus: int
    """GPUs that some instance touches."""
    usd_per_hour: float | None
    """Of these GPUs."""
    cluster_gpus: int
    cluster_usd_per_hour: float | None
    """Of every GPU of the cluster, used or not."""
    runs_per_s: float | None
    """All target rates together."""
    usd_per_1000_runs: float | None
    gpu_hours_per_1000_runs: float | None
    power_kw: float | None
    """Estimate, see ``ENERGY_RULE``."""
    energy_kwh_per_1000_runs: float | None
    """Estimate, see ``ENERGY_RULE``."""
    types: tuple[PricedType, ...]


def price_of(gpu: GpuType) -> float | None:
    """Dollars per hour of one GPU; None for a type that came without a price (1.0 is the field's default)."""
    return gpu.cost_per_hour if gpu.price or gpu.cost_per_hour != 1.0 else None


def with_prices(cluster: Cluster, prices: PriceList, known: Iterable[str] = ()) -> Cluster:
    """The cluster with these prices in place of its own; types that the list lacks keep theirs.

    ``known``: GPU types that a list may name though this cluster has none of them. Raises ``InputError`` for any other name.
    """
    mine = {price.gpu_type: price for price in prices.prices}
    allowed = {*known, *(gpu.name for gpu in cluster.gpu_types)}
    for name in mine:
        if name not in allowed:
            near = get_close_matches(name, sorted(allowed), n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputError(f"--prices: gpu_type is {name!r}: must be one of {', '.join(sorted(allowed))}{hint}")
    types = tuple(
        msgspec.structs.replace(gpu, cost_per_hour=own.usd_per_hour, price=own.source or "own price file")
        if (own := mine.get(gpu.name)) is not None
        else gpu
        for gpu in cluster.gpu_types
    )
    return msgspec.structs.replace(cluster, gpu_types=types)


def usd_per_hour(cluster: Cluster, gpus: dict[str, int]) -> float | None:
    """What so many GPUs by type cost in an hour; None when a price is not known."""
    prices = {name: price_of(cluster.gpu_type(name)) for name, count in gpus.items() if count}
    if None in prices.values():
        return None
    return fsum(gpus[name] * float(price or 0.0) for name, price in prices.items())


def gpus_by_type(plan: Plan) -> dict[str, int]:
    """How many GPUs of each type some instance of the plan touches."""
    found: dict[str, int] = {}
    for gpu in plan.gpu_shares:
        name = plan.cluster.type_of(gpu).name
        found[name] = found.get(name, 0) + 1
    return found


def cost_of(plan: Plan) -> Cost:
    """What the plan costs at its target rates."""
    cluster = plan.cluster
    counts = gpus_by_type(plan)
    everything: dict[str, int] = {}
    for node in cluster.nodes:
        everything[node.gpu_type] = everything.get(node.gpu_type, 0) + node.gpus
    types = tuple(
        PricedType(
            gpu_type=name,
            gpus=count,
            usd_per_hour=price_of(kind := cluster.gpu_type(name)),
            source=kind.price,
            tdp_w=kind.tdp_w or None,
        )
        for name, count in sorted(counts.items())
    )
    rates = [target.arrivals.rate_per_s for target in plan.targets]
    runs_per_s = fsum(rate for rate in rates if rate is not None) if rates and None not in rates else None
    hours = 1000.0 / (runs_per_s * HOUR_S) if runs_per_s else None
    dollars = usd_per_hour(cluster, counts)
    watts = [kind.tdp_w and kind.tdp_w * kind.gpus for kind in types]
    power_kw = None if None in watts else fsum(w or 0.0 for w in watts) / 1000.0
    gpus = sum(counts.values())
    return Cost(
        gpus=gpus,
        usd_per_hour=dollars,
        cluster_gpus=len(cluster.gpus),
        cluster_usd_per_hour=usd_per_hour(cluster, everything),
        runs_per_s=runs_per_s,
        usd_per_1000_runs=None if dollars is None or hours is None else dollars * hours,
        gpu_hours_per_1000_runs=None if hours is None else gpus * hours,
        power_kw=power_kw,
        energy_kwh_per_1000_runs=None if power_kw is None or hours is None else power_kw * hours,
        types=types,
    )


def money(value: float | None) -> str:
    """Dollars with the digits they deserve.

    >>> money(9.8), money(1234.5), money(0.034028), money(None)
    ('$9.80', '$1,234', '$0.034', 'not known')
    """
    if value is None:
        return "not known"
    if value >= 1000:
        return f"${value:,.0f}"
    return f"${value:.2f}" if value >= 1 else f"${value:.3g}"


def cost_lines(cost: Cost) -> list[str]:
    """The cost in words: money, GPU-hours, energy as an estimate, and the prices with their sources."""
    whole = ""
    if cost.gpus < cost.cluster_gpus:
        whole = f" (all {cost.cluster_gpus} of the cluster: {money(cost.cluster_usd_per_hour)})"
    lines = [f"{money(cost.usd_per_hour)} per hour for the {cost.gpus} GPU{'s' if cost.gpus > 1 else ''} it touches{whole}"]
    if cost.runs_per_s is not None:
        lines.append(
            f"{money(cost.usd_per_1000_runs)} and {cost.gpu_hours_per_1000_runs:.3g} GPU-hours per 1,000 runs at "
            f"{cost.runs_per_s:.4g} runs/s"
        )
    if cost.power_kw is not None:
        per_runs = ""
        if cost.energy_kwh_per_1000_runs is not None:
            per_runs = f", {cost.energy_kwh_per_1000_runs:.2g} kWh per 1,000 runs"
        lines.append(f"energy, estimated: at most {cost.power_kw:.2g} kW{per_runs} ({ENERGY_RULE})")
    for kind in cost.types:
        if kind.usd_per_hour is None:
            lines.append(f"price of {kind.gpu_type}: not known (give --prices FILE)")
        else:
            lines.append(f"price of {kind.gpu_type}: ${kind.usd_per_hour:g} per GPU-hour, {kind.source or 'source not given'}")
    return lines


def cost_document(cost: Cost) -> dict[str, Any]:
    """The cost as ``--json`` prints it; numbers that are not known are null."""
    return {
        "gpus": cost.gpus,
        "usd_per_hour": cost.usd_per_hour,
        "cluster_gpus": cost.cluster_gpus,
        "cluster_usd_per_hour": cost.cluster_usd_per_hour,
        "usd_per_1000_runs": cost.usd_per_1000_runs,
        "gpu_hours_per_1000_runs": cost.gpu_hours_per_1000_runs,
        "power_kw": cost.power_kw,
        "energy_kwh_per_1000_runs": cost.energy_kwh_per_1000_runs,
        "energy_is_estimated_from": ENERGY_RULE,
        "prices": [
            {
                "gpu_type": kind.gpu_type,
                "gpus": kind.gpus,
                "usd_per_hour": kind.usd_per_hour,
                "source": kind.source,
                "tdp_w": kind.tdp_w,
            }
            for kind in cost.types
        ],
    }
