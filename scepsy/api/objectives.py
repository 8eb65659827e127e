"""Service level objectives against a simulation: one check per objective, goodput, and the report that pipelines read."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from scepsy.api.settle import Settled, check_row
from scepsy.files.atomic import write_bytes
from scepsy.records import COMPLETED
from scepsy.slo import Slo
from scepsy.steady.interval import Interval, mean_interval, quantile_interval
from scepsy.steady.verdict import UNDECIDED, Measured

Check = dict[str, Any]
"""``workflow`` (or ``llm``), ``name, limit, value, half_width, ok, why``: as ``scepsy validate --json`` prints it. ``known``:
False where it does not hold because the simulation cannot tell."""

QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def checks_against(slo: Slo, found: Settled, rates_per_s: Mapping[str, float | None]) -> list[Check]:
    """One check per objective of the SLO, of every workflow and then of every LLM that was called.

    ``rates_per_s``: the rates that were asked for, by workflow: what keeps up completes as many in the long run.
    A limit is kept when the whole 95 % interval is within it. Of LLMs the calls issued after the longest warm-up count.
    """
    checks = [check for name, one in found.by_workflow.items() for check in _of_workflow(slo, name, one, rates_per_s.get(name))]
    for llm, times in _call_times(found).items():
        wanted = slo.llm(llm)
        for measure, limits in (("ttft_s", wanted.ttft_s), ("tpot_s", wanted.tpot_s)):
            for statistic, limit in limits.given.items():
                checks.append(_limit(llm, f"{measure} {statistic}", limit, _interval(times[measure], statistic), llm=llm))
    return checks


def _of_workflow(slo: Slo, name: str, one: Measured, rate_per_s: float | None) -> Iterator[Check]:
    wanted = slo.workflow(name)
    yield _check(
        name,
        "keeps_up",
        one.offered_per_s,
        one.throughput_per_s,
        0.0,
        one.latency.stable,
        one.latency.why,
        known=one.verdict != UNDECIDED,
    )
    least = one.issued * (1 - wanted.error_budget_pct / 100)
    what = "completed_runs" if not wanted.error_budget_pct else f"completed_runs (error budget {wanted.error_budget_pct:g} %)"
    yield _check(name, what, least, one.completed, 0.0, one.completed >= least, "")
    for statistic, limit in wanted.latency_s.given.items():
        if statistic == "mean":
            value = Interval(one.latency.value, one.latency.half_width)
        else:
            value = one.quantile(100 * QUANTILES[statistic])
        yield _limit(name, f"latency_s {statistic}", limit, value)
    if wanted.min_throughput_per_s is not None:
        # What keeps up completes what arrives in the long run; arrivals and completions of one window scatter about that.
        done = (rate_per_s or one.offered_per_s) if one.latency.stable else one.throughput_per_s
        enough = done >= wanted.min_throughput_per_s
        known = enough or one.verdict != UNDECIDED
        yield _check(name, "min_throughput_per_s", wanted.min_throughput_per_s, done, 0.0, enough, "", known=known)


def _limit(name: str, what: str, limit: float, value: Interval, llm: str = "") -> Check:
    kept = value.high <= limit
    why = ""
    if not kept and not value.low > limit:
        why = f"{what}: the interval reaches beyond the limit {limit:g}"
    return _check("" if llm else name, what, limit, value.value, value.half_width, kept, why, llm, known=kept or not why)


def _check(
    workflow: str,
    name: str,
    limit: float,
    value: float,
    half_width: float,
    ok: bool,
    why: str,
    llm: str = "",
    *,
    known: bool = True,
) -> Check:
    check = check_row(workflow, name, limit, value, half_width, ok, why) | {"known": known}
    return check | ({"llm": llm} if llm else {})


def _interval(values: npt.NDArray[np.float64], statistic: str) -> Interval:
    return mean_interval(values) if statistic == "mean" else quantile_interval(values, QUANTILES[statistic])


def _call_times(found: Settled) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """Seconds to the first token and per further token of every LLM's completed calls in the window, in order of issue."""
    begin_s = max((one.begin_s for one in found.by_workflow.values()), default=0.0)
    table = found.records.calls.to_pandas()
    table = table[(table["status"] == COMPLETED) & (table["issued_s"] >= begin_s)].sort_values("issued_s", kind="stable")
    times = {}
    for llm, calls in table.groupby("llm", sort=True):
        longer = calls[calls["output_tokens"] > 1]
        times[str(llm)] = {
            "ttft_s": (calls["first_token_s"] - calls["issued_s"]).to_numpy(float),
            "tpot_s": ((longer["end_s"] - longer["first_token_s"]) / (longer["output_tokens"] - 1)).to_numpy(float),
        }
    return times


def goodput(slo: Slo, found: Settled) -> list[dict[str, Any]]:
    """Runs per second that complete within the objective, by workflow: ``workflow, within, within_s, good_pct, goodput_per_s``.

    A run is good when it completes within the limit of the highest percentile given (``Limits.of_one``). Where no latency
    limit is given, it is good when it completes. Counted are the runs that arrived in the window.
    """
    runs = found.records.runs.to_pandas()
    rows = []
    for name, one in found.by_workflow.items():
        held = slo.workflow(name).latency_s.of_one
        mine = runs[(runs["workflow"] == name) & (runs["arrival_s"] >= one.begin_s) & (runs["arrival_s"] <= one.stop_s)]
        good = mine["status"] == COMPLETED
        if held is not None:
            good &= (mine["end_s"] - mine["arrival_s"]) <= held[1]
        part = float(good.mean()) if len(mine) else float("nan")
        rows.append(
            {
                "workflow": name,
                "within": held[0] if held else None,
                "within_s": held[1] if held else None,
                "good_pct": 100 * part if np.isfinite(part) else None,
                "goodput_per_s": part * one.offered_per_s if np.isfinite(part * one.offered_per_s) else None,
            }
        )
    return rows


def kept(checks: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether all checks hold; None where one does not and none is shown to fail."""
    if all(check["ok"] for check in checks):
        return True
    return False if any(check["known"] for check in checks if not check["ok"]) else None


def told(checks: Sequence[Mapping[str, Any]]) -> str:
    """The verdict in one sentence."""
    missed = [check for check in checks if not check["ok"]]
    if not missed:
        return f"The SLO is kept: all {len(checks)} checks hold."
    parts = []
    for check in missed:
        value = "not known" if check["value"] is None else f"{check['value']:.4g}"
        open_ = "" if check["known"] else ", too few runs to tell"
        parts.append(f"{check.get('llm') or check['workflow']} {check['name']} is {value}, limit {check['limit']:.4g}{open_}")
    if kept(checks) is None:
        return f"Whether the SLO is kept is not shown, {len(missed)} of {len(checks)} checks are open: {'; '.join(parts)}."
    return f"The SLO is not kept, {len(missed)} of {len(checks)} checks fail: {'; '.join(parts)}."


def write_junit(path: Path, name: str, checks: Sequence[Mapping[str, Any]], seconds: float) -> None:
    """Write checks as JUnit XML: one test case each, by workflow (or LLM) and objective; atomically."""
    failures = [check for check in checks if not check["ok"]]
    counts = {
        "tests": str(len(checks)),
        "failures": str(len(failures)),
        "errors": "0",
        "skipped": "0",
        "time": f"{seconds:.3f}",
    }
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": f"scepsy validate {name}", **counts})
    for check in checks:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            {"classname": check.get("llm") or check["workflow"], "name": f"{check['name']} {check['limit']:g}", "time": "0"},
        )
        if not check["ok"]:
            value = "not known" if check["value"] is None else f"{check['value']:.6g}"
            width = "" if check["half_width"] is None else f" ± {check['half_width']:.2g}"
            failure = ElementTree.SubElement(
                case, "failure", {"type": "objective", "message": f"simulated {value}{width}, limit {check['limit']:g}"}
            )
            failure.text = check["why"]
    ElementTree.indent(suites)
    write_bytes(path, ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True) + b"\n")
