"""``frontier``, ``admit``, ``changes``: what a cluster of another size would do, who can be served, what a switch costs."""

from pathlib import Path
from typing import Annotated

import typer

from scepsy.cli.options import ClusterName, Gpus, GpuType, Json, Profiles, Rates, Renames, Traces
from scepsy.cli.output import command, emit_json, show_table, stdout
from scepsy.cli.question import state_problem


@command
def frontier(
    trace: Traces,
    rate: Rates,
    profiles: Profiles = None,
    rename: Renames = None,
    cluster: ClusterName = None,
    gpus: Gpus = None,
    gpu_type: GpuType = "A100-80G",
    as_json: Json = False,
) -> None:
    """Latency and highest rate for every number of GPUs up to the cluster's (the exact optimum, packing left aside).

    Example: `scepsy frontier -t traces/rag-rerank.jsonl.gz --rate 8 --gpus 16`
    """
    from scepsy.search.frontier import frontier as points_of

    problem, _, _ = state_problem(trace, rate, profiles=profiles, rename=rename, cluster=cluster, gpus=gpus, gpu_type=gpu_type)
    points = points_of(problem)
    first = float(problem.rates_per_s[0])
    if as_json:
        rows = [{"gpus": p.gpus, "latency_s": p.latency_s, "rate_factor": p.rate_factor} for p in points]
        emit_json({"targets": {t.workflow: t.arrivals.rate_per_s for t in problem.targets}, "points": rows})
        return
    show_table(
        "Latency against GPUs",
        ["GPUs", "mean latency s", "highest factor on the rates", f"{problem.targets[0].workflow} runs/s"],
        [[p.gpus, p.latency_s if p.latency_s is not None else "not met", p.rate_factor, p.rate_factor * first] for p in points],
    )


@command
def admit(
    trace: Traces,
    rate: Rates,
    profiles: Profiles = None,
    rename: Renames = None,
    cluster: ClusterName = None,
    gpus: Gpus = None,
    gpu_type: GpuType = "A100-80G",
    as_json: Json = False,
) -> None:
    """Which of several workflows can be served together, in the order given, and what the others would need.

    Exit code 3 when one cannot. Example: `scepsy admit -t rag.jsonl --rate 8 -t agent.jsonl --rate 4 --gpus 8`
    """
    from scepsy.search.multi import admit as answers_of

    problem, _, _ = state_problem(trace, rate, profiles=profiles, rename=rename, cluster=cluster, gpus=gpus, gpu_type=gpu_type)
    answers = answers_of(problem)
    if as_json:
        emit_json(
            {
                "workflows": [
                    {
                        "workflow": a.workflow,
                        "rate_per_s": a.rate_per_s,
                        "served": a.served,
                        "possible_rate_per_s": a.possible_rate_per_s,
                        "more_gpus": a.more_gpus,
                        "message": str(a),
                    }
                    for a in answers
                ]
            }
        )
    else:
        for answer in answers:
            stdout.print(str(answer), highlight=False)
    if not all(answer.served for answer in answers):
        raise typer.Exit(3)


@command
def changes(
    before: Annotated[Path, typer.Argument(help="The running plan.")],
    after: Annotated[Path, typer.Argument(help="The plan to switch to.")],
    as_json: Json = False,
) -> None:
    """What lies between two plans: instances that run on, start and stop, and what their cold starts cost.

    Example: `scepsy changes running.plan.yaml next.plan.yaml`
    """
    from scepsy.cli.inputs import plan_inputs
    from scepsy.files.plan import load_plan
    from scepsy.search.change import diff

    old, new = load_plan(before), load_plan(after)
    _, profiles = plan_inputs(new, after)
    found = diff(old, new, profiles)
    if as_json:
        emit_json(
            {
                "kept": list(found.kept),
                "started": [instance.name for instance in found.started],
                "stopped": [instance.name for instance in found.stopped],
                "cold_start_s": found.cold_start_s,
                "cold_start_gpu_s": found.cold_start_gpu_s,
                "latency_before_s": found.latency_before_s,
                "latency_after_s": found.latency_after_s,
            }
        )
        return
    if found.empty:
        stdout.print("nothing to start or stop", highlight=False)
    show_table(
        "Instances",
        ["", "instance", "GPUs", "share %"],
        [["keeps running", name, "", ""] for name in found.kept]
        + [["starts", i.name, ", ".join(map(str, i.gpus)), i.share_pct] for i in found.started]
        + [["stops", i.name, ", ".join(map(str, i.gpus)), i.share_pct] for i in found.stopped],
    )
    stdout.print(
        f"cold starts: {found.cold_start_s:.0f} s until all answer, {found.cold_start_gpu_s:.0f} GPU seconds", highlight=False
    )
