"""``plan --rates``: a schedule of plans for a curve of rates, as a table, as files and as JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scepsy.cli.output import emit_json, progress_bar, show_table, stdout
from scepsy.errors import InputError

if TYPE_CHECKING:
    from scepsy.api.schedule import RatePiece, Schedule
    from scepsy.search.problem import Problem


def first_rates(path: Path, traces: list[Path]) -> list[float]:
    """The curve's highest rates by workflow, to state the problem with."""
    pieces, workflows = _pieces(path, traces)
    return [max(piece.rates_per_s[name] for piece in pieces) for name in workflows]


def _pieces(path: Path, traces: list[Path]) -> "tuple[list[RatePiece], list[str]]":
    from scepsy.api.schedule import read_rates
    from scepsy.cli.inputs import read_traces

    workflows = [name for trace, _ in read_traces(traces) for name in trace.workflows]
    return read_rates(path, workflows), workflows


def show_schedule(path: Path, traces: list[Path], problem: "Problem", output: Path | None, *, as_json: bool) -> None:
    """Make the schedule; write its plans beside ``output`` where that is given."""
    from scepsy.api.schedule import schedule

    if problem.goal.kind not in ("gpus", "cost"):
        raise InputError("--rates looks for the cheapest plans: give --goal gpus (or cost) and --max-latency SECONDS")
    pieces, _ = _pieces(path, traces)
    with progress_bar("planning", total=None) as advance:
        found = schedule(problem, pieces, advance)
    files = _save(found, output) if output is not None else []
    if as_json:
        emit_json(document(found, files))
        return
    show_table(
        "Schedule",
        ["from", "switch begins", *found.stretches[0].rates_per_s, "GPUs", "starts", "stops", "GPU-hours"],
        [
            [
                clock(one.begin_s),
                clock(one.switch_s),
                *one.rates_per_s.values(),
                len(one.plan.gpu_shares),
                len(one.change.started),
                len(one.change.stopped),
                one.gpu_s / 3600,
            ]
            for one in found.stretches
        ],
    )
    saved = 100 * (1 - found.gpu_hours / found.static_gpu_hours)
    stdout.print(
        f"{found.gpu_hours:.4g} GPU-hours; one plan for the highest rates all the time: {found.static_gpu_hours:.4g} "
        f"({len(found.static.gpu_shares)} GPUs), so the schedule saves {saved:.3g} %",
        highlight=False,
    )
    note = "Not counted: what waits while a switch drains and starts (scepsy operate and its simulation count it)."
    stdout.print(note, highlight=False)
    for name in files:
        stdout.print(f"wrote {name}", highlight=False)


def clock(seconds: float) -> str:
    """Time of day; before the curve's begin it is the end of the day before.

    >>> clock(3660.0), clock(-60.0)
    ('01:01:00', '23:59:00 the day before')
    """
    before = seconds < 0
    whole = round(seconds + 24 * 3600 if before else seconds)
    return f"{whole // 3600:02d}:{whole % 3600 // 60:02d}:{whole % 60:02d}" + (" the day before" if before else "")


def document(found: "Schedule", files: list[str]) -> dict[str, Any]:
    """The JSON document of ``plan --rates``."""
    return {
        "stretches": [
            {
                "begin_s": one.begin_s,
                "switch_s": one.switch_s,
                "duration_s": one.duration_s,
                "rates_per_s": dict(one.rates_per_s),
                "gpus": len(one.plan.gpu_shares),
                "started": len(one.change.started),
                "stopped": len(one.change.stopped),
                "gpu_hours": one.gpu_s / 3600,
                "latency_s": {e.workflow: e.latency_s for e in one.plan.expected},
                "plan": files[number] if files else None,
            }
            for number, one in enumerate(found.stretches)
        ],
        "gpu_hours": found.gpu_hours,
        "static_gpu_hours": found.static_gpu_hours,
        "static_gpus": len(found.static.gpu_shares),
    }


def _save(found: "Schedule", output: Path) -> list[str]:
    from scepsy.files.plan import save_plan

    stem = output.name.removesuffix(".yaml").removesuffix(".plan")
    names = []
    for one in found.stretches:
        path = output.with_name(f"{stem}-{clock(one.begin_s)[:5].replace(':', '')}.plan.yaml")
        save_plan(path, one.plan)
        names.append(str(path))
    return names
