"""``operate``: watch a running deployment, say when another plan would be better, and switch when allowed to."""

import math
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from scepsy.cli.deploy import Context, Namespace
from scepsy.cli.folders import write_folder
from scepsy.cli.operated import Operated, operated
from scepsy.cli.options import Json, PlanFile, Seed
from scepsy.cli.output import command, emit_json, stderr, stdout
from scepsy.errors import InputError

if TYPE_CHECKING:
    from executor.operate.operator import Operator
    from scepsy.operate.settings import Settings


@command
def operate(
    plan_file: PlanFile,
    act: Annotated[
        bool, typer.Option("--act/--advise", help="Switch plans, or only say what would be done (default).")
    ] = False,
    kubernetes: Annotated[
        bool,
        typer.Option("--kubernetes", help="Watch a release on a cluster (`apply --target dra`, mps or hami), not this host."),
    ] = False,
    namespace: Namespace = None,
    context: Context = "",
    release: Annotated[
        str | None, typer.Option("--release", help="Name of the deployment [default; with --kubernetes: scepsy].")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", help="With --kubernetes: seconds that an instance may take to start [900, large models more]."
        ),
    ] = None,
    recording: Annotated[
        Path | None,
        typer.Option(help="The gateway's recording [default: the deployment's; with --kubernetes it must be given]."),
    ] = None,
    goal: Annotated[
        Literal["latency", "gpus"], typer.Option(help="Lowest latency, or fewest GPUs within the limit.")
    ] = "latency",
    max_latency: Annotated[float | None, typer.Option(help="Latency limit of every workflow, seconds.")] = None,
    percentile: Annotated[float | None, typer.Option(help="The limit bounds this percentile instead of the mean.")] = None,
    horizon: Annotated[float, typer.Option(help="Seconds that a new load is taken to last.")] = 3600.0,
    min_between: Annotated[float, typer.Option(help="Least seconds between two switches.")] = 600.0,
    max_started: Annotated[int, typer.Option(help="Instances that one switch may start.")] = 8,
    gpus_from: Annotated[int, typer.Option("--gpus-from", help="Fewest GPUs that a plan may use.")] = 1,
    gpus_to: Annotated[int | None, typer.Option("--gpus-to", help="Most GPUs that a plan may use.")] = None,
    alarms_per_week: Annotated[float, typer.Option(help="False alarms that are allowed on a load that stays.")] = 1.0,
    look: Annotated[float, typer.Option(help="Seconds between two looks.")] = 10.0,
    run_idle: Annotated[float, typer.Option(help="A run has ended when it has made no call for so many seconds.")] = 30.0,
    port: Annotated[int | None, typer.Option(help="Page and metrics on this port of 127.0.0.1; 0: any free one.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    explain: Annotated[str | None, typer.Option(help="Do not look: explain line LAST, or its number, of the log.")] = None,
    grafana: Annotated[
        Path | None, typer.Option(help="Do not look: write Grafana's dashboard and its provisioning files into this folder.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Watch a deployment (`apply --target local`, or a cluster's with --kubernetes) and re-plan when its load has changed.

    With --advise nothing is ever changed. With --act plans are switched: drained first, rolled back when the new one does not
    come up. `touch FOLDER/freeze` stops acts, Ctrl-C ends it.

    Example: `scepsy operate rag.plan.yaml --advise --port 0`
    """
    if grafana is not None:
        if as_json:
            raise InputError("--grafana writes files and has no document: leave --json out")
        _write_grafana(grafana, port or METRICS_PORT)
        return
    what = operated(kubernetes=kubernetes, namespace=namespace, context=context, release=release, timeout_s=timeout)
    if explain is not None:
        _explain(what.folder, explain, as_json=as_json)
        return
    settings = _settings(
        goal=goal,
        max_latency=max_latency,
        percentile=percentile,
        plan_file=plan_file,
        horizon_s=horizon,
        min_between_s=min_between,
        most_started=max_started,
        gpus_from=gpus_from,
        gpus_to=gpus_to,
        alarms_per_week=alarms_per_week,
        look_s=look,
    )
    one = _operator(plan_file, what, settings, recording, act=act, run_idle_s=run_idle, seed=seed)
    with one.alone():
        one.start()
        if once:
            _show(one, one.look(), as_json=as_json)
            return
        _run(one, port)
        if as_json:
            _show(one, one.journal.entries[-1], as_json=True)


METRICS_PORT = 9464
"""Where Prometheus is told to look when no --port was named."""


def _write_grafana(folder: Path, port: int) -> None:
    from executor.operate.grafana import bundle

    made = bundle(folder, port)
    write_folder(folder, made, "--grafana")
    stdout.print(f"wrote {folder}: {', '.join(sorted(made))}", highlight=False, markup=False, soft_wrap=True)
    stdout.print(f"for scepsy operate --port {port}", highlight=False, markup=False)


def _settings(*, goal: str, max_latency: float | None, percentile: float | None, plan_file: Path, **fields: Any) -> "Settings":
    from scepsy.files.plan import load_plan
    from scepsy.operate.settings import Settings

    if max_latency is not None and not 0 < max_latency < math.inf:
        raise InputError(f"--max-latency is {max_latency:g}: must be a finite number of seconds > 0")
    if goal == "gpus" and max_latency is None:
        raise InputError("--goal gpus needs a limit: give --max-latency SECONDS")
    workflows = [target.workflow for target in load_plan(plan_file).targets]
    limits = dict.fromkeys(workflows, max_latency) if max_latency is not None else {}
    try:
        return Settings(goal=goal, limits_s=limits, percentile=percentile, **fields)  # type: ignore[arg-type]
    except ValueError as error:
        raise InputError(_as_option(str(error))) from error


OPTIONS = {
    "horizon_s": "--horizon",
    "min_between_s": "--min-between",
    "most_started": "--max-started",
    "gpus_from": "--gpus-from",
    "gpus_to": "--gpus-to",
    "alarms_per_week": "--alarms-per-week",
    "look_s": "--look",
    "percentile": "--percentile",
}


def _as_option(message: str) -> str:
    name = message.partition(" ")[0]
    return message.replace(name, OPTIONS.get(name, name), 1)


def _operator(
    plan_file: Path, what: Operated, settings: "Settings", recording: Path | None, *, act: bool, run_idle_s: float, seed: int
) -> "Operator":
    from executor.operate.live import LiveRuns
    from executor.operate.operator import Operator
    from executor.operate.tail import Tail
    from scepsy.api.live import LivePlanner
    from scepsy.cli.question import read_plan
    from scepsy.files.cache import cache_dir

    if not 0 < run_idle_s < math.inf:
        raise InputError(f"--run-idle is {run_idle_s:g}: must be a finite number of seconds > 0")
    plan, loads, profiles = read_plan(plan_file, None)
    target = what.target(profiles)
    running = target.running()  # before anything is made: there must be a deployment
    strangers = sorted({i.llm for i in running.instances} ^ {i.llm for i in plan.instances})
    strangers += sorted(running.other_names.keys() ^ plan.other_names.keys())
    if strangers:
        raise InputError(
            f"{plan_file}: its LLMs are not those of the deployment ({', '.join(strangers)}): give the plan that was applied"
        )
    traces = {load.workflow: load.trace for load in loads}
    planner = LivePlanner(traces, profiles, settings, seed=seed, cache_dir=cache_dir())

    def say(line: str) -> None:
        stderr.print(line, highlight=False, markup=False)

    return Operator(
        folder=what.folder / "operate",
        target=target,
        tail=Tail(recording if recording is not None else what.recording()),
        live=LiveRuns([load.workflow for load in loads], run_idle_s, plan.other_names),
        settings=settings,
        references=lambda _: planner.references(plan),
        replan=planner.replan,
        validate=planner.validate,
        mode="act" if act else "advise",
        notify=say,
    )


def _run(one: "Operator", port: int | None) -> None:
    from executor.operate.operator import FREEZE
    from executor.operate.page import Server

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    server = Server(one, port) if port is not None else None
    does = "acts" if one.mode == "act" else "advises"
    where = f"; page and metrics at {server.url}" if server is not None else ""
    stderr.print(f"{does}; to freeze: touch {one.folder / FREEZE}{where}", highlight=False, markup=False, soft_wrap=True)
    try:
        one.run(stop)
    finally:
        if server is not None:
            server.close()


def _explain(folder: Path, which: str, *, as_json: bool) -> None:
    from executor.operate.journal import document, explained, read
    from executor.operate.operator import LOG

    path = folder / "operate" / LOG
    entries = read(path)
    if not entries:
        raise InputError(f"{path}: no decisions yet (has scepsy operate run?)")
    if which.upper() == "LAST":
        entry = next((each for each in reversed(entries) if each.decision is not None), entries[-1])
    else:
        chosen = [each for each in entries if str(each.number) == which]
        if not chosen:
            raise InputError(f"--explain is {which!r}: must be LAST or a number from 1 to {entries[-1].number}")
        entry = chosen[0]
    if as_json:
        emit_json(document(entry))
        return
    for line in explained(entry):
        stdout.print(line, highlight=False, markup=False, soft_wrap=True)


def _show(one: "Operator", entry: Any, *, as_json: bool) -> None:
    from executor.operate.journal import document, explained

    shown = entry if entry is not None else one.journal.entries[-1]
    if as_json:
        emit_json(document(shown))
        return
    if entry is None:
        told = "nothing can be said of the load" if one.blind else "the load is what the plan was made for"
        stdout.print(told, highlight=False)
        return
    for line in explained(shown):
        stdout.print(line, highlight=False, markup=False, soft_wrap=True)
