"""Public claims as data, and what this evaluation finds at the same cut.

A claim is *reproduced* when our interval at its cut reaches what it says, and *not reproduced* when it does not. It is
*undecided* when the interval holds what it says and is too wide to mean anything. It is *not comparable* where its source
does not say at which cut, or where nothing of ours is known at that cut. Known is a ratio of means where both systems are
stable, and a ratio of highest rates where both brackets have two ends. Such a number need not be as precise as was asked for:
its interval says how precise it is. The GPU type, the models, the arrivals and the fraction unit behind all claims are not
public, so even a reproduced claim is one at our assumptions.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from experiments.findings.compare import OWN_GROUPS, largest, records

ABSTRACT = "abstract of arXiv 2604.15186"
NOTE = "one public survey note; other notes contradict it"
REPRODUCED, NOT_REPRODUCED, NOT_COMPARABLE, UNDECIDED = "reproduced", "not reproduced", "not comparable", "undecided"
RAG, BEAM = "rag-rerank", "beam-search"
WIDE = 1.5
"""An interval whose ends are further apart than this ratio decides nothing about a claim that it holds."""
MARGIN = 0.1
"""A claim that is no upper bound is reproduced when our interval comes within 10 % of it."""


@dataclass(frozen=True)
class Ours:
    """What we find at a claim's cut."""

    value: float
    low: float
    high: float
    at: str
    """Where: workload, cluster, system, load."""
    why_not: str = ""
    """Why it cannot be compared; empty when it can."""


@dataclass(frozen=True)
class Claim:
    """One public claim."""

    name: str
    text: str
    source: str
    claimed: float
    unit: str
    cut: Callable[[Mapping[str, pd.DataFrame]], Ours]
    up_to: bool = False
    """Whether it is said to be the most that was seen."""


Tables = Mapping[str, pd.DataFrame]


def nothing(why: str) -> Ours:
    """No number at this cut."""
    return Ours(math.nan, math.nan, math.nan, "", why)


def base(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows at the default assumptions: A100, Poisson, traces and models as they are."""
    same = (frame["gpu_type"] == "A100-80G") & (frame["arrivals"] == "poisson") & (frame["models"] == "")
    return frame[same & (frame["planned_on"] == "") & (frame["measured_on"] == "") & (frame["gpus_per_node"] == 8)]


def known_borders(maxima: pd.DataFrame) -> pd.DataFrame:
    """Rows whose highest rate has a bracket with two ends, as Scepsy's has at the same question."""
    return maxima[maxima["ratio_low"].map(math.isfinite) & maxima["ratio_high"].map(math.isfinite)]


def known_ratios(compared: pd.DataFrame) -> pd.DataFrame:
    """Rows at which both systems are stable, and the ratio of their means has an interval."""
    return compared[compared["stable"].astype(bool) & compared["low"].notna() & compared["high"].notna()]


def most_throughput(tables: Tables) -> Ours:
    """The largest ratio of highest stable rates over any other system on any workload, where both borders are known."""
    found = known_borders(base(tables["maxima"]))
    found = found[~found["group"].isin(OWN_GROUPS)]
    if found.empty:
        return nothing("no system's highest rate is known from both sides")
    row = largest(found, "ratio")
    return Ours(row["ratio"], row["ratio_low"], row["ratio_high"], f"{row['workload']}, {row['gpus']} GPUs, {row['title']}")


def most_latency(tables: Tables) -> Ours:
    """The largest ratio of mean latencies at a rate at which both are stable."""
    found = known_ratios(base(tables["comparisons"]))
    found = found[~found["group"].isin(OWN_GROUPS)]
    if found.empty:
        return nothing("no rate at which both are stable")
    row = largest(found, "ratio")
    where = f"{row['workload']} ({row['workflow']}), {row['gpus']} GPUs, {row['title']}, load {row['load']:g}, both stable"
    return Ours(row["ratio"], row["low"], row["high"], where)


def throughput_over(system: str, workload: str, gpus: int) -> Callable[[Tables], Ours]:
    """Scepsy's highest stable rate over a system's."""

    def cut(tables: Tables) -> Ours:
        found = base(tables["maxima"])
        found = found[(found["system"] == system) & (found["workload"] == workload) & (found["gpus"] == gpus)]
        if found.empty:
            return nothing(f"not measured: {workload} on {gpus} GPUs with {system}")
        row = records(found)[0]
        if not math.isfinite(row["ratio"]):
            return nothing(f"{row['title']} is stable at no load that was tried: {row['why'] or 'no ratio'}")
        if known_borders(found).empty:
            return nothing(f"a highest rate is known from one side only: {row['why'] or 'that of Scepsy'}")
        return Ours(
            row["ratio"],
            row["ratio_low"],
            row["ratio_high"],
            "highest stable rates",
        )

    return cut


def latency_over(system: str, workload: str, gpus: int) -> Callable[[Tables], Ours]:
    """The largest ratio of mean latencies at a rate at which both are stable: the cut that favours the claim."""

    def cut(tables: Tables) -> Ours:
        found = base(tables["comparisons"])
        found = found[(found["system"] == system) & (found["workload"] == workload) & (found["gpus"] == gpus)]
        both = known_ratios(found)
        if both.empty:
            return nothing("no rate at which both are stable; the source does not say at which rate it compares")
        row = largest(both, "ratio")
        return Ours(
            row["ratio"], row["low"], row["high"], f"load {row['load']:g}, the largest ratio of those at which both are stable"
        )

    return cut


def at_low_rates(system: str, workload: str) -> Callable[[Tables], Ours]:
    """The latency ratio at the lowest common rate, on the cluster where it is least."""

    def cut(tables: Tables) -> Ours:
        found = base(tables["comparisons"])
        found = known_ratios(found[(found["system"] == system) & (found["workload"] == workload)])
        if found.empty:
            return nothing("not measured, or not both stable")
        lowest = found[found["load"] == found.groupby("gpus")["load"].transform("min")]
        row = records(lowest.sort_values("ratio", kind="stable"))[0]
        return Ours(row["ratio"], row["low"], row["high"], f"{row['gpus']} GPUs, load {row['load']:g}")

    return cut


def unsaid(tables: Tables) -> Ours:
    """The source gives numbers without the cut that they were taken at."""
    return nothing("the note does not say which workload and statistic each number is of")


def share_stability(tables: Tables) -> Ours:
    """How many times as steady an LLM's share is as its seconds: ratio of coefficients of variation, the largest."""
    if "shares" not in tables:
        return nothing("table shares is missing")
    found = tables["shares"]
    found = found[found["kind"] == "summary"].assign(times=lambda f: f["seconds_cv"] / f["share_cv"])
    found = found[found["times"].map(math.isfinite)]
    row = largest(found, "times")
    return Ours(
        row["times"], math.nan, math.nan, f"{row['workflow']}, {row['source']} times; median {found['times'].median():.2g}"
    )


def search_time(tables: Tables) -> Ours:
    """Seconds of the paper's search at five LLMs on 16 GPUs."""
    if "search" not in tables:
        return nothing("table search is missing")
    found = tables["search"]
    found = found[(found["method"] == "hierarchical") & (found["llms"] == 5) & (found["gpus"] == 16)]
    if found.empty:
        return nothing("not measured at 5 LLMs on 16 GPUs")
    seconds = found["search_s"]
    return Ours(
        float(seconds.median()),
        float(seconds.min()),
        float(seconds.max()),
        "CPU seconds of the hierarchical search, 16 GPUs; ends: least and most",
    )


def without(system: str) -> Callable[[Tables], Ours]:
    """How much lower the highest stable rate is without one of Scepsy's means, percent, the largest over workloads."""

    def cut(tables: Tables) -> Ours:
        found = known_borders(tables["maxima"])
        found = found[found["system"] == system]
        if found.empty:
            return nothing(f"not measured, or a highest rate is known from one side only: {system}")
        row = largest(found, "ratio")
        low, value, high = (100 * (1 - 1 / row[name]) for name in ("ratio_low", "ratio", "ratio_high"))
        return Ours(
            value, low, high, f"{row['workload']}, {row['gpus']} GPUs ({row['gpus_per_node']} in a node), highest stable rate"
        )

    return cut


CLAIMS = (
    Claim("throughput", "up to 2.4x higher throughput", ABSTRACT, 2.4, "x", most_throughput, up_to=True),
    Claim("latency", "up to 27x lower latency", ABSTRACT, 27.0, "x", most_latency, up_to=True),
    *(
        Claim(
            f"aegaeon-{kind}-{workload}-{gpus}", f"against Aegaeon, {kind}, {workload}, {gpus} GPUs", NOTE, value, "x",
            cut("aegaeon", workload, gpus),
        )
        for workload, kind, cut, values in (
            (BEAM, "throughput", throughput_over, (7.3, 6.8)),
            (BEAM, "mean latency", latency_over, (14.1, 12.9)),
            (RAG, "throughput", throughput_over, (2.5, 2.9)),
            (RAG, "mean latency", latency_over, (3.4, 4.5)),
        )
        for gpus, value in zip((4, 8), values, strict=True)
    ),
    Claim("ayo-1", "against Ayo 3.2x/8.2x", NOTE, 3.2, "x", unsaid),
    Claim("ayo-2", "against Ayo 2.1x/2.4x", NOTE, 2.1, "x", unsaid),
    Claim(
        "ayo-low-rates", "Ayo slightly ahead at low rates (RAG): latency ratio a little below 1", NOTE, 1.0, "x",
        at_low_rates("ayo", RAG),
    ),
    Claim("shares", "LLM shares up to 4x more stable than absolute time", NOTE, 4.0, "x", share_stability, up_to=True),
    Claim("search", "search in tens of seconds at 5 LLMs", NOTE, 10.0, "s", search_time),
    Claim("co-location", "co-location accounts for 30-50 %", NOTE, 30.0, "%", without("no-fractions"), up_to=True),
    Claim("parallelism", "parallelism accounts for 30-50 %", NOTE, 30.0, "%", without("no-tp"), up_to=True),
)  # fmt: skip


def verdict(claim: Claim, ours: Ours) -> tuple[str, str]:
    """The verdict, and its reason in words."""
    if ours.why_not:
        return NOT_COMPARABLE, ours.why_not
    low, high = (end if math.isfinite(end) else ours.value for end in (ours.low, ours.high))
    if claim.name == "ayo-low-rates":
        ahead = low < 1
        return (REPRODUCED, "our interval reaches below 1") if ahead else (NOT_REPRODUCED, "Scepsy is faster there")
    if claim.name == "search":
        return (
            (REPRODUCED, "")
            if 10 <= ours.value < 100
            else (NOT_REPRODUCED, "another order of magnitude: ours is compiled to arrays")
        )
    if low < claim.claimed * (1 - MARGIN) <= high and high > WIDE * low:
        return UNDECIDED, f"our interval holds it and is wide: {low:.3g} to {high:.3g} {claim.unit}"
    if high >= claim.claimed * (1 - (0 if claim.up_to else MARGIN)):
        over = low > claim.claimed * (1 + MARGIN)
        return REPRODUCED, "ours is more than claimed" if over else "our interval reaches it"
    return NOT_REPRODUCED, f"the most that we find is {ours.value:.3g} {claim.unit}"


TRIALS = ("smoke", "quick")
"""Scales that show that the machinery works. No claim is judged by them."""


def claims(tables: Tables, scale: str = "full") -> pd.DataFrame:
    """One row per claim: claimed, ours with its interval, where, verdict and reason. ``tables``: comparisons and maxima, and
    where they exist shares and search.
    """
    rows = []
    for claim in CLAIMS:
        ours = claim.cut(tables) if scale not in TRIALS else nothing(f"{scale} scale: claims are judged at the full scale only")
        said, why = verdict(claim, ours)
        rows.append(
            {
                "claim": claim.name,
                "text": claim.text,
                "source": claim.source,
                "claimed": claim.claimed,
                "unit": claim.unit,
                "ours": ours.value,
                "low": ours.low,
                "high": ours.high,
                "at": ours.at,
                "verdict": said,
                "why": why,
            }
        )
    return pd.DataFrame(rows)
