"""``frontier``, ``admit``, ``changes``: what a cluster of another size would do, who can be served, what a switch costs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scepsy.cli.options import ClusterName, Csv, Gpus, GpuType, Json, Prices, Profiles, Rates, Renames, Shares, Traces
from scepsy.cli.outermost import require_writable
from scepsy.cli.output import command, emit_csv, emit_json, progress_bar, show_table, stdout
from scepsy.cli.question import priced, problem_of, state_problem
from scepsy.cost import price_of
from scepsy.errors import Infeasible, InputError

if TYPE_CHECKING:
    from scepsy.llm import Served
    from scepsy.search.offers import Offer
    from scepsy.search.problem import Problem


@command
def frontier(
    trace: Traces,
    rate: Rates,
    profiles: Profiles = None,
    rename: Renames = None,
    share: Shares = None,
    cluster: ClusterName = None,
    gpus: Gpus = None,
    gpu_type: Annotated[
        list[str] | None, typer.Option(help="GPU type that goes with --gpus [A100-80G]; repeat to compare several.")
    ] = None,
    prices: Prices = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw latency against cost into this file: .svg, .png or .pdf.")
    ] = None,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Latency, highest rate and cost for every number of GPUs up to the cluster's, and for every GPU type given.

    Each row has a plan that packs (on more than 24 GPUs only some counts have), with the numbers that
    `scepsy plan --judge none` gives for it: they are predicted, not simulated. A mark stands where no
    other row is better in both latency and cost.

    Example: `scepsy frontier -t rag.jsonl --rate 8 --gpus 16 --gpu-type A100-80G --gpu-type H100-80G --picture cost.svg`
    """
    from scepsy.cli.inputs import read_cluster
    from scepsy.search.offers import offers as offers_of
    from scepsy.search.offers import side_by_side

    if gpu_type and len(gpu_type) > 1 and gpus is None:
        raise InputError("--gpu-type is given several times: give --gpus N too, the most GPUs of each type")
    if picture is not None:
        if picture.suffix not in (".svg", ".png", ".pdf"):
            raise InputError(f"--picture is {picture}: must end in .svg, .png or .pdf")
        require_writable(picture, folder=False)
    clusters = [read_cluster(cluster, gpus, name) for name in dict.fromkeys(gpu_type or ["A100-80G"])]
    clusters = [priced(each, prices) for each in clusters]
    problem, _, _ = state_problem(
        trace,
        rate,
        profiles=profiles,
        rename=rename,
        share=share,
        cluster=None,
        gpus=None,
        gpu_type="",
        machines=side_by_side(clusters),
    )
    with progress_bar("planning", len(clusters)) as advance:
        found, left_out = offers_of(problem, clusters, done=advance)
    if not found:
        raise Infeasible("; ".join(f"{name}: {why}" for name, why in left_out.items()))
    first = problem.targets[0]
    if picture is not None:
        from scepsy.report.offers import write_cost_figure

        names = ", ".join(f"{t.workflow} at {t.arrivals.rate_per_s:g} runs/s" for t in problem.targets)
        write_cost_figure(found, names, picture)
    if as_json:
        targets = {t.workflow: t.arrivals.rate_per_s for t in problem.targets}
        emit_json({"targets": targets, "points": [_point(offer) for offer in found], "left_out": left_out})
        return
    if as_csv:
        rows = [_point(offer) for offer in found]
        emit_csv(rows[0], [row.values() for row in rows])
        return
    show_table(
        "Latency against GPUs and cost",
        ["GPU type", "GPUs", "mean latency s", f"at most {first.workflow} runs/s", "$/h", "$/1,000 runs", "best"],
        [_row(offer, float(problem.rates_per_s[0])) for offer in found if offer.searched or offer.point.latency_s is None],
    )
    stdout.print(
        "GPUs: at most so many; $ for those that the plan touches. best: no other row is better in both", highlight=False
    )
    for name, why in left_out.items():
        stdout.print(f"{name}: {why}", highlight=False, markup=False)
    for gpu in {gpu.name: gpu for each in clusters for gpu in each.gpu_types}.values():
        told = f"${gpu.cost_per_hour:g} per hour, {gpu.price or 'source not given'}" if price_of(gpu) else "price not known"
        stdout.print(f"{gpu.name}: {told}", highlight=False, markup=False)
    if picture is not None:
        stdout.print(f"wrote {picture}", highlight=False, markup=False)


def _point(offer: "Offer") -> dict[str, Any]:
    """One row of ``frontier --json`` and ``--csv``."""
    cost = offer.cost
    return {
        "gpu_type": offer.gpu_type,
        "gpus": offer.gpus,
        "latency_s": offer.point.latency_s,
        "rate_factor": offer.point.rate_factor,
        "planned_latency_s": offer.latency_s,
        "planned_gpus": cost and cost.gpus,
        "usd_per_hour": cost and cost.usd_per_hour,
        "usd_per_1000_runs": cost and cost.usd_per_1000_runs,
        "gpu_hours_per_1000_runs": cost and cost.gpu_hours_per_1000_runs,
        "energy_kwh_per_1000_runs": cost and cost.energy_kwh_per_1000_runs,
        "pareto": offer.on_pareto,
    }


def _row(offer: "Offer", first_per_s: float) -> list[object]:
    cost = offer.cost
    return [
        offer.gpu_type,
        offer.gpus,
        offer.latency_s if offer.latency_s is not None else "no plan" if offer.searched else "not met",
        offer.point.rate_factor * first_per_s,
        cost and cost.usd_per_hour,
        cost and cost.usd_per_1000_runs,
        "*" if offer.on_pareto else "",
    ]


@command
def admit(
    trace: Traces,
    rate: Rates,
    profiles: Profiles = None,
    rename: Renames = None,
    share: Shares = None,
    cluster: ClusterName = None,
    gpus: Gpus = None,
    gpu_type: GpuType = "A100-80G",
    as_json: Json = False,
) -> None:
    """Which of several workflows can be served together, in the order given, and what the others would need.

    Exit code 3 when one cannot. Example: `scepsy admit -t rag.jsonl --rate 8 -t agent.jsonl --rate 4 --gpus 8`
    """
    from scepsy.search.multi import admit as answers_of
    from scepsy.search.problem import Goal

    problem, loads, known = state_problem(
        trace, rate, profiles=profiles, rename=rename, share=share, cluster=cluster, gpus=gpus, gpu_type=gpu_type
    )

    def at(numbers: Sequence[int], rates_per_s: Sequence[float]) -> "Problem":
        chosen = tuple(
            replace(loads[n], arrivals=loads[n].arrivals.at_rate(rate)) for n, rate in zip(numbers, rates_per_s, strict=True)
        )
        return problem_of(chosen, problem.cluster, known, share_unit=10, goal=Goal(), seed=0, jobs=2)

    answers = answers_of(problem, at)
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
    as_csv: Csv = False,
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
                "models": [
                    {"llm": change.llm, "before": model_text(change.before), "after": model_text(change.after)}
                    for change in found.models
                ],
                "models_known": found.models_known,
            }
        )
        return
    for change in found.models:
        stdout.print(
            f"{change.llm}: {change.what}: {model_text(change.before)} before, {model_text(change.after)} after",
            markup=False,
            highlight=False,
        )
    if not found.models_known:
        stdout.print(
            "a plan of an earlier version does not say which models serve it: a swapped one is not seen", highlight=False
        )
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


def model_text(served: "Served") -> str:
    """A model as the difference of two plans names it, with the other names that it answers to."""
    named = f" asked for as {' and '.join(served.names)}" if served.also else ""
    return f"{served.model} ({served.quantisation}){named}"
