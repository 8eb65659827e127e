"""Options that several commands take: one name, one unit, one text and one default each."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file, as `scepsy plan -o` writes it.")]
Traces = Annotated[list[Path], typer.Option("--trace", "-t", help="Trace file; repeat for several workflows.")]
Rates = Annotated[list[float], typer.Option("--rate", "-r", help="Target runs per second; repeat, one per workflow.")]
OtherRates = Annotated[
    list[float] | None,
    typer.Option("--rate", "-r", help="Runs per second, instead of the plan's rates; repeat for each workflow."),
]
Profiles = Annotated[Path | None, typer.Option("--profiles", "-p", help="Profiles file; built-in ones when absent.")]
Renames = Annotated[list[str] | None, typer.Option("--as", help="NAME=MODEL: serve the trace's NAME by this model.")]
Shares = Annotated[
    list[str] | None,
    typer.Option("--share", help="NAME,NAME: names of the trace with one model, served by the same instances; repeatable."),
]
ClusterName = Annotated[str | None, typer.Option("--cluster", "-c", help="Cluster file or preset, e.g. 2x8-h100.")]
Gpus = Annotated[int | None, typer.Option(help="Number of GPUs, in nodes of 8, instead of a cluster.")]
GpuType = Annotated[str, typer.Option(help="GPU type that goes with --gpus.")]
Prices = Annotated[
    Path | None,
    typer.Option(help="File with your own prices per GPU-hour (format: scepsy.prices); default: the built-in ones."),
]
Csv = Annotated[bool, typer.Option("--csv", help="Print the table as CSV on stdout.")]
Seed = Annotated[int, typer.Option(help="Seed of arrivals and sampled runs.")]
Objectives = Annotated[
    list[str] | None,
    typer.Option(
        "--slo", help="SLO file, or one objective such as p95=6, support:p99=9, errors=1, gpt-4o:ttft-p95=0.8; repeatable."
    ),
]
CurveSeed = Annotated[int | None, typer.Option("--seed", help="Seed of the curves; the plan's own when absent.")]
Runs = Annotated[int, typer.Option("--runs", "-n", min=1, help="Runs to issue, of all workflows together.")]
ManyRuns = Annotated[
    int | None,
    typer.Option("--runs", "-n", min=1, help="Number of runs, all workflows together; default: until --precision is reached."),
]
Precision = Annotated[
    float, typer.Option(min=0.001, max=1.0, help="Half-width of the mean's 95 % interval over the mean at which to stop.")
]
MostCalls = Annotated[int, typer.Option("--most-calls", min=1, help="Calls after which to stop, settled or not.")]
Jobs = Annotated[int, typer.Option(min=1, help="Processes that profile curves.")]

PlannerName = Literal["exact", "hierarchical", "paper", "equal", "proportional", "independent"]
PredictorName = Literal["aggregate", "critical-path", "paper"]
GoalKind = Literal["latency", "gpus", "cost", "rate"]
RouterName = Literal[
    "least-outstanding",
    "round-robin",
    "least-kv-load",
    "weighted-by-share",
    "power-of-two",
    "affinity",
    "hash-affinity",
    "plas",
    "ayo",
]
QueueOrderName = Literal["fcfs", "shortest-remaining", "plas", "topology", "hexagent"]
SystemName = Literal["static", "hpa", "hpa-load", "hpa-kv", "hpa-gpu", "keda", "adaptive", "aegaeon", "muxserve", "ayo"]
EngineName = Literal["auto", "simpy", "compiled"]
TargetName = Literal["dra", "mps", "hami", "local"]
