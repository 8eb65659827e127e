"""``simulate`` and ``validate``: a plan replayed token by token, and checked against limits."""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scepsy.cli.options import Json, OtherRates, PlanFile, QueueOrderName, RouterName, Runs, Seed, SystemName
from scepsy.cli.output import command, emit_json, show_table, stderr, stdout
from scepsy.cli.question import read_plan
from scepsy.errors import InputError

if TYPE_CHECKING:
    from scepsy.api.prepare import Load
    from scepsy.plans import Plan
    from scepsy.profile.model import ProfileSet
    from scepsy.records import Records


@command
def simulate(
    plan_file: PlanFile,
    rate: OtherRates = None,
    runs: Runs = 500,
    seed: Seed = 0,
    router: Annotated[RouterName, typer.Option(help="How calls choose an instance.")] = "least-outstanding",
    queue_order: Annotated[QueueOrderName, typer.Option(help="Order of waiting calls.")] = "fcfs",
    system: Annotated[SystemName, typer.Option(help="How the cluster is run.")] = "static",
    drain: Annotated[float | None, typer.Option(help="Seconds after the last arrival; later runs are unfinished.")] = None,
    timeline: Annotated[Path | None, typer.Option(help="Write a Chrome/Perfetto trace here (.json).")] = None,
    records: Annotated[Path | None, typer.Option(help="Write PREFIX.runs.parquet and PREFIX.calls.parquet.")] = None,
    engine: Annotated[
        str, typer.Option(help="compiled (fast, static plans only), simpy (everything) or auto. Results are equal.")
    ] = "simpy",
    as_json: Json = False,
) -> None:
    """Replay the plan's trace against the plan, token by token.

    Example: `scepsy simulate rag.plan.yaml --runs 2000 --rate 10 --timeline rag.trace.json`
    """
    from scepsy.files.records import save_records
    from scepsy.metrics import summarise

    result, loads, profiles = read_plan(plan_file, rate)
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
        engine=engine,
    )
    if records is not None:
        save_records(records, outcome)
    summary = summarise(outcome, wall_s=wall_s)
    if as_json:
        emit_json(summary | {"engine": outcome.meta.get("engine", "simpy")})
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
    engine: str = "simpy",
) -> "tuple[Records, float]":
    """Simulate; with wall seconds. The spinner is on stderr."""
    import msgspec

    from scepsy.api.prepare import workload_of
    from sim.policies.systems import OTHER_ENGINES, SYSTEMS
    from sim.world.run import simulate as run
    from sim.world.timeline import Timeline

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
                engine=engine,
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
    rate: OtherRates = None,
    runs: Runs = 500,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Simulate a plan and check it against limits; exit 1 if it would miss any.

    Besides the limits given, every run must complete.

    Example: `scepsy validate rag.plan.yaml --max-latency 2.5 --max-p95 6`
    """
    from scepsy.metrics import summarise

    limits = (("max_latency", max_latency), ("max_p95", max_p95), ("min_throughput", min_throughput))
    for name, limit in limits:
        if limit is not None and not 0 < limit < math.inf:
            raise InputError(f"--{name.replace('_', '-')} is {limit:g}: must be a finite number > 0")
    result, loads, profiles = read_plan(plan_file, rate)
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
