"""``render``, ``diff``, ``apply``, ``wait``, ``status``, ``delete``, ``discover``: a plan on a cluster, or on this host."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from scepsy.cli import deploy_local
from scepsy.cli.deploy_inputs import (
    check_by_simulation,
    connect,
    event_printer,
    read_limits,
    read_options,
    read_pairs,
    read_plan,
    require_client,
    show_dry,
    show_status,
    warn_unpinned,
    write_base,
)
from scepsy.cli.options import Csv, Json
from scepsy.cli.output import command, emit_json, stderr, stdout
from scepsy.errors import InputError

if TYPE_CHECKING:
    from executor.manifests import Rendered, RenderOptions
    from scepsy.plans import Plan
    from scepsy.profile.model import ProfileSet

PlanFile = Annotated[Path, typer.Argument(help="A plan file, as `scepsy plan -o` writes it.")]
Target = Annotated[str | None, typer.Option("--target", "-t", help="dra (default), mps, hami, or local: this host.")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace of the release [default: scepsy].")]
Release = Annotated[str | None, typer.Option("--release", help="Name of the deployment; a new plan under it replaces the old.")]
Context = Annotated[str, typer.Option("--context", help="Context of the kubeconfig; the current one when absent.")]
Settings = Annotated[
    Path | None, typer.Option("--options", help="Deploy file (format: scepsy.deploy; scepsy.local for local).")
]
Models = Annotated[
    list[str] | None,
    typer.Option("--as", help="NAME=MODEL: what engines load for an LLM (Hugging Face name or path), instead of the plan's."),
]
GatewayImage = Annotated[
    str | None,
    typer.Option("--gateway-image", help="Image with Scepsy installed; there is no public one (see: docs/kubernetes.md)."),
]
Profiles = Annotated[Path | None, typer.Option("--profiles", "-p", help="Profiles file; the plan's own when absent.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds that one instance may take to start.")]
Gate = Annotated[str, typer.Option("--gate", help="ready: instances must serve. scheduled: they must be bound to their node.")]


@command
def render(
    plan: PlanFile,
    target: Target = None,
    output: Annotated[Literal["yaml", "json"], typer.Option("--output", "-o", help="yaml or json.")] = "yaml",
    namespace: Namespace = None,
    release: Release = None,
    options: Settings = None,
    models: Models = None,
    gateway_image: GatewayImage = None,
    profiles: Profiles = None,
    kustomize: Annotated[Path | None, typer.Option(help="Folder to write a Kustomize base into, instead of printing.")] = None,
    example: Annotated[
        bool,
        typer.Option(
            "--example-cluster",
            help="Render before a cluster exists: GPU UUIDs are made up, and every object is marked as an example.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Print a plan's Kubernetes manifests, for `kubectl apply -f -`, or write them as a Kustomize base.

    With --example-cluster a plan for a preset or `--gpus N` can be rendered as well, to see what one would get.

    Example: `scepsy render rag.plan.yaml --target dra | kubectl apply --server-side -f -`
    """
    from executor.manifests import to_json, to_yaml

    chosen = read_options(options, target, namespace, release, models, gateway_image)
    result, known = read_plan(plan, profiles)
    if example:
        from executor.manifests.example import MARK, WARNING, example_options, example_plan, mark

        made = _render(example_plan(result), known, example_options(result, known, chosen))
        mark(made.objects)
        _note(f"{WARNING}; every object has the annotation {MARK}")
    else:
        made = _render(result, known, chosen)
    if kustomize is not None:
        write_base(kustomize, made, as_json=as_json)
        return
    as_text = to_json if as_json or output == "json" else to_yaml
    if example and as_text is to_yaml:
        typer.echo(f"# EXAMPLE: {WARNING}")
    typer.echo(as_text(made.objects, chosen.namespace), nl=False)


@command
def diff(
    plan: PlanFile,
    target: Target = None,
    namespace: Namespace = None,
    release: Release = None,
    options: Settings = None,
    models: Models = None,
    gateway_image: GatewayImage = None,
    profiles: Profiles = None,
    context: Context = "",
    as_json: Json = False,
) -> None:
    """Show what `apply` would change on the cluster; exit 1 if anything.

    Example: `scepsy diff rag.plan.yaml --target dra`
    """
    require_client()
    from executor.cluster.diff import diff as differences

    chosen = read_options(options, target, namespace, release, models, gateway_image)
    found = list(differences(connect(chosen, context), _render(*read_plan(plan, profiles), chosen)))
    if as_json:
        emit_json({"differences": found})
    else:
        typer.echo("".join(found), nl=False)
    if found:
        raise typer.Exit(1)


@command
def apply(
    plan: PlanFile,
    target: Target = None,
    namespace: Namespace = None,
    release: Release = None,
    options: Settings = None,
    models: Models = None,
    gateway_image: GatewayImage = None,
    profiles: Profiles = None,
    context: Context = "",
    dry_run: Annotated[
        str, typer.Option("--dry-run", help="client: only print. server: let the API server check, and store nothing.")
    ] = "",
    validate: Annotated[bool, typer.Option(help="Simulate the plan at its target rates first.")] = True,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            help="Seconds that an instance may take to start [900, large models more; local: start_timeout_s].",
        ),
    ] = None,
    gate: Gate = "ready",
    as_json: Json = False,
) -> None:
    """Run a plan: create, change or replace what is there, instance by instance, and wait until it serves.

    Cut off at any point and run again, it goes on. A plan that does not come to serve gives way to the one before it.

    Example: `scepsy apply rag.plan.yaml --target dra`
    """
    if dry_run not in ("", "client", "server"):
        raise InputError(f"--dry-run is {dry_run!r}: must be client or server")
    if target == "local":
        deploy_local.apply(plan, profiles, options, release, models, validate=validate, timeout_s=timeout, as_json=as_json)
        return
    chosen = read_options(options, target, namespace, release, models, gateway_image)
    read = read_plan(plan, profiles)
    if validate:
        check_by_simulation(read[0], read[1], plan)
    made = _render(*read, chosen)
    if dry_run == "client":
        show_dry(made, as_json)
        return
    require_client()
    api = connect(chosen, context)
    if dry_run == "server":
        from executor.cluster.preflight import preflight, rehearse

        preflight(api, made)
        rehearse(api, made.objects)
        show_dry(made, as_json)
        return
    from executor.cluster.apply import apply as bring

    patience = max(900.0, made.start_timeout_s + 60.0) if timeout is None else timeout
    done = bring(api, made, limits=read_limits(patience, gate), on_event=event_printer())
    warn_unpinned(made)
    document = {
        "plan": done.plan_hash,
        "kept": done.kept,
        "started": done.started,
        "stopped": done.stopped,
        "written": done.requests,
    }
    if as_json:
        emit_json(document)
    else:
        stdout.print(
            f"plan {done.plan_hash} serves: {done.started} started, {done.kept} kept, {done.stopped} stopped", highlight=False
        )


@command
def wait(
    namespace: Namespace = None,
    release: Release = None,
    context: Context = "",
    timeout: Timeout = 900.0,
    gate: Gate = "ready",
    as_json: Json = False,
) -> None:
    """Wait until every instance of the release serves.

    Example: `scepsy wait --timeout 600`
    """
    require_client()
    from executor.cluster.status import recorded
    from executor.cluster.waits import bring_up

    chosen = read_options(None, None, namespace, release)
    api = connect(chosen, context)
    wanted = recorded(api, chosen.release)
    bring_up(api, chosen.release, (), wanted.engines, lambda engine: None, read_limits(timeout, gate), event_printer())
    if as_json:
        emit_json({"plan": wanted.plan_hash, "serving": len(wanted.engines)})
    else:
        stdout.print(f"plan {wanted.plan_hash}: all {len(wanted.engines)} instances serve", highlight=False)


@command
def status(
    target: Target = None,
    namespace: Namespace = None,
    release: Release = None,
    context: Context = "",
    metrics: Annotated[bool, typer.Option(help="Ask the engines how busy they are.")] = True,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Desired against actual, instance by instance; exit 1 unless all is as planned.

    Example: `scepsy status --json`
    """
    if target == "local":
        deploy_local.status(release, as_json=as_json)
        return
    require_client()
    from executor.cluster.status import status as state_of

    chosen = read_options(None, None, namespace, release)
    found = state_of(connect(chosen, context), chosen.release, metrics=metrics)
    if as_json:
        emit_json(found)
    else:
        show_status(found)
    if found["state"] != "serving":
        raise typer.Exit(1)


@command
def delete(
    target: Target = None,
    namespace: Namespace = None,
    release: Release = None,
    context: Context = "",
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="With --target local and a state file that cannot be trusted: end what provably belongs to the deployment.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Take a release down and leave nothing, claims included.

    Example: `scepsy delete --release scepsy`
    """
    if target == "local":
        deploy_local.delete(release, force=force, as_json=as_json)
        return
    if force:
        raise InputError("--force: goes with --target local only (a cluster knows what it runs)")
    require_client()
    from executor.cluster.delete import delete as remove

    chosen = read_options(None, None, namespace, release)
    count = remove(connect(chosen, context), chosen.release, on_event=event_printer())
    if as_json:
        emit_json({"release": chosen.release, "deleted": count})
    else:
        stdout.print(f"release {chosen.release}: {count} objects deleted, nothing left", highlight=False)


@command
def discover(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Cluster file to write; stdout when absent.")] = None,
    name: Annotated[str, typer.Option(help="Name of the cluster; its address when absent.")] = "",
    context: Context = "",
    driver: Annotated[str, typer.Option(help="DRA driver whose devices count.")] = "gpu.nvidia.com",
    topology: Annotated[list[str] | None, typer.Option(help="NODE=FILE: output of `nvidia-smi topo -m` there.")] = None,
    gpu_type: Annotated[list[str] | None, typer.Option(help="PRODUCT=NAME: which GPU type a product is.")] = None,
    tp_over: Annotated[
        Literal["NV", "PIX", "PXB", "PHB", "NODE", "SYS"],
        typer.Option(help="Weakest link that a tensor-parallel group may use: NVLink, or a class of PCIe path."),
    ] = "NV",
    as_json: Json = False,
) -> None:
    """Write the cluster file: nodes and GPUs with their UUIDs, from the DRA driver's ResourceSlices.

    Example: `scepsy discover --topology n1=n1.topo.txt -o cluster.yaml`
    """
    require_client()
    import msgspec

    from executor.cluster.discover import discover as find
    from executor.cluster.topology import read_links
    from scepsy.files.cluster import save_cluster
    from scepsy.files.failure import read_text
    from scepsy.profile import catalogue

    files = read_pairs("--topology", topology or [])
    links = {node: read_links(read_text(file), file) for node, file in files.items()}
    api = connect(read_options(None, None, None, None), context)
    types = read_pairs("--gpu-type", gpu_type or [])
    found = find(api, catalogue.gpu_types(), name=name, driver=driver, types=types, links=links, weakest=tp_over, notify=_note)
    if output is not None:
        save_cluster(output, found)
        if not as_json:
            stdout.print(f"wrote {output}: {len(found.nodes)} nodes, {len(found.gpus)} GPUs", highlight=False)
    if as_json or output is None:
        emit_json(msgspec.to_builtins(found))


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to the command line."""
    for each in (render, diff, apply, wait, status, delete, discover):
        app.command(rich_help_panel=panel)(each)


def _note(line: str) -> None:
    stderr.print(f"note: {line}", highlight=False, markup=False)


def _render(plan: "Plan", profiles: "ProfileSet", options: "RenderOptions") -> "Rendered":
    from executor.manifests import render as make

    made = make(plan, profiles, options)
    for note in made.notes:
        _note(note)
    return made
