"""``scepsy model``: the models that Scepsy knows, what one costs in memory, and the user's own catalogue."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scepsy.cli.options import Csv, Json
from scepsy.cli.output import command, emit_json, show_table, stderr, stdout
from scepsy.errors import InputError

if TYPE_CHECKING:
    from scepsy.llm import Llm

app = typer.Typer(name="model", help="Models: list, show, add.", no_args_is_help=True)

Kv = Annotated[str, typer.Option("--kv-cache-dtype", help="As vLLM's: auto, bfloat16, fp8, nvfp4.")]
Kind = Annotated[str | None, typer.Option(help="generate, embed or rerank, where the config's class name does not say.")]


def document_of(llm: "Llm") -> dict[str, Any]:
    """A model as scripts read it."""
    import msgspec

    return {
        "name": llm.name,
        "hf_name": llm.hf_name or None,
        "family": llm.family or None,
        "kind": llm.kind,
        "parameters": int(llm.parameters),
        "active_parameters": int(llm.active),
        "weight_bytes": llm.weight_bytes,
        "precision": llm.precision or "bfloat16",
        "kv_bytes_per_token": llm.kv_bytes_per_token,
        "kv_cache_dtype": llm.kv_dtype or "bfloat16",
        "kv_layers": [msgspec.to_builtins(layers) | {"window_tokens": layers.window_tokens} for layers in llm.kv_layers],
        "state_bytes_per_sequence": llm.state_bytes_per_sequence,
        "experts": msgspec.to_builtins(llm.experts) if llm.experts else None,
        "context_tokens": llm.context_limit,
        "layers": llm.layers,
        "attention_heads": llm.attention_heads,
        "kv_heads": llm.kv_heads,
        "source": llm.source,
        "notes": list(llm.notes),
    }


@app.command("list")
@command
def list_(
    fits: Annotated[
        str | None, typer.Option("--fits", metavar="GPU", help="Only models that fit one GPU of this type.")
    ] = None,
    family: Annotated[str | None, typer.Option(help="Only this family (the config's model_type).")] = None,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """List every known model with its size and, with `--fits`, what is left for the KV cache.

    Example: `scepsy model list --fits L40S`
    """
    from scepsy.models.names import user_models
    from scepsy.profile import catalogue
    from scepsy.profile.model import smallest_degree

    known = {**catalogue.llms(), **user_models()}
    gpu = catalogue.gpu_type(fits) if fits is not None else None
    rows = []
    for name in sorted(known):
        llm = known[name]
        if (family is not None and llm.family != family) or (gpu is not None and smallest_degree(llm, gpu) != 1):
            continue
        rows.append(document_of(llm))
    if family is not None and not rows:
        families = ", ".join(sorted({llm.family for llm in known.values() if llm.family}))
        raise InputError(f"--family is {family!r}: no model listed has it: must be one of {families}")
    if as_json:
        emit_json({"models": rows, "fits": fits})
        return
    show_table(
        f"{len(rows)} models" + (f" that fit one {fits}" if fits else ""),
        ["name", "family", "kind", "parameters B", "active B", "weights GB", "precision", "KV kB/token", "context"],
        [
            [
                row["name"],
                row["family"] or "–",
                row["kind"],
                row["parameters"] / 1e9,
                row["active_parameters"] / 1e9,
                row["weight_bytes"] / 1e9,
                row["precision"],
                row["kv_bytes_per_token"] / 1e3,
                row["context_tokens"],
            ]
            for row in rows
        ],
    )


@app.command("show")
@command
def show(
    model: Annotated[str, typer.Argument(metavar="NAME|DIR|config.json", help="A known name, a model folder, a config file.")],
    kv_cache_dtype: Kv = "auto",
    kind: Kind = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Count parameters with transformers on the meta device (extra 'models').")
    ] = False,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Show one model: parameters, weights, KV cache by kind of layer, experts, and the fewest GPUs that hold it.

    Example: `scepsy model show openai/gpt-oss-120b` or `scepsy model show models/my-model`
    """
    llm = _found(model, kv_cache_dtype, kind)
    if exact:
        llm = _counted(llm, model)
    document = document_of(llm) | {"smallest_gpus": _smallest(llm)}
    if as_json:
        emit_json(document)
        return
    for field in (
        "family",
        "kind",
        "parameters",
        "active_parameters",
        "weight_bytes",
        "precision",
        "kv_bytes_per_token",
        "kv_cache_dtype",
        "state_bytes_per_sequence",
        "context_tokens",
        "source",
    ):
        value = document[field]
        shown = f"{value:,}" if isinstance(value, int) else value or "not read from a config"
        stdout.print(f"{field.replace('_', ' '):26s} {shown}", highlight=False, markup=False)
    if llm.kv_layers:
        show_table(
            "Cache by kind of layer",
            ["kind", "layers", "bytes per token", "tokens kept"],
            [[part.kind, part.layers, part.bytes_per_token, part.window_tokens or "all"] for part in llm.kv_layers],
        )
    if llm.experts:
        touched = ", ".join(
            f"{tokens}: {llm.experts.routed * llm.experts.touched_part(tokens):.0f}" for tokens in (1, 8, 32, 128)
        )
        stdout.print(
            f"experts: {llm.experts.routed} routed ({llm.experts.per_token} per token) and {llm.experts.shared} "
            f"shared in each of "
            f"{llm.experts.layers} layers; expected to be touched by a batch of … tokens: {touched}",
            highlight=False,
            markup=False,
        )
    stdout.print(
        f"fewest GPUs: {', '.join(f'{name} {count}' for name, count in document['smallest_gpus'].items())}", highlight=False
    )
    for note in llm.notes:
        stdout.print(f"note: {note}", highlight=False, markup=False)


def _found(model: str, kv_dtype: str, kind: str | None) -> "Llm":
    """The model that an argument names; options that need a config are refused for a name."""
    from scepsy.models.names import is_path
    from scepsy.models.read import read_model
    from scepsy.profile import catalogue

    if kind not in (None, "generate", "embed", "rerank"):
        raise InputError(f"--kind is {kind!r}: must be generate, embed or rerank")
    path = Path(model)
    if is_path(model) or path.exists():
        name = path.resolve().name if path.is_dir() else path.resolve().parent.name
        return read_model(name or "model", path, kind=kind, kv_dtype=kv_dtype)  # type: ignore[arg-type]  # checked above
    if kv_dtype != "auto" or kind is not None:
        raise InputError("--kv-cache-dtype and --kind go with a folder or config.json, not with a name")
    return catalogue.llm(model)


def _smallest(llm: "Llm") -> dict[str, int | None]:
    from scepsy.profile import catalogue
    from scepsy.profile.model import smallest_degree

    return {name: smallest_degree(llm, gpu) for name, gpu in catalogue.gpu_types().items()}


def _counted(llm: "Llm", model: str) -> "Llm":
    """The model with its parameters counted by transformers; a difference is said on stderr."""
    from msgspec.structs import replace

    from scepsy.models.counted import count_parameters

    path = Path(model)
    if not path.exists():
        raise InputError("--exact goes with a folder or config.json, not with a name")
    counted = count_parameters(path if path.is_file() else path / "config.json")
    difference_pct = 100 * (llm.parameters / counted - 1)
    if abs(difference_pct) > 0.5:
        said = f"transformers counts {counted:,} parameters, our reading {int(llm.parameters):,} ({difference_pct:+.2f} %)"
        stderr.print(said, highlight=False)
    active = llm.active_parameters and min(llm.active_parameters, float(counted))
    return replace(
        llm, parameters=float(counted), active_parameters=active, source=f"transformers on the meta device; {llm.source}"
    )


@app.command("add")
@command
def add(
    model: Annotated[Path | None, typer.Argument(metavar="[DIR|config.json]", help="Model folder or config file.")] = None,
    name: Annotated[str | None, typer.Option(help="Name under which the catalogue keeps it; default: the folder's.")] = None,
    parameters: Annotated[float | None, typer.Option(help="Without a config: number of weights.")] = None,
    weight_bytes: Annotated[
        int | None, typer.Option(help="Without a config: bytes of all weights; default 2 per parameter.")
    ] = None,
    kv_bytes_per_token: Annotated[
        int | None, typer.Option(help="Without a config: KV bytes per token over all layers.")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Without a config: longest context, tokens.")] = None,
    attention_heads: Annotated[int, typer.Option(help="Without a config: attention heads.")] = 32,
    kv_heads: Annotated[int, typer.Option(help="Without a config: KV heads (1 for latent attention).")] = 8,
    layers: Annotated[int, typer.Option(help="Without a config: layers.")] = 32,
    hidden_size: Annotated[int, typer.Option(help="Without a config: width.")] = 4096,
    active_parameters: Annotated[float, typer.Option(help="Without a config: weights that one token goes through.")] = 0.0,
    kv_cache_dtype: Kv = "auto",
    kind: Kind = None,
    as_json: Json = False,
) -> None:
    """Add a model to your own catalogue, from a config or from numbers; it is then known by its name everywhere.

    Example: `scepsy model add models/my-model --name my-model`
    """
    from msgspec.structs import replace

    from scepsy.llm import Llm
    from scepsy.models.names import file_of, user_folder

    numbers = {"parameters": parameters, "kv-bytes-per-token": kv_bytes_per_token, "context": context, "name": name}
    if model is not None:
        llm = _found(str(model), kv_cache_dtype, kind) if model.exists() else _missing(model)
        llm = replace(llm, name=name) if name else llm
        if weight_bytes is not None:
            llm = replace(llm, weight_bytes=weight_bytes)
    else:
        missing = [option for option, value in numbers.items() if value is None]
        if missing:
            raise InputError(f"--{missing[0]} is missing: give a folder with config.json, or --{', --'.join(numbers)}")
        assert name is not None
        assert parameters is not None
        assert kv_bytes_per_token is not None
        assert context is not None
        if kind not in (None, "generate", "embed", "rerank"):
            raise InputError(f"--kind is {kind!r}: must be generate, embed or rerank")
        try:
            llm = Llm(
                name=name,
                parameters=parameters,
                weight_bytes=int(2 * parameters) if weight_bytes is None else weight_bytes,
                kv_bytes_per_token=kv_bytes_per_token,
                context_limit=context,
                attention_heads=attention_heads,
                kv_heads=kv_heads,
                layers=layers,
                hidden_size=hidden_size,
                active_parameters=active_parameters,
                kind=kind or "generate",  # type: ignore[arg-type]
                source="numbers given to `scepsy model add`",
            )
        except (ValueError, OverflowError) as error:
            raise InputError(f"model add: {error}") from error
    path = user_folder() / file_of(llm.name)
    _write(path, llm)
    if as_json:
        emit_json(document_of(llm) | {"file": str(path)})
        return
    stdout.print(f"wrote {path}", highlight=False, soft_wrap=True)


def _missing(path: Path) -> "Llm":
    raise InputError(f"{path}: no such file or folder: must be a model folder with config.json, or a config file")


def _write(path: Path, llm: "Llm") -> None:
    import msgspec

    from scepsy.files.atomic import write_bytes

    if any(part in ("", ".", "..") for part in llm.name.split("/")) or any(ord(letter) < 32 for letter in llm.name):
        raise InputError(f"--name is {llm.name!r}: must be a name such as my-model or org/my-model")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, msgspec.json.format(msgspec.json.encode(llm)))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: must be writable (or set $SCEPSY_MODELS)") from error
