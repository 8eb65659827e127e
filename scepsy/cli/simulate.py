"""``simulate`` and ``validate``: a plan replayed token by token, and checked against limits."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scepsy.cli.options import (
    Csv,
    EngineName,
    Json,
    ManyRuns,
    MostCalls,
    Objectives,
    OtherRates,
    PlanFile,
    Precision,
    QueueOrderName,
    RouterName,
    Seed,
    SystemName,
)
from scepsy.cli.outermost import require_writable
from scepsy.cli.output import command, emit_json, show_table, stderr, stdout
from scepsy.cli.question import read_plan, slo_of
from scepsy.errors import InputError

if TYPE_CHECKING:
    from scepsy.api.prepare import Load
    from scepsy.api.settle import Settled
    from scepsy.backend import Workload
    from scepsy.plans import Plan
    from scepsy.profile.model import ProfileSet
    from scepsy.records import Records
    from scepsy.slo import Slo

MOST_CALLS = 100_000
"""Calls of the longest replay: a few seconds."""


@command
def simulate(
    plan_file: PlanFile,
    rate: OtherRates = None,
    runs: ManyRuns = None,
    precision: Precision = 0.03,
    most_calls: MostCalls = MOST_CALLS,
    seed: Seed = 0,
    router: Annotated[RouterName, typer.Option(help="How calls choose an instance.")] = "least-outstanding",
    queue_order: Annotated[QueueOrderName, typer.Option(help="Order of waiting calls.")] = "fcfs",
    system: Annotated[SystemName, typer.Option(help="Which system runs the plan.")] = "static",
    drain: Annotated[
        float | None,
        typer.Option(
            help="Seconds after the last arrival at which the simulation ends; runs that last longer count as unfinished."
        ),
    ] = None,
    timeline: Annotated[Path | None, typer.Option(help="Write a Chrome/Perfetto trace here (.json).")] = None,
    records: Annotated[Path | None, typer.Option(help="Write PREFIX.runs.parquet and PREFIX.calls.parquet.")] = None,
    engine: Annotated[
        EngineName, typer.Option(help="compiled (fast, static plans only), simpy (everything) or auto. Results are equal.")
    ] = "auto",
    slo: Objectives = None,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Replay the plan's trace against the plan, token by token.

    Without --runs it goes on until every workflow's mean latency is known to --precision, or is shown not to keep up, or the
    budget of --most-calls ends. The warm-up is left out. What is not settled says so.

    Exit code 1 when a workflow does not keep up, or a run does not complete. With --runs, which may be too few to tell, only
    when one is shown not to keep up.

    Example: `scepsy simulate rag.plan.yaml --runs 2000 --rate 10 --timeline rag.trace.json`
    """
    from scepsy.api.settle import measurements
    from scepsy.files.records import save_records
    from scepsy.metrics import summarise

    if drain is not None and not 0 <= drain < math.inf:
        raise InputError(f"--drain is {drain:g}: must be a finite number of seconds >= 0")
    result, loads, profiles = read_plan(plan_file, rate)
    found, wall_s = _replay(
        result,
        loads,
        profiles,
        runs=runs,
        precision=precision,
        most_calls=most_calls,
        seed=seed,
        router=router,
        queue_order=queue_order,
        system=system,
        drain_s=drain,
        timeline=timeline,
        engine=engine,
    )
    if records is not None:
        save_records(records, found.records)
    summary = summarise(found.records, wall_s=wall_s) | measurements(found)
    told_slo = slo_document(slo_of(result, slo), found, loads)
    if told_slo is not None:
        summary["slo"] = told_slo
    lost = drain is None and summary["runs"]["completed"] < summary["runs"]["issued"]  # with --drain it was asked for
    code = 1 if lost or found.grows or (runs is None and not found.stable) else 0
    if as_json:
        emit_json(summary)
        _exit(code)
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
        "End-to-end latency (s), without the warm-up",
        ["workflow", "arrive/s", "complete/s", "mean", "p50", "p95", "p99", "stable"],
        [
            [
                name,
                one["offered_per_s"],
                one["throughput_per_s"],
                with_width(one["latency_s"]["mean"], one["latency_s"]["mean_half_width"]),
                *(one["latency_s"][key] for key in ("p50", "p95", "p99")),
                _standing(one),
            ]
            for name, one in summary["workflows"].items()
        ],
    )
    if summary["why"]:
        stdout.print(summary["why"], highlight=False)
    show_slo(told_slo)
    for path, what in ((timeline, "timeline"), (records, "records")):
        if path is not None:
            stdout.print(f"wrote {what} {path}", highlight=False)
    _exit(code)


def _exit(code: int) -> None:
    if code:
        raise typer.Exit(code)


def slo_document(slo: "Slo | None", found: "Settled", loads: "Sequence[Load]") -> dict[str, Any] | None:
    """What a simulation says of an SLO: verdict, checks, goodput; None without one."""
    from scepsy.api.objectives import checks_against, goodput, told

    if slo is None:
        return None
    checks = checks_against(slo, found, {load.workflow: load.arrivals.rate_per_s for load in loads})
    kept = all(check["ok"] for check in checks)
    return {"ok": kept, "verdict": told(checks), "checks": checks, "goodput": goodput(slo, found)}


def show_slo(document: dict[str, Any] | None) -> None:
    """Print goodput and the verdict on an SLO."""
    if document is None:
        return
    show_table(
        "Goodput",
        ["workflow", "within", "good %", "good runs/s"],
        [
            [
                g["workflow"],
                f"{g['within_s']:g} s ({g['within']})" if g["within"] else "completed",
                g["good_pct"],
                g["goodput_per_s"],
            ]
            for g in document["goodput"]
        ],
    )
    stdout.print(document["verdict"], highlight=False, markup=False)


def with_width(value: float | None, half_width: float | None) -> str:
    """A mean with its half-width, as a table shows it."""
    if value is None:
        return "-"
    return f"{value:.4g} ± " + ("?" if half_width is None else f"{half_width:.2g}")


def _standing(one: dict[str, Any]) -> str:
    if one["settled"]:
        return "yes"
    return {"stable": "yes, not settled", "unstable": "no"}.get(one["verdict"], "not settled")


def _replay(
    result: "Plan",
    loads: "tuple[Load, ...]",
    profiles: "ProfileSet",
    *,
    runs: int | None,
    precision: float,
    most_calls: int,
    seed: int,
    router: str = "least-outstanding",
    queue_order: str = "fcfs",
    system: str = "static",
    drain_s: float | None = None,
    timeline: Path | None = None,
    engine: str = "auto",
) -> "tuple[Settled, float]":
    """Simulate by the measuring rule; with the wall seconds of the last round. The spinner is on stderr."""
    import msgspec

    from scepsy.api.live import adaptive_policies
    from scepsy.api.settle import settle
    from sim.policies.systems import ADAPTIVE, OTHER_ENGINES, SYSTEMS
    from sim.world.run import simulate as run
    from sim.world.timeline import Timeline

    if system in OTHER_ENGINES and (timeline is not None or router != "least-outstanding" or queue_order != "fcfs"):
        raise InputError(
            f"--system {system} has its own routing and no timeline: leave out --router, --queue-order and --timeline"
        )
    if system in OTHER_ENGINES and engine == "compiled":
        raise InputError(f"engine is 'compiled', which does not model --system {system} (use 'simpy' or 'auto')")
    watched: Timeline | None = None
    wall_s = 0.0

    def replay(workload: "Workload") -> "Records":
        nonlocal watched, wall_s
        workload = msgspec.structs.replace(workload, drain_s=drain_s)
        began = time.perf_counter()
        if system in OTHER_ENGINES:
            outcome = OTHER_ENGINES[system](result, workload, profiles)
        else:
            watched = Timeline() if timeline is not None else None
            outcome = run(
                result,
                workload,
                profiles=profiles,
                router=router,
                queue_order=queue_order,
                policies=adaptive_policies(result, loads, profiles) if system == ADAPTIVE else SYSTEMS[system],
                timeline=watched,
                engine=engine,
            )
        wall_s = time.perf_counter() - began
        return outcome

    with stderr.status("simulating"):
        streams = [load.stream for load in loads]
        found = settle(replay, streams, seed=seed, precision=precision, most_calls=most_calls, runs=runs)
    if watched is not None and timeline is not None:
        watched.save(timeline)
    return found, wall_s


@command
def validate(
    plan_file: PlanFile,
    max_latency: Annotated[float | None, typer.Option(help="Mean end-to-end latency must not exceed this, seconds.")] = None,
    max_p95: Annotated[
        float | None, typer.Option(help="95th percentile of end-to-end latency must not exceed this, seconds.")
    ] = None,
    min_throughput: Annotated[float | None, typer.Option(help="Completed runs per second must reach this.")] = None,
    rate: OtherRates = None,
    runs: ManyRuns = None,
    precision: Precision = 0.03,
    most_calls: MostCalls = MOST_CALLS,
    seed: Seed = 0,
    slo: Objectives = None,
    junit: Annotated[Path | None, typer.Option(help="Write the checks as JUnit XML into this file.")] = None,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Simulate a plan and check it against limits; exit 1 if it would miss any.

    Every workflow by itself must keep up with its arrivals, complete all its runs, and keep each limit. A limit is kept when
    the whole 95 % interval is within it. Where the simulation ends before that is known, the check fails and says so. The SLO
    is the plan's own unless --slo is given.

    Example: `scepsy validate rag.plan.yaml --max-latency 2.5 --max-p95 6`
    """
    from scepsy.api.objectives import write_junit
    from scepsy.api.settle import checks_of, measurements
    from scepsy.metrics import counts

    if junit is not None:
        require_writable(junit, folder=False)
    limits = (("max_latency", max_latency), ("max_p95", max_p95), ("min_throughput", min_throughput))
    for name, limit in limits:
        if limit is not None and not 0 < limit < math.inf:
            raise InputError(f"--{name.replace('_', '-')} is {limit:g}: must be a finite number > 0")
    result, loads, profiles = read_plan(plan_file, rate)
    wanted = slo_of(result, slo)
    began = time.perf_counter()
    found, _ = _replay(result, loads, profiles, runs=runs, precision=precision, most_calls=most_calls, seed=seed)
    checks = [
        check for name, one in found.by_workflow.items() for check in checks_of(name, one, max_latency, max_p95, min_throughput)
    ]
    told_slo = slo_document(wanted, found, loads)
    if told_slo is not None:
        checks = told_slo["checks"] + [c for c in checks if c["name"] not in ("keeps_up", "completed_runs")]
    ok = all(check["ok"] for check in checks)
    summary = measurements(found) | ({"slo": told_slo} if told_slo is not None else {})
    if junit is not None:
        write_junit(junit, plan_file.name, checks, time.perf_counter() - began)
    if as_json:
        emit_json({"ok": ok, "checks": checks, "runs": counts(found.records.runs)} | summary)
    else:
        show_table(
            "Would it hold?",
            ["workflow or LLM", "check", "limit", "simulated", "ok"],
            [
                [
                    c.get("llm") or c["workflow"],
                    c["name"],
                    c["limit"],
                    with_width(c["value"], c["half_width"]),
                    "yes" if c["ok"] else "no",
                ]
                for c in checks
            ],
        )
        for why in dict.fromkeys(f"{c.get('llm') or c['workflow']}: {c['why']}" for c in checks if c["why"]):
            stdout.print(why, highlight=False)
        show_slo(told_slo)
    if not ok:
        raise typer.Exit(1)
