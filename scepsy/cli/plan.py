"""``plan``, ``predict``, ``simulate``, ``validate``, ``report``: one plan, from traces to its replay."""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scepsy.cli.output import command, emit_json, progress, show_table, stderr, stdout
from scepsy.errors import InputError

if TYPE_CHECKING:
    from scepsy.api.prepare import Load
    from scepsy.plan import Plan
    from scepsy.profile.model import ProfileSet
    from scepsy.records import Records
    from scepsy.search.problem import Goal, Problem

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
PlanFile = Annotated[Path, typer.Argument(help="A plan file, as `scepsy plan -o` writes it.")]
Seed = Annotated[int, typer.Option(help="Seed of arrivals and sampled runs.")]
Rate = Annotated[list[float] | None, typer.Option("--rate", "-r", help="Runs per second; repeat for each workflow.")]


@command
def plan(
    trace: Annotated[list[Path], typer.Option("--trace", "-t", help="Trace file; repeat for several workflows.")],
    rate: Annotated[list[float], typer.Option("--rate", "-r", help="Target runs per second; repeat, one per workflow.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Plan file to write (x.plan.yaml).")] = None,
    profiles: Annotated[Path | None, typer.Option("--profiles", "-p", help="Profiles file; built-in ones when absent.")] = None,
    rename: Annotated[list[str] | None, typer.Option("--as", help="NAME=MODEL: serve the trace's NAME by this model.")] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", "-c", help="Cluster file or preset, e.g. 2x8-h100.")] = None,
    gpus: Annotated[int | None, typer.Option(help="Instead of a cluster: this many GPUs in nodes of 8.")] = None,
    gpu_type: Annotated[str, typer.Option(help="GPU type that goes with --gpus.")] = "A100-80G",
    planner: Annotated[
        str, typer.Option(help="exact, hierarchical (the paper), equal, proportional, independent, …")
    ] = "exact",
    goal: Annotated[str, typer.Option(help="latency, gpus, cost or rate: what is optimised.")] = "latency",
    max_latency: Annotated[float | None, typer.Option(help="Latency limit, seconds (for goals gpus and cost).")] = None,
    percentile: Annotated[float | None, typer.Option(help="The limit bounds this percentile instead of the mean.")] = None,
    share_unit: Annotated[int, typer.Option(help="Shares are multiples of this many percent.")] = 10,
    arrivals: Annotated[str, typer.Option(help="poisson, deterministic, trace or gamma:CV.")] = "poisson",
    seed: Seed = 0,
    judge: Annotated[
        str, typer.Option(help="none, or simulate: brief simulations choose among all planners' plans and their neighbours.")
    ] = "none",
    explain: Annotated[
        bool, typer.Option(help="Say what binds, what a GPU more would bring, and how sure the choice is.")
    ] = False,
    target: Annotated[str | None, typer.Option(help="Obey what this back end can do: dra, mps, hami or local.")] = None,
    running: Annotated[
        Path | None, typer.Option("--from", help="A running plan: start at most --max-started instances.")
    ] = None,
    max_started: Annotated[int, typer.Option(help="With --from: instances that may be started.")] = 4,
    jobs: Annotated[int, typer.Option(help="Processes that profile curves.")] = 2,
    as_json: Json = False,
) -> None:
    """Find the allocation and placement with the lowest predicted latency at a target rate.

    Example: `scepsy plan -t traces/rag-rerank.jsonl.gz --rate 8 --gpus 16 -o rag.plan.yaml`
    """
    from scepsy.capabilities import TARGETS
    from scepsy.files.plan import load_plan
    from scepsy.plan import plan_summary
    from scepsy.search import PLANNERS
    from scepsy.search.change import plan_change
    from scepsy.search.explain import explain as explain_plan
    from scepsy.search.problem import Goal

    if planner not in PLANNERS:
        raise InputError(f"--planner is {planner!r}: must be one of {', '.join(PLANNERS)}")
    if judge not in ("none", "simulate"):
        raise InputError(f"--judge is {judge!r}: must be none or simulate")
    if judge == "simulate" and (planner != "exact" or running is not None):
        raise InputError("--judge simulate chooses among every planner's plans: leave out --planner and --from")
    if judge == "simulate" and (goal != "latency" or max_latency is not None):
        raise InputError("--judge simulate looks for the lowest latency: leave out --goal and --max-latency")
    if goal not in ("latency", "gpus", "cost", "rate"):
        raise InputError(f"--goal is {goal!r}: must be latency, gpus, cost or rate")
    if max_latency is not None and not 0 < max_latency < math.inf:
        raise InputError(f"--max-latency is {max_latency:g}: must be a finite number of seconds > 0")
    if output is not None and not output.parent.exists():
        raise InputError(f"--output {output}: folder {output.parent} does not exist")
    limits = {"": max_latency} if max_latency is not None else {}
    wanted = Goal(kind=goal, limits_s=limits, percentile=percentile)  # type: ignore[arg-type]  # checked above
    problem, loads, known = state_problem(
        trace,
        rate,
        profiles=profiles,
        rename=rename,
        cluster=cluster,
        gpus=gpus,
        gpu_type=gpu_type,
        arrivals=arrivals,
        share_unit=share_unit,
        goal=wanted,
        seed=seed,
        jobs=jobs,
    )
    if target is not None:
        if target not in TARGETS:
            raise InputError(f"--target is {target!r}: must be one of {', '.join(TARGETS)}")
        problem = replace(problem, capabilities=TARGETS[target])
    if running is not None:
        result = plan_change(problem, load_plan(running), max_started)
    elif judge == "simulate":
        result = _judged(problem, loads)
    else:
        result = PLANNERS[planner](problem)
    if output is not None:
        result = _save(result, output, known, profiles)
    why = explain_plan(result, problem, seed=seed).lines() if explain else []
    if as_json:
        emit_json(plan_summary(result) | ({"explanation": why} if explain else {}))
        return
    show_plan(result)
    for line in why:
        stdout.print(line, markup=False, highlight=False)
    if output is not None:
        stdout.print(f"wrote {output}", highlight=False)


def _judged(problem: "Problem", loads: "tuple[Load, ...]") -> "Plan":
    """The plan that simulates fastest among every planner's and its neighbours; a spinner on stderr."""
    from scepsy.api.case import Case
    from scepsy.api.judge import judged_plan

    case = Case(problem=problem, streams=tuple(load.stream for load in loads))
    with stderr.status("simulating candidates"):
        return judged_plan(case).best


def state_problem(
    trace: list[Path],
    rate: list[float],
    *,
    profiles: Path | None,
    rename: list[str] | None,
    cluster: str | None,
    gpus: int | None,
    gpu_type: str,
    arrivals: str = "poisson",
    share_unit: int = 10,
    goal: "Goal | None" = None,
    seed: int = 0,
    jobs: int = 2,
) -> "tuple[Problem, tuple[Load, ...], ProfileSet]":
    """The planning question that a command's options ask; a latency limit under the name "" holds for every workflow."""
    from scepsy.api.prepare import loads_of
    from scepsy.cli.inputs import read_arrivals, read_cluster, read_profiles, read_traces
    from scepsy.search.problem import Goal

    loads = loads_of(read_traces(trace), rate, read_arrivals(arrivals))
    machines = read_cluster(cluster, gpus, gpu_type)
    llms = list(dict.fromkeys(llm for load in loads for llm in load.trace.llms))
    known = read_profiles(profiles, llms, machines, rename or [])
    wanted = goal or Goal()
    if "" in wanted.limits_s:
        wanted = replace(wanted, limits_s={load.workflow: wanted.limits_s[""] for load in loads})
    problem = _problem(loads, machines, known, share_unit=share_unit, goal=wanted, seed=seed, jobs=jobs)
    return problem, loads, known


def _problem(
    loads: "tuple[Load, ...]", cluster: Any, profiles: "ProfileSet", *, share_unit: int, goal: Any, seed: int, jobs: int
) -> "Problem":
    from scepsy.api.prepare import prepare
    from scepsy.files.cache import cache_dir

    if not 1 <= share_unit <= 100:
        raise InputError(f"--share-unit is {share_unit}: must be 1 to 100 percent")
    with progress("profiling curves") as advance:
        done_before = 0

        def step(done: int, total: int) -> None:
            nonlocal done_before
            advance(done - done_before, total=total)
            done_before = done

        return prepare(
            loads,
            cluster,
            profiles,
            share_unit_pct=share_unit,
            goal=goal,
            seed=seed,
            cache_dir=cache_dir(),
            jobs=jobs,
            progress=step,
        )


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


def show_plan(result: "Plan") -> None:
    """Print a plan: what each LLM gets, where it sits, what is expected, what was proved."""
    used = len(result.gpu_shares)
    stdout.print(
        f"{result.planner} plan on {result.cluster.name}: {used} of {len(result.cluster.gpus)} GPUs touched, "
        f"fragmentation {result.fragmentation_pct:.0f} %, searched {result.search_s * 1e3:.0f} ms"
        + ("; proved optimal under its predictor" if result.optimal else ""),
        highlight=False,
    )
    if not result.optimal and result.bound_latency_s is not None:
        stdout.print(f"no plan can be predicted below {result.bound_latency_s:.4g} s", highlight=False)
    show_table(
        "Allocation",
        ["LLM", "GPU type", "share %", "TP", "replicas", "GPUs"],
        [[a.llm, a.gpu_type, a.share_pct, a.tensor_parallel, a.replicas, a.gpu_pct / 100] for a in result.allocations],
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


def _loaded(path: Path, rate: list[float] | None) -> "tuple[Plan, tuple[Load, ...], ProfileSet]":
    """A plan with its loads (at ``rate`` where given) and profiles."""
    import msgspec

    from scepsy.api.prepare import Load
    from scepsy.cli.inputs import plan_inputs
    from scepsy.files.plan import load_plan

    result = load_plan(path)
    traces, profiles = plan_inputs(result, path)
    if rate and len(rate) != len(result.targets):
        names = ", ".join(target.workflow for target in result.targets)
        raise InputError(f"--rate is given {len(rate)} times: must be once for each workflow of the plan ({names})")
    loads = []
    for index, (target, (trace, name)) in enumerate(zip(result.targets, traces, strict=True)):
        arrivals = target.arrivals
        if rate:
            if not 0 < rate[index] < math.inf:
                raise InputError(f"--rate is {rate[index]:g}: must be a finite number > 0 (runs per second)")
            arrivals = msgspec.structs.replace(arrivals, rate_per_s=rate[index])
        loads.append(Load(trace=trace, arrivals=arrivals, path=name))
    return result, tuple(loads), profiles


@command
def predict(
    plan_file: PlanFile,
    rate: Rate = None,
    predictor: Annotated[str, typer.Option(help="aggregate, critical-path or paper.")] = "aggregate",
    seed: Seed = 0,
    jobs: Annotated[int, typer.Option(help="Processes that profile curves.")] = 2,
    as_json: Json = False,
) -> None:
    """Predict latency and throughput of a plan, at its target rate or another.

    Example: `scepsy predict rag.plan.yaml --rate 12 --predictor critical-path`
    """
    from scepsy.api.forecast import PREDICTORS, forecast
    from scepsy.search.problem import Goal

    if predictor not in PREDICTORS:
        raise InputError(f"--predictor is {predictor!r}: must be one of {', '.join(PREDICTORS)}")
    result, loads, profiles = _loaded(plan_file, rate)
    problem = _problem(loads, result.cluster, profiles, share_unit=10, goal=Goal(), seed=seed, jobs=jobs)
    documents = forecast(result, problem, predictor)
    if as_json:
        emit_json(documents[0] if len(documents) == 1 else {"predictor": predictor, "workflows": documents})
        return
    show_table(
        f"Predicted ({predictor})",
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


@command
def simulate(
    plan_file: PlanFile,
    rate: Rate = None,
    runs: Annotated[int, typer.Option("--runs", "-n", help="Runs to issue, of all workflows together.")] = 500,
    seed: Seed = 0,
    router: Annotated[str, typer.Option(help="How calls choose an instance; see docs/simulator.md.")] = "least-outstanding",
    queue_order: Annotated[str, typer.Option(help="Order of waiting calls: fcfs, plas, shortest-remaining.")] = "fcfs",
    system: Annotated[
        str, typer.Option(help="How the cluster is run: static, hpa, keda, aegaeon, ayo, muxserve, …")
    ] = "static",
    drain: Annotated[float | None, typer.Option(help="Seconds after the last arrival; later runs are unfinished.")] = None,
    timeline: Annotated[Path | None, typer.Option(help="Write a Chrome/Perfetto trace here (.json).")] = None,
    records: Annotated[Path | None, typer.Option(help="Write PREFIX.runs.parquet and PREFIX.calls.parquet.")] = None,
    as_json: Json = False,
) -> None:
    """Replay the plan's trace against the plan, token by token.

    Example: `scepsy simulate rag.plan.yaml --runs 2000 --rate 10 --timeline rag.trace.json`
    """
    from scepsy.files.records import save_records
    from scepsy.metrics import summarise

    _check_runs(runs)
    result, loads, profiles = _loaded(plan_file, rate)
    outcome, wall_s = _replay(
        result,
        loads,
        profiles,
        runs=runs,
        seed=seed,
        router=router,
        queue_order=queue_order,
        system=system,
        drain_s=drain,
        timeline=timeline,
    )
    if records is not None:
        save_records(records, outcome)
    summary = summarise(outcome, wall_s=wall_s)
    if as_json:
        emit_json(summary)
        return
    show_table(
        f"Simulated {summary['simulated_s']:.4g} s in {wall_s:.2f} s ({summary['calls_per_wall_s']:.0f} calls/s)",
        ["", "issued", "completed", "rejected", "unfinished"],
        [
            [kind, *(summary[kind][key] for key in ("issued", "completed", "rejected", "unfinished"))]
            for kind in ("runs", "calls")
        ],
    )
    show_table(
        "End-to-end latency (s)",
        ["runs/s completed", "mean", "p50", "p95", "p99"],
        [[summary["throughput_per_s"], *(summary["latency_s"][key] for key in ("mean", "p50", "p95", "p99"))]],
    )
    for path, what in ((timeline, "timeline"), (records, "records")):
        if path is not None:
            stdout.print(f"wrote {what} {path}", highlight=False)


def _check_runs(runs: int) -> None:
    if runs < 1:
        raise InputError(f"--runs is {runs}: must be >= 1")


def _replay(
    result: "Plan",
    loads: "tuple[Load, ...]",
    profiles: "ProfileSet",
    *,
    runs: int,
    seed: int,
    router: str = "least-outstanding",
    queue_order: str = "fcfs",
    system: str = "static",
    drain_s: float | None = None,
    timeline: Path | None = None,
) -> "tuple[Records, float]":
    """Simulate; with wall seconds. The spinner is on stderr."""
    import msgspec

    from scepsy.api.prepare import workload_of
    from sim.policies.systems import OTHER_ENGINES, SYSTEMS
    from sim.world.run import simulate as run
    from sim.world.timeline import Timeline

    if system not in (*SYSTEMS, *OTHER_ENGINES):
        raise InputError(f"--system is {system!r}: must be one of {', '.join((*SYSTEMS, *OTHER_ENGINES))}")
    if system in OTHER_ENGINES and (timeline is not None or router != "least-outstanding" or queue_order != "fcfs"):
        raise InputError(
            f"--system {system} has its own routing and no timeline: leave out --router, --queue-order and --timeline"
        )
    watched = Timeline() if timeline is not None else None
    workload = msgspec.structs.replace(workload_of(loads, runs=runs, seed=seed), drain_s=drain_s)
    began = time.perf_counter()
    with stderr.status("simulating"):
        if system in OTHER_ENGINES:
            outcome = OTHER_ENGINES[system](result, workload, profiles)
        else:
            outcome = run(
                result,
                workload,
                profiles=profiles,
                router=router,
                queue_order=queue_order,
                policies=SYSTEMS[system],
                timeline=watched,
            )
    wall_s = time.perf_counter() - began
    if watched is not None and timeline is not None:
        watched.save(timeline)
    return outcome, wall_s


@command
def validate(
    plan_file: PlanFile,
    max_latency: Annotated[float | None, typer.Option(help="Mean end-to-end latency must not exceed this, seconds.")] = None,
    max_p95: Annotated[float | None, typer.Option(help="The 95th percentile must not exceed this, seconds.")] = None,
    min_throughput: Annotated[float | None, typer.Option(help="Completed runs per second must reach this.")] = None,
    rate: Rate = None,
    runs: Annotated[int, typer.Option("--runs", "-n", help="Runs to issue.")] = 500,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Simulate a plan and check it against limits; exit 1 if it would miss any.

    Besides the limits given, every run must complete.

    Example: `scepsy validate rag.plan.yaml --max-latency 2.5 --max-p95 6`
    """
    from scepsy.metrics import summarise

    _check_runs(runs)
    limits = (("max_latency", max_latency), ("max_p95", max_p95), ("min_throughput", min_throughput))
    for name, limit in limits:
        if limit is not None and not 0 < limit < math.inf:
            raise InputError(f"--{name.replace('_', '-')} is {limit:g}: must be a finite number > 0")
    result, loads, profiles = _loaded(plan_file, rate)
    outcome, wall_s = _replay(result, loads, profiles, runs=runs, seed=seed)
    summary = summarise(outcome, wall_s=wall_s)
    checks = _checks(summary, max_latency, max_p95, min_throughput)
    ok = all(check["ok"] for check in checks)
    if as_json:
        emit_json({"ok": ok, "checks": checks, "runs": summary["runs"]})
    else:
        show_table("Would it hold?", ["check", "limit", "simulated", "ok"], [list(check.values()) for check in checks])
    if not ok:
        raise typer.Exit(1)


def _checks(
    summary: dict[str, Any], max_latency: float | None, max_p95: float | None, min_throughput: float | None
) -> list[dict[str, Any]]:
    latency, runs = summary["latency_s"], summary["runs"]
    rows: list[tuple[str, float, float, bool]] = [
        ("completed_runs", runs["issued"], runs["completed"], runs["completed"] == runs["issued"])
    ]
    if max_latency is not None:
        rows.append(("max_latency_s", max_latency, latency["mean"], latency["mean"] <= max_latency))
    if max_p95 is not None:
        rows.append(("max_p95_s", max_p95, latency["p95"], latency["p95"] <= max_p95))
    if min_throughput is not None:
        value = summary["throughput_per_s"]
        rows.append(("min_throughput_per_s", min_throughput, value, value >= min_throughput))
    return [{"name": name, "limit": limit, "value": value, "ok": bool(ok)} for name, limit, value, ok in rows]


@command
def report(
    plan_file: PlanFile,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML file; beside the plan when absent.")] = None,
    runs: Annotated[int, typer.Option("--runs", "-n", help="Runs per simulated point.")] = 300,
    seed: Seed = 0,
    jobs: Annotated[int, typer.Option(help="Processes that profile curves.")] = 2,
    as_json: Json = False,
) -> None:
    """Write one self-contained page about a plan: GPU map, expectations, simulated latency against rate, share stability.

    Example: `scepsy report rag.plan.yaml -o rag.html`
    """
    from scepsy.api.plan_page import FACTORS, rescaled, sweep_plan, write_plan_page
    from scepsy.search.problem import Goal

    _check_runs(runs)
    if output is not None and output.suffix != ".html":
        raise InputError(f"--output is {output}: must end in .html")
    result, loads, profiles = _loaded(plan_file, None)
    target = output or plan_file.with_name(plan_file.name.removesuffix(".yaml").removesuffix(".plan") + ".html")
    problem = _problem(loads, result.cluster, profiles, share_unit=10, goal=Goal(), seed=seed, jobs=jobs)
    with progress("simulating", len(FACTORS)) as advance:
        frame = sweep_plan(result, loads, lambda factor: rescaled(problem, factor), runs=runs, seed=seed, advance=advance)
    files = write_plan_page(target, result, loads, frame, problem, runs=runs, seed=seed)
    if as_json:
        emit_json(
            {"report": str(files[0]), "pictures": [str(file) for file in files[1:]], "rows": frame.to_dict(orient="records")}
        )
    else:
        stdout.print(f"wrote {files[0]} and {len(files) - 1} pictures beside it", highlight=False)
