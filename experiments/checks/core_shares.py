"""What a share of a CPU core costs: the quota of one running engine, switched between whole and parts in turn.

``python -m experiments.checks.core_shares -o core-shares.csv`` starts each model of
``experiments.checks.end_to_end`` alone on core 0 and sends it lone calls. Quotas follow one another within seconds, and
rounds are repeated. The machine's speed changes from minute to minute, and so the change falls on all quotas alike. Two
sweeps of engines that were planned differently would be minutes apart. ``CORE_LAW`` in
``scepsy.api.engine_profiles`` comes from it.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from executor.local.deployment import apply, delete
from executor.local.options import LocalOptions
from executor.local.shares import CoreShares
from executor.local_backend import machine
from executor.profiler.instance import single
from executor.profiler.sweep import as_workload
from executor.random_models import RandomModel, llm_of, write_model
from executor.replay import replay
from experiments.checks.end_to_end import MODELS
from experiments.code_version import stamped
from scepsy.api.engine_profiles import CPU_ENGINE, core_type
from scepsy.files.atomic import write_bytes
from scepsy.workload import Call

WHOLE = 100

CALLS = {"generate": (112, 15, 20), "rerank": (1350, 0, 25)}
"""Input and output tokens of a call, and calls in a row, by kind: those of the RAG program."""


def measure(model: RandomModel, folder: Path, shares: Sequence[int], rounds: int) -> list[dict[str, float | int | str]]:
    """Median latency of lone calls at every share and round. Raises what ``apply`` and ``replay`` raise."""
    llm = llm_of(model)
    plan, profiles = single(llm, core_type(), 1, min(shares), CPU_ENGINE)
    options = LocalOptions(device="cpu", models={llm.name: str(write_model(model, folder / "models"))})
    inputs, outputs, count = CALLS[llm.kind]
    call = Call(id="c", llm=llm.name, input_tokens=inputs, output_tokens=outputs, kind=llm.kind)
    found: list[dict[str, float | int | str]] = []
    try:
        state = apply(plan, profiles, options, folder / llm.name)
        engine, quotas = state.children[0], CoreShares(state.deployment)

        def latency_s(seed: int) -> float:
            records = asyncio.run(replay(engine.url, as_workload([call], None, count, seed), {llm.name: llm.context_limit}))
            table = records.calls.to_pandas()
            return float((table["end_s"] - table["issued_s"]).median())

        latency_s(0)  # the first calls of an engine pay for its lazy set-up
        for number in range(1, rounds + 1):
            for share in (WHOLE, *shares):
                quotas.make(engine.name, share, 1)
                found.append(
                    {"llm": llm.name, "kind": llm.kind, "round": number, "share_pct": share, "latency_s": latency_s(number)}
                )
    finally:
        delete(folder / llm.name, options.stop_timeout_s)
    return found


def slopes(rows: pd.DataFrame) -> pd.DataFrame:
    """The share law's k per row below 100 %: ``(ratio − 1)/(1/s − 1)``, against the whole core in the same round.

    >>> rows = pd.DataFrame([("m", 1, 100, 0.1), ("m", 1, 50, 0.22)], columns=["llm", "round", "share_pct", "latency_s"])
    >>> slopes(rows)["k"].round(3).tolist()
    [1.2]
    """
    whole = rows[rows["share_pct"] == WHOLE].set_index(["llm", "round"])["latency_s"]
    part = rows[rows["share_pct"] < WHOLE].copy()
    part["ratio"] = part["latency_s"] / whole.loc[pd.MultiIndex.from_frame(part[["llm", "round"]])].to_numpy()
    part["k"] = (part["ratio"] - 1) / (100 / part["share_pct"] - 1)
    return part


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV file for all rows.")],
    share: Annotated[list[int] | None, typer.Option(min=1, max=WHOLE - 1, help="Parts of a core in percent.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often all shares are visited.")] = 5,
) -> None:
    """Measure the share law of this host's cores."""
    shares = share or [40, 50, 60]
    rows: list[dict[str, float | int | str]] = []
    with tempfile.TemporaryDirectory(prefix="scepsy-") as folder:
        for model in MODELS:
            rows += measure(model, Path(folder), shares, rounds)
    table = stamped(pd.DataFrame(rows).assign(machine=machine()))
    write_bytes(output, table.to_csv(index=False).encode())
    k = slopes(table)
    print(k.groupby(["llm", "share_pct"])[["ratio", "k"]].median().round(2).to_string())
    print(k.groupby("llm")["k"].quantile(np.array([0.25, 0.5, 0.75])).unstack().round(2).to_string())


if __name__ == "__main__":
    typer.run(main)
