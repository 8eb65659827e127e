"""Every run's shares of LLM time as a long table: what the stability picture is drawn from."""

import numpy as np
import pandas as pd

from scepsy.stats.table import tabulate
from scepsy.workload import Trace


def shares_per_run(trace: Trace) -> pd.DataFrame:
    """One row per (run, LLM): workflow, run (number), llm, share of the run's summed LLM time, latency_s of the run."""
    frames = []
    for name, table in tabulate(trace.runs).items():
        seconds = table.seconds()
        total = seconds.sum(axis=1, keepdims=True)
        shares = np.divide(seconds, total, out=np.zeros_like(seconds), where=total > 0)
        for place, llm in enumerate(table.llms):
            columns = {"run": np.arange(table.runs), "llm": llm, "share": shares[:, place], "latency_s": table.latency_s()}
            frames.append(pd.DataFrame({"workflow": name, **columns}))
    return pd.concat(frames, ignore_index=True)
