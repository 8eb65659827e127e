"""``scepsy profile``: where step models come from, and how well they hold."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scepsy.cli.options import Csv, Json
from scepsy.cli.output import command, emit_json, progress_bar, show_table, stdout
from scepsy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scepsy.profile.model import Profile

app = typer.Typer(name="profile", help="Profiles of LLMs on GPUs: run, import, fit, show, validate.", no_args_is_help=True)


@app.command("show")
@command
def show(
    llms: Annotated[list[str] | None, typer.Argument(help="LLM names; all of the catalogue (or file) when none.")] = None,
    gpu: Annotated[list[str] | None, typer.Option("--gpu", help="GPU type, repeatable.")] = None,
    profiles: Annotated[Path | None, typer.Option("--profiles", "-p", help="A profiles file instead of the catalogue.")] = None,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Show step models, KV capacity and sources.

    Example: `scepsy profile show llama-2-13b qwen2.5-7b --gpu A100-80G --gpu H100-80G`
    """
    from scepsy.profile import catalogue
    from scepsy.profile.model import kv_capacity_tokens

    if profiles is None:
        known = catalogue.builtin_profiles(llms or list(catalogue.llms()), gpu or ["A100-80G"])
    else:
        from scepsy.files.profiles import load_profiles

        known = load_profiles(profiles)
    rows = [
        profile for profile in known.profiles if (not llms or profile.llm.name in llms) and (not gpu or profile.gpu.name in gpu)
    ]
    if not rows:
        raise InputError(f"no profile matches {', '.join(llms or [])} on {', '.join(gpu or [])}: see `scepsy profile show`")
    documents: list[dict[str, Any]] = [
        {
            "llm": profile.llm.name,
            "gpu": profile.gpu.name,
            "tensor_parallel": profile.tensor_parallel,
            "base_ms": profile.step.base_s * 1e3,
            "experts_ms": profile.step.experts_s * 1e3,
            "prefill_ms_per_1k_tokens": profile.step.prefill_s_per_token * 1e6,
            "decode_ms_per_sequence": profile.step.decode_s_per_sequence * 1e3,
            "context_ms_per_1k_tokens": profile.step.context_s_per_token * 1e6,
            "kv_capacity_tokens": kv_capacity_tokens(profile, 100) if profile.llm.kv_bytes_per_token else None,
            "fits": kv_capacity_tokens(profile, 100) >= 0,
            "residual_pct": profile.residual_pct,
            "source": profile.source,
        }
        for profile in rows
    ]
    if as_json:
        emit_json({"profiles": documents})
        return
    columns = {
        "tensor_parallel": "TP",
        "base_ms": "base",
        "experts_ms": "all experts",
        "prefill_ms_per_1k_tokens": "prefill /1k tok",
        "decode_ms_per_sequence": "decode /seq",
        "context_ms_per_1k_tokens": "context /1k tok",
        "kv_capacity_tokens": "KV tokens",
        "residual_pct": "residual %",
    }
    sources = list(dict.fromkeys(profile.source for profile in rows))
    for document in documents:
        document["source"] = f"[{sources.index(document['source']) + 1}]"
    shown = [key for key in documents[0] if key != "fits"]
    show_table(
        "Step models at a whole GPU (milliseconds)",
        [columns.get(key, key) for key in shown],
        [
            [document[key] if document["fits"] or key != "kv_capacity_tokens" else "does not fit" for key in shown]
            for document in documents
        ],
    )
    for number, source in enumerate(sources, start=1):
        stdout.print(f"[{number}] {source}", markup=False, highlight=False)
    for line in quality_lines(rows):
        stdout.print(line, markup=False, highlight=False)


DERIVED = (
    "scaled coefficients: base from the weights that every iteration reads and all experts from the routed experts' bytes, "
    "at the reference's seconds per byte; prefill and decode from the weights that one token goes through; "
    "context from KV bytes over bandwidth, attention from its FLOP, at the efficiencies in laws.yaml (scepsy.profile.roofline)"
)


def quality_lines(rows: "Sequence[Profile]") -> list[str]:
    """How good the sources of these profiles were when tested: fits by their residual, scaled ones by their family's error."""
    from scepsy.profile import catalogue
    from scepsy.profile.check import by_family, check_references

    lines = []
    if any(profile.source.startswith("scaled:") for profile in rows):
        lines.append(DERIVED)
    fitted = [profile for profile in rows if profile.residual_pct is not None]
    if fitted:
        worst = max(profile.residual_pct or 0.0 for profile in fitted)
        lines.append(f"fitted step models leave at most {worst:.1f} % of median error on their own data (column residual)")
    scaled = [profile.llm for profile in rows if profile.source.startswith("scaled:")]
    if scaled:
        laws = catalogue.laws()
        checked = check_references(catalogue.references(), laws.tensor_parallel, laws.efficiencies)
        errors = {error.family: error for error in by_family(checked)}
        for name in dict.fromkeys(llm.family or ("dense" if llm.experts is None else "all") for llm in scaled):
            known = name if name in errors else "all"
            error = errors[known]
            whose = f"models of family {name}" if known == name else f"models of all families (none of {name} was tested)"
            lines.append(
                f"scaled: {whose} were off by {error.decode_pct:.0f} % decoding and {error.prefill_pct:.0f} % in prefill "
                f"at the median of {error.pairs} tests (`scepsy profile check`)"
            )
    return lines


@app.command("fit")
@command
def fit(
    muxserve: Annotated[Path | None, typer.Option(help="MuxServe's SM-share grid (JSON): fits the share law.")] = None,
    aegaeon: Annotated[Path | None, typer.Option(help="Aegaeon's step times (JSON): fits step models.")] = None,
    vendor: Annotated[
        bool, typer.Option(help="Fit the tensor-parallel law from aiconfigurator-core (extra 'vendor').")
    ] = False,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Refit the laws and step models that the built-in profiles rest on, with the errors they leave.

    Example: `scepsy profile fit --muxserve $SCEPSY_DATA/calibration/muxserve_sm_share.json`
    """
    if muxserve is None and aegaeon is None and not vendor:
        raise InputError("nothing to fit: give --muxserve FILE, --aegaeon FILE or --vendor")
    document: dict[str, Any] = {}
    if muxserve is not None:
        document["share_law"] = _fit_share(_json(muxserve), muxserve)
    if aegaeon is not None:
        document["steps"] = _fit_steps(_json(aegaeon), aegaeon)
    if vendor:
        document["tensor_parallel"] = _fit_degrees()
    if as_json:
        emit_json(document)
        return
    for name, rows in document.items():
        show_table(name.replace("_", " "), [key.replace("_", " ") for key in rows[0]], [list(row.values()) for row in rows])


def _json(path: Path) -> Any:
    from scepsy.files.failure import decode_json, read_bytes

    return decode_json(path, read_bytes(path))


def _fit_share(grid: Any, path: Path) -> list[dict[str, Any]]:
    from scepsy.profile.fits import REGIMES, fit_share_law, held_out_share_errors, muxserve_samples

    try:
        samples = muxserve_samples(grid)
        law, errors = fit_share_law(samples)
        held_out = held_out_share_errors(samples)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a MuxServe grid ([model][TP][SM %][batch][length]): {error!r}") from error
    return [
        {
            "regime": name,
            "k": getattr(law, name),
            "points": errors[name].points,
            "median_err_pct": errors[name].median_pct,
            "p95_err_pct": errors[name].p95_pct,
            "held_out_median_err_pct": held_out[name].median_pct,
            "held_out_p95_err_pct": held_out[name].p95_pct,
        }
        for name in REGIMES
    ]


def _fit_steps(tables: Any, path: Path) -> list[dict[str, Any]]:
    from scepsy.profile.fits import aegaeon_samples, fit_step

    rows = []
    try:
        for name, table in sorted(tables.items()):
            step, errors = fit_step(aegaeon_samples(table))
            rows.append(
                {
                    "model": name,
                    "base_ms": step.base_s * 1e3,
                    "prefill_us_per_token": step.prefill_s_per_token * 1e6,
                    "decode_us_per_sequence": step.decode_s_per_sequence * 1e6,
                    "points": errors.points,
                    "median_err_pct": errors.median_pct,
                    "p95_err_pct": errors.p95_pct,
                }
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not Aegaeon step times ('tokens,batch' -> [prefill_s, decode_s]): {error!r}") from error
    return rows


def _fit_degrees() -> list[dict[str, Any]]:
    from scepsy.profile import catalogue
    from scepsy.profile.fits import DegreeSample, fit_tensor_parallel_law
    from scepsy.profile.vendor import vendor_profile

    samples = []
    for name in ("llama-3.1-8b", "llama-3.1-70b"):
        for gpu in ("A100-80G", "H100-80G"):
            for degree in (1, 2, 4, 8):
                model = catalogue.llm(name)
                profile, _ = vendor_profile(model, catalogue.gpu_type(gpu), degree)
                samples.append(DegreeSample(f"{name} on {gpu}", model.layers, degree, profile.step))
    law, errors = fit_tensor_parallel_law(samples)
    return [
        {
            "overhead_us_per_layer": law.overhead_s_per_layer * 1e6,
            "prefill_serial": law.prefill_serial,
            "decode_serial": law.decode_serial,
            "points": errors.points,
            "median_err_pct": errors.median_pct,
            "p95_err_pct": errors.p95_pct,
        }
    ]


@app.command("check")
@command
def check(
    gpu: Annotated[str | None, typer.Option("--gpu", help="Only models on this GPU type.")] = None,
    silicon: Annotated[
        bool,
        typer.Option(
            "--silicon", help="Compare the built-in profiles with measured times per output token instead (extra 'vendor')."
        ),
    ] = False,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Say how far off scaled step models are, by family: each known one is scaled from the nearest other model and compared.

    Example: `scepsy profile check` or `scepsy profile check --silicon`
    """
    import msgspec

    from scepsy.profile import catalogue
    from scepsy.profile.check import by_family, check_references

    if silicon:
        from scepsy.profile.silicon_rows import compare, families, read_rows

        measured = read_rows()
        known = compare(measured)
        found = families([row for row in known if gpu is None or row.gpu == gpu])
        counted = f"{len(known)} of {len(measured)} measured vLLM rows"
        title = f"Built-in profiles against {counted}: error of the time per output token, percent"
        columns, cells = ["family", "rows", "median", "largest"], ["family", "pairs", "decode_pct", "decode_worst_pct"]
    else:
        laws = catalogue.laws()
        rows = check_references(catalogue.references(), laws.tensor_parallel, laws.efficiencies, gpu)
        found = by_family(rows) if rows else []
        title = "Scaled from the nearest other model, error against the model's own step times, percent"
        columns = ["family", "models x GPUs", "decode median", "decode largest", "prefill median", "prefill largest"]
        cells = ["family", "pairs", "decode_pct", "decode_worst_pct", "prefill_pct", "prefill_worst_pct"]
    if not found:
        raise InputError(
            f"--gpu is {gpu!r}: no model has step times of its own there: see `scepsy profile check` without --gpu"
        )
    documents = [{cell: msgspec.to_builtins(row)[cell] for cell in cells} for row in found]
    if as_json:
        emit_json({"families": documents})
        return
    show_table(title, columns, [list(document.values()) for document in documents])


@app.command("validate")
@command
def validate(
    run_dirs: Annotated[
        list[Path] | None, typer.Argument(help="Folders with requests.jsonl and meta.json of a recorded engine run.")
    ] = None,
    train: Annotated[
        float, typer.Option(help="Part of the requests (0 to 1) on which the step model is fitted; the others are scored.")
    ] = 0.33,
    vendor: Annotated[
        bool, typer.Option("--vendor", help="Step times from vendor kernel data (extra 'vendor') instead of a fit.")
    ] = False,
    silicon: Annotated[
        bool,
        typer.Option(
            "--silicon", help="Compare simulated closed loops with the vendor's table of measured TTFT and TPOT instead."
        ),
    ] = False,
    every: Annotated[int, typer.Option(min=1, help="With --silicon: use every n-th row only.")] = 1,
    picture: Annotated[
        Path | None, typer.Option(help="Draw recorded and simulated side by side into this file (.png, .pdf, .svg).")
    ] = None,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Replay recorded engine runs in the simulator and say how far off it is.

    Example: `scepsy profile validate $SCEPSY_DATA/vllm_runs/* --train 0.33 --picture replays.png` or `scepsy profile
    validate --silicon`
    """
    if picture is not None and (silicon or picture.suffix not in (".png", ".pdf", ".svg")):
        raise InputError(f"--picture is {picture}: must be a .png, .pdf or .svg file, of RUN_DIR… and not of --silicon")
    if silicon == bool(run_dirs):
        raise InputError("give RUN_DIR… or --silicon, one of them")
    if silicon:
        _validate_silicon(every, as_json)
        return
    assert run_dirs is not None
    from sim.recorded.validate import ERRORS, Replayed, validate_runs

    replays: list[Replayed] = []
    with progress_bar("replaying runs", len(run_dirs)) as progress:
        document = validate_runs(run_dirs, train=train, vendor=vendor, progress=progress, keep=replays.append)
    if picture is not None:
        from scepsy.report.replays import write_replays

        write_replays(replays, picture)
    if as_json:
        emit_json(document)
        return
    show_table(
        "Simulated against recorded, error in percent"
        + ("" if vendor else f" (fitted on the first {train:.0%}, scored on the rest)"),
        ["run", "step times from", "requests", *(name.removesuffix("_err_pct").replace("_", " ") for name in ERRORS)],
        [[row["name"], row["source"], row["requests"], *(row[name] for name in ERRORS)] for row in document["runs"]],
    )
    for row in document["runs"]:
        if row.get("parameters"):
            show_table(
                f"{row['name']}: step model" + (f" (condition {row['condition']:.0f})" if "condition" in row else ""),
                ["coefficient", "value", "std error %", "with the catalogue's prior"],
                [
                    [name, item["value"], item["std_err_pct"], item.get("std_err_with_prior_pct")]
                    for name, item in row["parameters"].items()
                ],
            )
        for note in row["notes"]:
            stdout.print(f"{row['name']}: {note}", markup=False, highlight=False)


def _validate_silicon(every: int, as_json: bool) -> None:
    from sim.recorded.silicon import HOST_S, PREFILL_FACTORS, SPREADS, validate_silicon

    with progress_bar("calibrating on closed loops", len(PREFILL_FACTORS) * len(HOST_S) * len(SPREADS)) as progress:
        document = validate_silicon(every=every, progress=progress)
    if as_json:
        emit_json(document)
        return
    degrees = ", ".join(str(degree) for degree in document["calibrated_on_tp"])
    show_table(
        f"{document['model']} on {document['system']}: mean absolute error in percent "
        f"({document['rows_used']} of {document['vllm_rows']} vLLM rows)",
        ["step times", "rows", "TTFT", "TPOT"],
        [list(row.values()) for row in document["scores"]],
    )
    stdout.print(
        f"calibrated on TP {degrees}: prefill times {document['prefill_factor']}, "
        f"{document['host_s_per_iteration'] * 1e3:g} ms of host time per iteration, "
        f"lengths ±{document['length_spread']:.0%}",
        markup=False,
        highlight=False,
    )
