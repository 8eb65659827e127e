"""What the deploying commands share: options and plans turned into values, the check by simulation, progress."""

import importlib.util
from collections.abc import Callable
from math import fsum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scepsy.cli.folders import write_folder
from scepsy.cli.output import emit_json, show_table, stderr, stdout
from scepsy.errors import InputError, ScepsyError

if TYPE_CHECKING:
    from executor.cluster.api import Api
    from executor.cluster.waits import Event, WaitLimits
    from executor.manifests import Rendered, RenderOptions
    from scepsy.plans import Plan
    from scepsy.profile.model import ProfileSet

TARGETS = ("dra", "mps", "hami", "local")


def check_by_simulation(plan: "Plan", profiles: "ProfileSet", path: Path) -> None:
    """Replay the plan at its target rates for ten expected latencies. Raises ``ScepsyError`` (exit 1) when it falls behind."""
    import math

    from scepsy.backend import Stream, Workload
    from scepsy.cli.inputs import plan_inputs
    from scepsy.metrics import summarise
    from sim.world.run import simulate

    remedy = "plan for a lower rate or more GPUs (or --no-validate)"
    latency_s = max((each.latency_s for each in plan.expected), default=10.0)
    if not math.isfinite(latency_s):
        raise ScepsyError(f"{path}: expected.latency_s is infinite: this plan cannot carry its target rates: {remedy}")
    rate_per_s = fsum(target.arrivals.rate_per_s or 0.0 for target in plan.targets) or 1.0
    runs = min(max(math.ceil(10 * latency_s * rate_per_s), 200), 5000)
    traces, _ = plan_inputs(plan, path)
    streams = tuple(
        Stream(trace=trace, arrivals=target.arrivals) for target, (trace, _) in zip(plan.targets, traces, strict=True)
    )
    records = simulate(plan, Workload(streams=streams, runs=runs), profiles=profiles)
    counts = summarise(records)["runs"]
    lost = counts["issued"] - counts["completed"]
    if lost:
        raise ScepsyError(f"{path}: simulated at its target rates, {lost} of {counts['issued']} runs do not complete: {remedy}")
    arrivals, ends = records.runs["arrival_s"].to_numpy(), records.runs["end_s"].to_numpy()
    # From the time when runs have begun to leave until the last one comes, as many must leave as come.
    begin_s, end_s = min(2 * latency_s, arrivals.max() / 2), arrivals.max()
    came, left = ((times >= begin_s) & (times < end_s) for times in (arrivals, ends))
    if left.sum() < 0.85 * came.sum():
        raise ScepsyError(
            f"{path}: simulated at its target rates it falls behind: {left.sum()} runs end while {came.sum()} arrive: {remedy}"
        )


def read_plan(path: Path, profiles: Path | None) -> "tuple[Plan, ProfileSet]":
    """A plan file and its profiles: the given ones, else those that it names."""
    from scepsy.files.plan import load_plan
    from scepsy.files.profiles import load_profiles

    plan = load_plan(path)
    if profiles is None and not plan.profiles:
        raise InputError(f"{path}: profiles is empty: the plan names no profiles file: give --profiles FILE")
    return plan, load_profiles(profiles or path.parent / plan.profiles)


def read_options(
    path: Path | None,
    target: str | None,
    namespace: str | None,
    release: str | None,
    models: list[str] | None = None,
    gateway_image: str | None = None,
) -> "RenderOptions":
    """The deploy file's options, or the defaults, with what the command line says instead.

    ``models``: ``NAME=MODEL`` each, what engines load for an LLM.
    """
    import msgspec

    from executor.manifests import RenderOptions
    from scepsy.files.document import read_yaml

    base = RenderOptions() if path is None else read_yaml(path, RenderOptions, "scepsy.deploy", 1)
    if target is not None and target not in TARGETS:
        raise InputError(f"--target is {target!r}: must be one of {', '.join(TARGETS)}")
    if target == "local":
        raise InputError("--target local: goes with apply, status and delete only (there are no manifests for one host)")
    given = {"target": target, "namespace": namespace, "release": release, "gateway_image": gateway_image}
    chosen = {**base.models, **read_pairs("--as", models or [])}
    try:
        return msgspec.structs.replace(base, models=chosen, **{key: value for key, value in given.items() if value is not None})
    except ValueError as error:
        raise InputError(f"--{error}") from error


def connect(options: "RenderOptions", context: str) -> "Api":
    """A connection to the cluster of a kubeconfig context, within the options' namespace."""
    from executor.cluster import connect as cluster

    return cluster.connect(options.namespace, context=context)


def read_limits(timeout: float, gate: str) -> "WaitLimits":
    """``--timeout`` and ``--gate`` as limits."""
    from executor.cluster.waits import WaitLimits

    if gate not in ("ready", "scheduled"):
        raise InputError(f"--gate is {gate!r}: must be ready or scheduled")
    if not 0 < timeout < 1e6:
        raise InputError(f"--timeout is {timeout:g}: must be a number of seconds > 0")
    return WaitLimits(start_s=timeout, gate=gate)  # type: ignore[arg-type]  # narrowed by the tuple above


def event_printer() -> "Callable[[Event], None]":
    """Prints what happens, a line each, on stderr."""

    def show(event: "Event") -> None:
        after = f" after {event.after_s:.1f} s" if event.after_s >= 0.05 else ""
        stderr.print(f"{event.what}: {event.name}{after}", highlight=False, markup=False)

    return show


def read_pairs(option: str, items: list[str]) -> dict[str, str]:
    """Repeated KEY=VALUE options as a mapping."""
    found = {}
    for item in items:
        key, _, value = item.rpartition("=")
        if not key or not value:
            raise InputError(f"{option} is {item!r}: must be KEY=VALUE")
        found[key] = value
    return found


def write_base(folder: Path, made: "Rendered", *, as_json: bool) -> None:
    """Write a Kustomize base. Raises ``InputError`` when the folder cannot be written."""
    from executor.manifests.kustomize import kustomize_base

    written = kustomize_base(made)
    warn_unpinned(made)
    write_folder(folder, written, "--kustomize")
    if as_json:
        emit_json({"plan": made.plan_hash, "files": sorted(written)})
    else:
        stdout.print(f"wrote {folder}: {', '.join(sorted(written))}", highlight=False)


def warn_unpinned(made: "Rendered") -> None:
    """Say which images are named by a tag."""
    if made.unpinned:
        line = f"note: not pinned by digest (NAME@sha256:…), so nodes may run different builds: {', '.join(made.unpinned)}"
        stderr.print(line, highlight=False, markup=False)


def require_client() -> None:
    """Raise ``InputError`` when the Kubernetes client is not installed: it is an extra."""
    if importlib.util.find_spec("kubernetes") is None:
        raise InputError("the Kubernetes client is not installed: pip install 'scepsy[k8s]'")


def show_dry(made: "Rendered", as_json: bool) -> None:
    """What a dry run would have applied."""
    rows = [[obj["kind"], obj["metadata"]["name"]] for obj in made.objects]
    if as_json:
        emit_json({"plan": made.plan_hash, "objects": [{"kind": kind, "name": name} for kind, name in rows]})
    else:
        show_table(f"plan {made.plan_hash}: would be applied", ["kind", "name"], rows)


def show_status(found: dict[str, Any]) -> None:
    """A status document as a table, and its drift."""
    stdout.print(f"release {found['release']}: {found['state']}, plan {found['plan'] or '–'}", highlight=False)
    if found["instances"]:
        show_table(
            "Instances",
            ["instance", "node", "GPUs", "share %", "ready", "restarts", "running", "waiting", "problem"],
            [
                [
                    each["instance"],
                    each["node"]["actual"] or f"({each['node']['planned']})",
                    ", ".join(each["gpus"]["planned"]),
                    each["share_pct"],
                    each["ready"],
                    each["restarts"],
                    (each["load"] or {}).get("num_requests_running"),
                    (each["load"] or {}).get("num_requests_waiting"),
                    each["problem"],
                ]
                for each in found["instances"]
            ],
        )
    for line in found["drift"]:
        stdout.print(f"drift: {line}", highlight=False, markup=False)
