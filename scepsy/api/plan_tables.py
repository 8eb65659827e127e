"""The tables of a plan's page, each from values that the page has at hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scepsy.api.prepare import Load
from scepsy.cost import Cost, money
from scepsy.plans import Plan
from scepsy.profile.model import ProfileSet, kv_capacity_tokens
from scepsy.records import COMPLETED, Records
from scepsy.report.page import Table, with_width

SKIPPED_PART = 0.25
"""Of the runs, first in order of arrival, left out of what is said of calls: the system fills."""


def expected_table(plan: Plan, loads: Sequence[Load], documents: Sequence[Mapping[str, Any]], at_target: pd.DataFrame) -> Table:
    """Per workflow: what is predicted and what was simulated at the target rate."""
    simulated = {row["workflow"]: row for row in at_target[at_target["source"] == "simulated"].to_dict(orient="records")}
    rows = []
    for d, load in zip(documents, loads, strict=True):
        row = simulated[d["workflow"]]
        width = (row["latency_mean_high_s"] - row["latency_mean_low_s"]) / 2
        rows.append(
            [
                d["workflow"],
                load.arrivals.rate_per_s,
                d["latency_s"]["mean"],
                with_width(row["latency_mean_s"], width if np.isfinite(width) else None),
                row["latency_p95_s"],
                row["latency_p99_s"],
                f"{int(row['completed']):,} of {int(row['issued']):,}",
                d["throughput_per_s"],
                row["verdict"],
            ]
        )
    return Table(
        caption="At the target rates",
        columns=[
            "workflow",
            "runs/s",
            "predicted mean s",
            "simulated mean s",
            "p95 s",
            "p99 s",
            "runs completed",
            "highest runs/s, predicted",
            "keeps up",
        ],
        rows=rows,
        note=f"±: half-width of the 95 % interval. Predicted by {plan.predictor}. keeps up: stable when the work in the system "
        "does not grow; undecided when the runs were too few to tell.",
    )


def calls_table(records: Records) -> Table:
    """Per workflow and LLM: time to first token, time per output token and waiting, of the simulated calls."""
    runs = records.runs.to_pandas().sort_values("arrival_s", kind="stable")
    late = set(runs["run"].iloc[int(SKIPPED_PART * len(runs)) :])
    calls = records.calls.to_pandas()
    calls = calls[(calls["status"] == COMPLETED) & calls["run"].isin(late)]
    first = calls["first_token_s"] - calls["issued_s"]
    rest = (calls["end_s"] - calls["first_token_s"]) / (calls["output_tokens"] - 1).where(calls["output_tokens"] > 1)
    calls = calls.assign(ttft_ms=1e3 * first, tpot_ms=1e3 * rest, wait_ms=1e3 * (calls["scheduled_s"] - calls["issued_s"]))
    rows = []
    order = list(dict.fromkeys(calls["workflow"]))
    for (workflow, llm), mine in sorted(
        calls.groupby(["workflow", "llm"], sort=False), key=lambda group: order.index(group[0][0])
    ):
        cached = float(mine["cached_tokens"].sum()) / max(1.0, float(mine["input_tokens"].sum()))
        rows.append(
            [
                workflow,
                llm,
                len(mine),
                float(mine["ttft_ms"].mean()),
                float(mine["ttft_ms"].quantile(0.95)),
                float(mine["tpot_ms"].mean()) if mine["tpot_ms"].notna().any() else None,
                float(mine["wait_ms"].mean()),
                100 * cached,
                int(mine["preemptions"].sum()),
            ]
        )
    columns = [
        "workflow",
        "LLM",
        "calls",
        "TTFT mean ms",
        "TTFT p95 ms",
        "TPOT mean ms",
        "waiting ms",
        "cached %",
        "preempted",
    ]
    return Table(
        caption="Calls at the target rates, simulated",
        columns=columns,
        rows=rows,
        note="TTFT: from issuing a call to its first token; of embedders and rerankers, to the result. TPOT: time per output "
        "token after the first. The first quarter of the runs is left out.",
    )


def models_table(plan: Plan) -> Table:
    """Per LLM: every name that the traffic asks for, and what engines load for it."""
    return Table(
        caption="Models",
        columns=["asked for as", "served by", "weights", "engines load"],
        rows=[[", ".join(m.names), m.model, m.quantisation, m.hub_id or "not known"] for m in plan.models],
        note="Several names in one row are served by the same instances." if plan.other_names else "",
    )


def memory_table(plan: Plan, profiles: ProfileSet, longest: Mapping[str, int]) -> Table:
    """Per LLM: GPU memory, weights and KV cache of one instance, and how many of the longest calls it holds."""
    rows = []
    for a in plan.allocations:
        profile = profiles.of(a.llm, a.gpu_type, a.tensor_parallel)
        memory = next(i.memory_bytes for i in plan.instances if i.llm == a.llm)
        tokens = kv_capacity_tokens(profile, a.share_pct) if profile.llm.kv_bytes_per_token else None
        need = longest.get(a.llm, 0)
        rows.append(
            [
                a.llm,
                memory / 1e9,
                profile.llm.weight_bytes / a.tensor_parallel / 1e9,
                tokens,
                need or None,
                tokens // need if tokens and need else None,
            ]
        )
    return Table(
        caption="Memory of one instance",
        columns=["LLM", "GB of each GPU", "weights GB", "KV cache, tokens", "longest call, tokens", "longest calls it holds"],
        rows=rows,
        note="Weights and memory are those on each GPU of a group. A dash: no KV cache (embedders and rerankers).",
    )


def cost_table(cost: Cost) -> Table:
    """What the plan costs at its target rates."""
    rows: list[list[object]] = [
        ["GPUs touched", f"{cost.gpus} of {cost.cluster_gpus}"],
        ["per hour", money(cost.usd_per_hour)],
        ["per hour, all GPUs of the cluster", money(cost.cluster_usd_per_hour)],
        ["per 1,000 runs", money(cost.usd_per_1000_runs)],
        ["GPU-hours per 1,000 runs", cost.gpu_hours_per_1000_runs],
        ["power, estimate, kW", cost.power_kw],
        ["energy per 1,000 runs, estimate, kWh", cost.energy_kwh_per_1000_runs],
    ]
    told = "; ".join(
        f"{kind.gpu_type} at {money(kind.usd_per_hour)} per hour ({kind.source or 'source not given'})" for kind in cost.types
    )
    note = f"{told}. Energy: an estimate, at most the published TDP of the GPUs touched; hosts and cooling are not in it."
    return Table(caption="Cost at the target rates", columns=["", "value"], rows=rows, note=note)
