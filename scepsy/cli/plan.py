"""``plan`` and ``predict``: from traces to a plan, and what the predictors expect of it."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from scepsy.cli.options import (
    ClusterName,
    Csv,
    CurveSeed,
    GoalKind,
    Gpus,
    GpuType,
    Jobs,
    Json,
    Objectives,
    OtherRates,
    PlanFile,
    PlannerName,
    PredictorName,
    Prices,
    Profiles,
    Rates,
    Renames,
    Seed,
    Shares,
    TargetName,
    Traces,
)
from scepsy.cli.output import command, emit_json, show_table, stderr, stdout
from scepsy.cli.question import problem_of_plan, read_plan, require_objectives, restricted, state_problem, with_objectives
from scepsy.errors import InputError

if TYPE_CHECKING:
    from scepsy.api.prepare import Load
    from scepsy.plans import Judged, Plan
    from scepsy.profile.model import ProfileSet
    from scepsy.search.cheaper import Cheaper
    from scepsy.search.problem import Problem


MAX_JUDGE_BUDGET_S = 3600.0


@command
def plan(
    trace: Traces,
    rate: Rates = [],  # noqa: B006
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Plan file to write (x.plan.yaml).")] = None,
    profiles: Profiles = None,
    rename: Renames = None,
    share: Shares = None,
    cluster: ClusterName = None,
    gpus: Gpus = None,
    gpu_type: GpuType = "A100-80G",
    prices: Prices = None,
    planner: Annotated[
        PlannerName, typer.Option(help="How to search. paper: its search and formula; hierarchical: its search alone.")
    ] = "exact",
    goal: Annotated[GoalKind, typer.Option(help="What is optimised.")] = "latency",
    max_latency: Annotated[float | None, typer.Option(help="Latency limit in seconds; --goal gpus and cost need it.")] = None,
    percentile: Annotated[
        float | None, typer.Option(help="50, 95 or 99: --max-latency bounds this percentile instead of the mean.")
    ] = None,
    slo: Objectives = None,
    share_unit: Annotated[int, typer.Option(help="Shares are multiples of this many percent.")] = 10,
    arrivals: Annotated[str, typer.Option(help="poisson, deterministic, trace or gamma:CV.")] = "poisson",
    seed: Seed = 0,
    judge: Annotated[
        Literal["auto", "none", "simulate"],
        typer.Option(
            help="Choose among all planners' plans, and plans near them, by brief simulations. auto: where the "
            "goal is the latency; none: the predictor alone."
        ),
    ] = "auto",
    judge_budget: Annotated[
        float,
        typer.Option(help="Seconds of simulation, at a nominal 200,000 calls/s: the plan is the same on every machine."),
    ] = 2.0,
    explain: Annotated[
        bool, typer.Option(help="Say what binds, what a GPU more would bring, and how sure the choice is.")
    ] = False,
    target: Annotated[
        TargetName | None, typer.Option(help="Plan only what this deployment target can do: dra, mps, hami or local.")
    ] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(help="LLM=TP:SHARE:REPLICAS: give it exactly this, e.g. gpt-4o=2:100:3; repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Leave out a node, a GPU type, or LLM=TP or LLM=TP:SHARE; repeatable."),
    ] = None,
    running: Annotated[
        Path | None, typer.Option("--from", help="A running plan: start at most --max-started instances.")
    ] = None,
    max_started: Annotated[int, typer.Option(help="With --from: the most instances that may be started.")] = 4,
    rates: Annotated[
        Path | None, typer.Option("--rates", help="CSV of rates over a day (time, rate_per_s): a schedule of plans.")
    ] = None,
    suggest_models: Annotated[
        bool, typer.Option("--suggest-models", help="Do not plan: propose open models for LLMs that are not known (a guess).")
    ] = False,
    jobs: Jobs = 2,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Find the allocation and placement with the lowest predicted latency at a target rate.

    Example: `scepsy plan -t traces/rag-rerank.jsonl.gz --rate 8 --gpus 16 -o rag.plan.yaml`
    """
    if suggest_models:
        _suggest(trace, rename or [], as_json)
        return
    if rates is not None:
        from scepsy.cli.schedule import first_rates

        if rate or running is not None or judge == "simulate":
            raise InputError("--rates gives the rates of a schedule: leave out --rate, --from and --judge")
        rate = first_rates(rates, trace)
    import msgspec

    from scepsy.capabilities import TARGETS
    from scepsy.cost import cost_document, cost_lines, cost_of
    from scepsy.files.plan import load_plan
    from scepsy.files.slo import read_slo
    from scepsy.plans import plan_summary
    from scepsy.search import PLANNERS
    from scepsy.search.change import plan_change
    from scepsy.search.cheaper import next_cheaper
    from scepsy.search.explain import explain as explain_plan
    from scepsy.search.problem import Goal

    if judge == "simulate" and (planner != "exact" or running is not None):
        raise InputError("--judge simulate chooses among every planner's plans: leave out --planner and --from")
    objectives = read_slo(slo or [])
    if objectives is not None and objectives.goal is not None and goal == "latency":
        goal = objectives.goal
    if judge == "simulate" and (goal != "latency" or max_latency is not None or objectives is not None):
        raise InputError("--judge simulate looks for the lowest latency: leave out --goal, --max-latency and --slo")
    if goal in ("gpus", "cost") and max_latency is None and not (objectives is not None and objectives.limits_latency):
        raise InputError(f"--goal {goal} needs a limit to stay within: give --max-latency SECONDS or --slo")
    if percentile is not None and percentile not in (50, 95, 99):
        raise InputError(f"--percentile is {percentile:g}: must be 50, 95 or 99")
    if percentile is not None and max_latency is None:
        raise InputError("--percentile says what --max-latency bounds: give --max-latency SECONDS too")
    if not 0 < judge_budget <= MAX_JUDGE_BUDGET_S:
        raise InputError(f"--judge-budget is {judge_budget:g}: must be a number of seconds > 0, at most {MAX_JUDGE_BUDGET_S:g}")
    if max_latency is not None and not 0 < max_latency < math.inf:
        raise InputError(f"--max-latency is {max_latency:g}: must be a finite number of seconds > 0")
    if output is not None and not output.parent.exists():
        raise InputError(f"--output {output}: folder {output.parent} does not exist")
    limits = {"": max_latency} if max_latency is not None else {}
    wanted = Goal(kind=goal, limits_s=limits, percentile=percentile, slo=objectives)
    problem, loads, known = state_problem(
        trace,
        rate,
        profiles=profiles,
        rename=rename,
        share=share,
        cluster=cluster,
        gpus=gpus,
        gpu_type=gpu_type,
        arrivals=arrivals,
        share_unit=share_unit,
        goal=wanted,
        seed=seed,
        jobs=jobs,
        prices=prices,
    )
    if pin or exclude:
        if planner != "exact" or judge == "simulate" or running is not None:
            raise InputError("--pin and --exclude go with the exact planner: leave out --planner, --judge and --from")
        problem = restricted(problem, pin or [], exclude or [])
    if objectives is not None:
        problem = with_objectives(problem, objectives)
    if target is not None:
        problem = replace(problem, capabilities=TARGETS[target])
    if rates is not None:
        from scepsy.cli.schedule import show_schedule

        show_schedule(rates, trace, problem, output, as_json=as_json)
        return
    if running is not None:
        result = plan_change(problem, load_plan(running), max_started)
    elif judge == "none" or planner != "exact" or pin or exclude:
        result = PLANNERS[planner](problem)
    elif why_not := _why_not(problem, judge):
        result = PLANNERS[planner](problem)
        said = f"not judged by simulation: {why_not} (scepsy validate simulates the plan)"
        result = msgspec.structs.replace(result, assumptions=(*result.assumptions, said))
    else:
        result = _judged(problem, loads, judge_budget)
    result = msgspec.structs.replace(result, curve_seed=seed)
    if objectives is not None and (planner != "exact" or running is not None):
        require_objectives(result, problem)
    if output is not None:
        result = _save(result, output, known, profiles)
    why = explain_plan(result, problem, seed=seed).lines() if explain else []
    cost = cost_of(result)
    cheaper = next_cheaper(problem, result) if goal == "cost" and running is None else None
    if as_json:
        spent = {"cost": cost_document(cost)} | ({"next_cheaper": asdict(cheaper)} if cheaper else {})
        emit_json(plan_summary(result) | spent | ({"explanation": why} if explain else {}))
        return
    show_plan(result)
    for line in cost_lines(cost):
        stdout.print(line[0].upper() + line[1:], markup=False, highlight=False)
    if goal == "cost":
        stdout.print(_cheaper_line(cheaper), markup=False, highlight=False)
    for line in why:
        stdout.print(line, markup=False, highlight=False)
    if output is not None:
        stdout.print(f"wrote {output}", highlight=False)


def _cheaper_line(cheaper: "Cheaper | None") -> str:
    """What the next cheaper combination of GPUs would miss, in words."""
    from scepsy.cost import money

    if cheaper is None:
        return "Nothing is cheaper: this is the cheapest GPU of the cluster"
    gpus = " + ".join(f"{count}x {name}" for name, count in cheaper.gpus.items())
    why = cheaper.misses or "nothing that was found (the search had ended before it)"
    return f"The next cheaper, {gpus} at {money(cheaper.usd_per_hour)} per hour, misses: {why}"


def _suggest(traces: list[Path], renames: list[str], as_json: bool) -> None:
    """Print an open model for every LLM of the traces that is not known, and the options that would use them."""
    from scepsy.cli.inputs import as_options, read_traces
    from scepsy.models.suggest import suggest
    from scepsy.profile import catalogue

    kinds = {call.llm: call.kind for read, _ in read_traces(traces) for run in read.runs for call in run.calls}
    mapped = {rename.partition("=")[0] for rename in renames}
    found = suggest([name for name in kinds if name not in mapped], kinds, catalogue.llms())
    options = as_options([item.name for item in found], {item.name: item.model for item in found})
    if as_json:
        rows = [{"name": item.name, "model": item.model, "why": item.why} for item in found]
        emit_json({"suggestions": rows, "options": options, "guess": True})
        return
    if not found:
        stdout.print("every LLM of the traces is a known model: nothing to propose")
        return
    for item in found:
        stdout.print(f"{item.name}: {item.model} ({item.why})", highlight=False, markup=False, soft_wrap=True)
    stdout.print("This is a guess from names: it says nothing of quality. Check it, then plan with", highlight=False)
    stdout.print(f"  {options}", highlight=False, markup=False, soft_wrap=True)


def _why_not(problem: "Problem", judge: str) -> str:
    """Why no simulation judges; an error where one was asked for."""
    from scepsy.api.judge import why_not_judged

    why = why_not_judged(problem)
    if why and judge == "simulate":
        raise InputError(f"--judge simulate: {why}: leave out --judge")
    return why


def _judged(problem: "Problem", loads: "tuple[Load, ...]", budget_s: float) -> "Plan":
    """The plan that simulates fastest among every planner's and its neighbours; a spinner on stderr."""
    from scepsy.api.case import Case
    from scepsy.api.judge import judged_plan

    case = Case(problem=problem, streams=tuple(load.stream for load in loads))
    with stderr.status("simulating candidates"):
        return judged_plan(case, budget_s).best


def _save(result: "Plan", output: Path, profiles: "ProfileSet", given: Path | None) -> "Plan":
    """Write the plan and, for built-in profiles, the profiles file beside it; both named relative to the plan."""
    import msgspec

    from scepsy.cli.inputs import relative
    from scepsy.files.plan import save_plan
    from scepsy.files.profiles import save_profiles

    folder = output.parent
    if given is None:
        stem = output.name.removesuffix(".yaml").removesuffix(".plan")
        given = folder / f"{stem}.profiles.yaml"
        save_profiles(given, profiles)
    elif given.is_dir():
        given = given / "profiles.yaml"
    targets = tuple(msgspec.structs.replace(t, trace=relative(Path(t.trace), folder)) for t in result.targets)
    result = msgspec.structs.replace(result, targets=targets, profiles=relative(given, folder))
    save_plan(output, result)
    return result


def _judged_line(judged: "Judged") -> str:
    brief = ", ".join(f"{name} {mean_s:.4g} s" for name, mean_s in judged.latency_s.items())
    said = f"judged by simulation among {judged.candidates} plans ({judged.calls:,} calls; mean latency there: {brief})"
    if judged.misses:
        said += f"; it misses there: {'; '.join(judged.misses)}, and no other misses fewer limits"
    if judged.lead_pct is None:
        return said + ": no other keeps up and within the limits as it does" if judged.over else said
    if f"{judged.lead_pct:.1f}" in ("0.0", "-0.0") and (judged.lead_half_width_pct or 0.0) < 0.05:
        said += f": the next best ({judged.over}) takes as long over the same runs"
    else:
        width = "?" if judged.lead_half_width_pct is None else f"{judged.lead_half_width_pct:.1f}"
        said += f": the next best ({judged.over}) takes {judged.lead_pct:+.1f} ± {width} % more time over the same runs"
    return said + ("" if judged.stable else "; not shown to keep up in so short a simulation")


def show_plan(result: "Plan") -> None:
    """Print a plan: what each LLM gets, where it sits, what is expected, what was proved."""
    used = len(result.gpu_shares)
    stdout.print(
        f"{result.planner} plan on {result.cluster.name}: {used} of {len(result.cluster.gpus)} GPUs touched, "
        f"fragmentation {result.fragmentation_pct:.0f} %, searched {result.search_s:.3g} s"
        + ("; proved optimal under its predictor, within what was searched (see Assumed)" if result.optimal else ""),
        highlight=False,
    )
    if not result.optimal and result.bound_latency_s is not None and result.objective_s is not None:
        stdout.print(
            f"the search minimised a sum over the LLMs, {result.objective_s:.4g} s here; no plan has one below "
            f"{result.bound_latency_s:.4g} s",
            highlight=False,
        )
    if result.judged is not None:
        stdout.print(_judged_line(result.judged), highlight=False)
    show_table(
        "Allocation",
        ["LLM", "GPU type", "share %", "TP", "replicas", "GPUs"],
        [[a.llm, a.gpu_type, a.share_pct, a.tensor_parallel, a.replicas, a.gpu_pct / 100] for a in result.allocations],
    )
    if result.models:
        show_table(
            "Models",
            ["LLM", "served by", "weights", "engines load"],
            [[", ".join(m.names), m.model, m.quantisation, m.hub_id or "not known"] for m in result.models],
        )
    show_table(
        "Placement",
        ["node", "GPU", "instances (share %)"],
        [
            [
                node.name,
                index,
                ", ".join(
                    f"{i.name} ({i.share_pct}{f', TP {i.tensor_parallel}' if i.tensor_parallel > 1 else ''})"
                    for i in result.instances
                    for gpu in i.gpus
                    if (gpu.node, gpu.index) == (node.name, index)
                )
                or "free",
            ]
            for node in result.cluster.nodes
            for index in range(node.gpus)
        ],
    )
    rates = {target.workflow: target.arrivals.rate_per_s for target in result.targets}
    show_table(
        f"Expected ({result.predictor})",
        ["workflow", "target runs/s", "mean latency s", "max runs/s"],
        [[e.workflow, rates.get(e.workflow), e.latency_s, e.throughput_per_s] for e in result.expected],
    )
    if result.assumptions:
        stdout.print("Assumed:", highlight=False)
        for note in result.assumptions:
            stdout.print(f"  - {note}", markup=False, highlight=False)


@command
def predict(
    plan_file: PlanFile,
    rate: OtherRates = None,
    predictor: Annotated[
        PredictorName | None,
        typer.Option(help="How to predict; the plan's own way when absent. paper: the literal formula."),
    ] = None,
    seed: CurveSeed = None,
    jobs: Jobs = 2,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Predict latency and throughput of a plan, at its target rate or another.

    At the plan's own rate the numbers are the plan's. Example: `scepsy predict rag.plan.yaml --rate 12`
    """
    from scepsy.api.forecast import forecast, predictor_of

    result, loads, profiles = read_plan(plan_file, rate)
    problem = problem_of_plan(result, loads, profiles, seed=seed, jobs=jobs)
    documents = forecast(result, problem, predictor)
    how = predictor or predictor_of(result)
    if as_json:
        emit_json(documents[0] if len(documents) == 1 else {"predictor": how, "workflows": documents})
        return
    show_table(
        f"Predicted ({how})",
        ["workflow", "runs/s", "mean s", "p50 s", "p95 s", "p99 s", "max runs/s"],
        [
            [
                d["workflow"],
                load.arrivals.rate_per_s,
                *(d["latency_s"][key] for key in ("mean", "p50", "p95", "p99")),
                d["throughput_per_s"],
            ]
            for d, load in zip(documents, loads, strict=True)
        ],
    )
    show_table(
        "Where the time goes",
        ["workflow", "LLM", "busy s per run", "load of its instances"],
        [[d["workflow"], llm, part["busy_s"], part["utilisation"]] for d in documents for llm, part in d["by_llm"].items()],
    )
