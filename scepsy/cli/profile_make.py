"""``scepsy profile run`` and ``scepsy profile import``: profiles from engines, from benchmark files and from vendor data."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scepsy.cli.options import Csv, Json
from scepsy.cli.output import command, emit_json, notify, progress_bar, show_table, stdout
from scepsy.errors import InputError

if TYPE_CHECKING:
    from scepsy.cluster import GpuType
    from scepsy.llm import Llm
    from scepsy.profile.model import EngineLimits

Models = Annotated[list[str], typer.Option("--model", metavar="LLM=FOLDER", help="Model folder of an LLM, repeatable.")]
Out = Annotated[Path, typer.Option("--output", "-o", help="Folder for profiles.yaml and the measurements.")]


def read_models(items: list[str]) -> dict[str, Path]:
    """``--model NAME=FOLDER`` options as a mapping. Raises ``InputError``."""
    found = {}
    for item in items:
        name, _, folder = item.partition("=")
        if not name or not folder:
            raise InputError(f"--model is {item!r}: must be LLM=FOLDER")
        if not Path(folder).is_dir():
            raise InputError(f"--model is {item!r}: {folder} is no folder: must hold the model's config.json")
        found[name] = Path(folder)
    return found


def read_numbers(option: str, text: str, highest: int) -> tuple[int, ...]:
    """``1,2,4`` as numbers from 1 to ``highest``. Raises ``InputError``."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(1 <= number <= highest for number in found):
        raise InputError(f"{option} is {text!r}: must be whole numbers from 1 to {highest}, separated by commas")
    return found


@command
def run(
    trace: Annotated[Path, typer.Option("--trace", "-t", help="Trace whose calls are replayed.")],
    model: Models,
    output: Out,
    gpu: Annotated[str | None, typer.Option(help="GPU type of this host (catalogue name); default: its CPU cores.")] = None,
    uuids: Annotated[str, typer.Option("--gpu-uuids", help="UUIDs of the GPUs to use, separated by commas.")] = "",
    tp: Annotated[str, typer.Option("--tp", help="Tensor-parallel degrees.")] = "1",
    share: Annotated[str, typer.Option("--share", help="Shares in percent; 100 must be among them.")] = "100",
    requests: Annotated[int, typer.Option(min=10, help="Calls per rate.")] = 60,
    rates: Annotated[int, typer.Option(min=1, help="Most rates to measure; fewer when the instance saturates before.")] = 8,
    rounds: Annotated[
        int, typer.Option(min=1, help="Times to visit all rates: more than once where the machine's speed varies.")
    ] = 1,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, help="vLLM's --max-num-seqs.")] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(min=1, help="vLLM's --max-num-batched-tokens.")] = None,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Measure LLMs on this host: start each, replay its calls at rising rates until it saturates, fit the step model.

    Started again with the same output folder, it goes on after the last rate. On a GPU host, shares below 100 % go
    through MPS and refit the share law.

    Example: `scepsy profile run -t t.jsonl --model chat=models/chat -o profiles`
    """
    from msgspec.structs import replace

    from executor.local.options import LocalOptions
    from executor.profiler.model_files import read_llm
    from executor.profiler.sweep import Sweep
    from scepsy.api.engine_profiles import CORE_LAW, CPU_ENGINE, core_type, document_of, profile_trace
    from scepsy.files.profiles import save_profiles
    from scepsy.files.trace import load_trace
    from scepsy.profile import catalogue
    from scepsy.profile.model import EngineLimits

    read, folders = load_trace(trace), read_models(model)
    degrees, shares = read_numbers("--tp", tp, 64), read_numbers("--share", share, 100)
    if 100 not in shares:
        raise InputError(f"--share is {share!r}: must include 100, which profiles describe")
    kinds = {call.llm: call.kind for traced in read.runs for call in traced.calls}
    missing = [llm for llm in kinds if llm not in folders]
    if missing:
        raise InputError(f"LLM {missing[0]!r} of {trace} has no model: give --model {missing[0]}=FOLDER")
    llms = {name: read_llm(name, folders[name], kind) for name, kind in kinds.items()}
    device, engine = (catalogue.gpu_type(gpu), EngineLimits()) if gpu else (core_type(), CPU_ENGINE)
    changes = {"max_num_seqs": max_num_seqs, "max_num_batched_tokens": max_num_batched_tokens}
    engine = replace(engine, **{name: value for name, value in changes.items() if value is not None})
    local = LocalOptions(device="gpu" if gpu else "cpu", models={name: str(folder) for name, folder in folders.items()})
    output.mkdir(parents=True, exist_ok=True)
    with progress_bar("profiling", len(kinds) * len(degrees) * len(shares)) as progress:
        profiles, found = profile_trace(
            read, llms, device, output, local=local, engine=engine, degrees=degrees, shares=shares,
            options=Sweep(requests=requests, most_rates=rates, rounds=rounds),
            default_law=catalogue.laws().share_law if gpu else CORE_LAW,
            uuids=[part for part in uuids.split(",") if part],
            notify=notify, progress=progress,
        )  # fmt: skip
    save_profiles(output / "profiles.yaml", profiles)
    _show(output / "profiles.yaml", document_of(found), as_json)


def _show(path: Path, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        emit_json({"profiles": str(path), "measured": rows})
        return
    if rows:
        show_table("measured", [key.replace("_", " ") for key in rows[0]], [list(row.values()) for row in rows])
    stdout.print(f"wrote {path}", highlight=False, soft_wrap=True)


@command
def import_(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="vllm-bench, guidellm, aiperf or vendor.")],
    output: Out,
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE...]", help="Result files of a load generator.")] = None,
    llm: Annotated[list[str] | None, typer.Option(help="Catalogue LLM, repeatable (vendor), or the one measured.")] = None,
    gpu: Annotated[str, typer.Option(help="GPU type (catalogue name).")] = "H100-80G",
    tp: Annotated[str, typer.Option("--tp", help="Tensor-parallel degrees (of a load generator: the one measured).")] = "1",
    vendor_model: Annotated[
        str | None, typer.Option(help="vendor: the data's name of the (one) model, e.g. meta-llama/Meta-Llama-3.1-8B.")
    ] = None,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Profiles without engines: from results of vLLM's bench, GuideLLM or AIPerf, or from vendor kernel data.

    Example: `scepsy profile import vendor --llm llama-3.1-8b --gpu B200 --tp 1,2 -o profiles`
    """
    from scepsy.profile import catalogue

    names, degrees = llm or [], read_numbers("--tp", tp, 64)
    if not names:
        raise InputError("--llm is missing: must name a model of the catalogue (see: scepsy profile show)")
    models, device = [catalogue.llm(name) for name in names], catalogue.gpu_type(gpu)
    if source == "vendor":
        if vendor_model is not None and len(models) != 1:
            raise InputError(f"--vendor-model is {vendor_model!r} for {len(models)} LLMs: must be given with one --llm")
        _import_vendor(models, device, degrees, vendor_model, output, as_json)
        return
    from executor.profiler.bench_files import GENERATORS

    if source not in GENERATORS:
        raise InputError(f"source is {source!r}: must be {', '.join(GENERATORS)} or vendor")
    if len(models) != 1 or len(degrees) != 1 or not files:
        raise InputError(f"{source}: give result files, one --llm and one --tp")
    _import_bench(source, files, models[0], device, degrees[0], output, as_json)


def _save(profiles: list[Any], output: Path) -> Path:
    from scepsy.files.profiles import save_profiles
    from scepsy.profile import catalogue
    from scepsy.profile.model import ProfileSet

    laws = catalogue.laws()
    output.mkdir(parents=True, exist_ok=True)
    path = output / "profiles.yaml"
    save_profiles(
        path,
        ProfileSet(profiles=tuple(profiles), share_law=laws.share_law, contention=laws.contention, cold_start=laws.cold_start),
    )
    return path


def _import_vendor(
    models: "list[Llm]", gpu: "GpuType", degrees: tuple[int, ...], vendor_model: str | None, output: Path, as_json: bool
) -> None:
    from scepsy.profile.vendor import vendor_profile

    rows, profiles = [], []
    for model in models:
        for degree in degrees:
            profile, errors = vendor_profile(model, gpu, degree, model=vendor_model)
            profiles.append(profile)
            rows.append(
                {
                    "llm": model.name,
                    "tensor_parallel": degree,
                    "base_ms": profile.step.base_s * 1e3,
                    "prefill_us_per_token": profile.step.prefill_s_per_token * 1e6,
                    "fit_median_err_pct": errors.median_pct,
                    "fit_p95_err_pct": errors.p95_pct,
                }
            )
    _show(_save(profiles, output), rows, as_json)


def _import_bench(
    generator: str,
    files: list[Path],
    llm: "Llm",
    gpu: "GpuType",
    degree: int,
    output: Path,
    as_json: bool,
    engine: "EngineLimits | None" = None,
) -> None:
    from executor.profiler.bench_files import GENERATORS, write_bench_run
    from scepsy.profile.model import EngineLimits, Profile
    from sim.recorded.enginerun import load_engine_run
    from sim.recorded.stepfit import fit_step_model

    limits = EngineLimits()
    folder = output / f"{llm.name}-{gpu.name}-tp{degree}"
    with tempfile.TemporaryDirectory(prefix="scepsy-") as aside:  # what cannot be fitted leaves nothing in the output
        trial = Path(aside) / folder.name
        measured = write_bench_run(files, trial, llm, gpu, degree, limits, generator)
        requests = len(measured.rows)
        fit = fit_step_model(load_engine_run(trial), requests, first_tokens=True)
    write_bench_run(files, folder, llm, gpu, degree, limits, generator)
    profile = Profile(
        llm=llm, gpu=gpu, tensor_parallel=degree, step=fit.step, engine=limits, residual_pct=fit.residual_pct,
        source=f"measured: {GENERATORS[generator].title}, {', '.join(path.name for path in files)} ({requests} requests)",
    )  # fmt: skip
    row = {
        "llm": llm.name,
        "tensor_parallel": degree,
        "requests": requests,
        "left_out": sum(measured.left_out.values()),
        "base_ms": fit.step.base_s * 1e3,
        "prefill_us_per_token": fit.step.prefill_s_per_token * 1e6,
        "residual_pct": fit.residual_pct,
    }
    _show(_save([profile], output), [row], as_json)


def register(app: typer.Typer) -> None:
    """Add the commands to ``scepsy profile``."""
    app.command("run")(run)
    app.command("import")(import_)
