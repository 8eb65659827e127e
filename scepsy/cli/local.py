"""``scepsy apply|status|delete --target local``: what the command line does on this host."""

import os
from pathlib import Path
from typing import Any

import msgspec

from executor.local import deployment
from executor.local.options import LocalOptions
from scepsy.cli.deploying import check_by_simulation
from scepsy.cli.output import emit_json, show_table, stderr, stdout
from scepsy.errors import InputError
from scepsy.files.document import read_yaml
from scepsy.files.plan import load_plan
from scepsy.files.profiles import load_profiles
from scepsy.plan import Plan
from scepsy.profile.model import ProfileSet

FORMAT, VERSION = "scepsy.local", 1

OPTIONS = "SCEPSY_LOCAL_OPTIONS"
"""Environment variable: the options file, where it is not ``local.yaml`` beside the plan."""

FOLDER = "SCEPSY_LOCAL_FOLDER"
"""Environment variable: where state and logs are kept."""


def state_folder() -> Path:
    """Where the deployment's state and logs are."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else deployment.default_folder()


def read_options(plan_path: Path) -> LocalOptions:
    """``$SCEPSY_LOCAL_OPTIONS``, else ``local.yaml`` beside the plan, else the defaults; its paths are relative to itself."""
    named = os.environ.get(OPTIONS)
    path = Path(named) if named else plan_path.parent / "local.yaml"
    if not named and not path.exists():
        return LocalOptions()
    options = read_yaml(path, LocalOptions, FORMAT, VERSION)
    models = {llm: _resolved(path.parent, model) for llm, model in options.models.items()}
    record = str((path.parent / options.record).absolute()) if options.record else ""
    return msgspec.structs.replace(options, models=models, record=record)


def _resolved(folder: Path, model: str) -> str:
    """A model folder relative to the options file; a hub name stays what it is."""
    return str((folder / model).absolute()) if (folder / model).is_dir() else model


def read_plan(path: Path, profiles: Path | None) -> tuple[Plan, ProfileSet]:
    """The plan, and the profiles given or named by it."""
    plan = load_plan(path)
    if profiles is None and not plan.profiles:
        raise InputError(f"{path}: profiles is empty: name a profiles file with --profiles")
    return plan, load_profiles(profiles if profiles is not None else path.parent / plan.profiles)


def apply(plan: Path, *, profiles: Path | None, validate: bool, timeout_s: float, as_json: bool) -> None:
    """Start the plan's engines and a gateway on this host and wait until they serve."""
    read, known = read_plan(plan, profiles)
    if validate:
        check_by_simulation(read, known, plan)
    options = msgspec.structs.replace(read_options(plan), start_timeout_s=timeout_s)
    state = deployment.apply(read, known, options, state_folder(), lambda line: stderr.print(line, highlight=False))
    assert state.gateway is not None
    if as_json:
        emit_json({"gateway": state.gateway.url, "folder": str(state_folder()), "instances": _rows(state.children)})
        return
    stdout.print(f"serving at {state.gateway.url}/v1 (logs: {state_folder()})", highlight=False, soft_wrap=True)


def _rows(children: Any) -> list[dict[str, Any]]:
    return [{"instance": child.name, "llm": child.llm, "url": child.url} for child in children]


def status(*, as_json: bool) -> None:
    """Show what runs, with the engines' live metrics."""
    document = deployment.status(state_folder())
    if as_json:
        emit_json(document)
        return
    stdout.print(f"{document['phase']}; gateway {document['gateway'] or 'none'}", highlight=False, soft_wrap=True)
    for line in filter(None, [document["problem"], *document["notes"]]):
        stdout.print(line, highlight=False, markup=False, soft_wrap=True)
    numbers = ("running", "waiting", "kv_cache_used", "requests", "prompt_tokens", "generated_tokens")
    show_table(
        "instances",
        ["instance", "phase", "restarts", *(name.replace("_", " ") for name in numbers), "problem"],
        [
            [
                row["instance"],
                row["phase"],
                row["restarts"],
                *((row["metrics"] or {}).get(name) for name in numbers),
                row["problem"],
            ]
            for row in document["instances"]
        ],
    )


def delete(*, as_json: bool) -> None:
    """Stop everything that ``apply`` started."""
    stopped = deployment.delete(state_folder())
    if as_json:
        emit_json({"stopped": stopped})
    else:
        stdout.print("stopped" if stopped else "nothing was running")
