"""``--target local``: the deploying commands on this host, by ``executor.local``."""

from pathlib import Path
from typing import Any

import typer

from scepsy.cli.deploy_inputs import check_by_simulation, read_pairs, read_plan
from scepsy.cli.output import emit_json, notify, show_table, stdout
from scepsy.errors import InputError


def apply(
    path: Path,
    profiles: Path | None,
    options: Path | None,
    release: str | None,
    models: list[str] | None = None,
    *,
    validate: bool,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    """Start a plan's engines and gateway here, and return when they serve."""
    import msgspec

    from executor.engine import require_llms
    from executor.local import deployment
    from executor.local.options import load_options, options_beside

    plan, known = read_plan(path, profiles)
    if validate:
        check_by_simulation(plan, known, path)
    settings = options_beside(path) if options is None else load_options(options)
    if timeout_s is not None:
        if not 0 < timeout_s < 1e6:
            raise InputError(f"--timeout is {timeout_s:g}: must be a number of seconds > 0")
        settings = msgspec.structs.replace(settings, start_timeout_s=timeout_s)
    settings = msgspec.structs.replace(settings, models={**settings.models, **read_pairs("--as", models or [])})
    require_llms(plan, models=settings.models)
    folder = deployment.default_folder(release if release is not None else "default")

    deployment.apply(plan, known, settings, folder, notify)
    _show(deployment.status(folder), as_json)


def status(release: str | None, *, as_json: bool) -> None:
    """Print what runs here; exit 1 unless all of it is as planned: supervisor, gateway and every engine."""
    from executor.local import deployment

    found = deployment.status(deployment.default_folder(release if release is not None else "default"))
    _show(found, as_json)
    if found["phase"] != "healthy" or not found["instances"]:
        raise typer.Exit(1)


def delete(release: str | None, *, force: bool, as_json: bool) -> None:
    """Stop everything that was started here; ``force``: also where the state file cannot be trusted."""
    from executor.local import deployment

    name = release if release is not None else "default"
    stopped = deployment.delete(deployment.default_folder(name), force=force)
    if as_json:
        emit_json({"release": name, "stopped": stopped})
    else:
        stdout.print(f"{name}: {'stopped' if stopped else 'nothing was running'}", highlight=False)


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit_json(found)
        return
    stdout.print(f"{found['phase']}, gateway {found['gateway'] or '–'}", highlight=False)
    columns = ["instance", "phase", "url", "restarts", "problem"]
    show_table("Instances", columns, [[each[column] for column in columns] for each in found["instances"]])
    if found["problem"]:
        stdout.print(f"problem: {found['problem']}", highlight=False, markup=False)
    for note in found["notes"]:
        stdout.print(f"note: {note}", highlight=False, markup=False)
