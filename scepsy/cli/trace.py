"""``scepsy trace``: import real traces, generate published workflows, and see what a trace says about both."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scepsy.cli.importing import assignments
from scepsy.cli.output import command, emit_json, progress, show_table, stdout
from scepsy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

app = typer.Typer(name="trace", help="Traces: import, generate, stats, list.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="TRACE", help="Trace file to write (.jsonl or .jsonl.gz).")]


@app.command("stats")
@command
def stats(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="Trace file (.jsonl or .jsonl.gz).")],
    min_calls: Annotated[int, typer.Option(min=1, help="Leave out runs of fewer calls.")] = 1,
    min_llms: Annotated[int, typer.Option(min=1, help="Leave out runs that call fewer LLMs.")] = 1,
    as_json: Json = False,
) -> None:
    """Show what each workflow asks of each LLM, and whether the LLMs' shares are stable.

    Example: `scepsy trace stats traces/beam-search.jsonl.gz`
    """
    from scepsy.files.trace import TraceReader
    from scepsy.stats.describe import describe
    from scepsy.stats.table import tabulate

    with reading_progress(trace) as advance:
        reader = TraceReader(trace, advance)
        tables = tabulate(
            run for run in reader if len(run.calls) >= min_calls and len({call.llm for call in run.calls}) >= min_llms
        )
    if not tables:
        raise InputError(f"{trace}: no run has {min_calls} calls and {min_llms} LLMs: must be at least one (lower the limits)")
    document = describe(tables)
    if as_json:
        emit_json(document)
        return
    for name, workflow in document["workflows"].items():
        _show_workflow(name, workflow)
    for assumption in reader.source.assumptions:
        stdout.print(f"assumed: {assumption}", soft_wrap=True, highlight=False)


def reading_progress(path: Path) -> "AbstractContextManager[Callable[..., None]]":
    """A progress bar over a file's bytes."""
    return progress(f"reading {path.name}", path.stat().st_size if path.is_file() else None)


def _show_workflow(name: str, workflow: dict[str, Any]) -> None:
    latency = workflow["latency_s"]
    show_table(
        f"{name}: {workflow['runs']} runs, {workflow['calls']} calls, at most {workflow['most_in_flight']} in flight",
        ("latency", "mean s", "CV", "CV 95 %", "p50 s", "p95 s", "without LLM s", "times"),
        [
            (
                "run",
                latency["mean"],
                latency["cv"],
                f"{latency['cv_low']:.2f}–{latency['cv_high']:.2f}",
                latency["p50"],
                latency["p95"],
                workflow["tool_s"],
                workflow["times"],
            )
        ],
    )
    show_table(
        "what a run asks of each LLM",
        ("LLM", "calls n", "parallel p", "in mean", "p50", "p95", "out mean", "p50", "p95"),
        (
            (
                llm,
                use["calls_per_run"],
                use["parallelism"],
                *(float(use[side][key]) for side in ("input_tokens", "output_tokens") for key in ("mean", "p50", "p95")),
            )
            for llm, use in workflow["llms"].items()
        ),
    )
    show_table(
        "share of a run's LLM time",
        ("LLM", "mean", "95 %", "CV", "CV 95 %", "CV of 20 runs", "runs for ±10 %"),
        (
            (
                llm,
                use["share"]["mean"],
                f"{use['share']['low']:.3f}–{use['share']['high']:.3f}",
                use["share"]["cv"],
                f"{use['share']['cv_low']:.2f}–{use['share']['cv_high']:.2f}",
                use["share"]["batch_cv"],
                use["share"]["runs_needed"],
            )
            for llm, use in workflow["llms"].items()
        ),
    )
    ratio = workflow["share_to_latency_cv"]
    against = (
        f" (CV of the largest share is {ratio:.2f} of latency's)" if ratio is not None and len(workflow["llms"]) > 1 else ""
    )
    stdout.print(f"shares are {'stable' if workflow['stable'] else 'NOT stable'}{against}", soft_wrap=True, highlight=False)
    for warning in workflow["warnings"]:
        stdout.print(f"warning: {warning}", soft_wrap=True, highlight=False)
    stdout.print()


@app.command("generate")
@command
def generate(
    workflow: Annotated[str, typer.Argument(help="A workflow of `scepsy trace list`.")],
    output: Output,
    runs: Annotated[int, typer.Option("--runs", "-n", help="Runs to generate.")] = 100,
    seed: Annotated[int, typer.Option(help="Same seed, same trace; more runs leave the first ones as they are.")] = 0,
    llm: Annotated[list[str] | None, typer.Option(metavar="ROLE=NAME", help="LLM for a role (repeatable).")] = None,
    as_json: Json = False,
) -> None:
    """Generate a trace of a published workflow.

    Example: `scepsy trace generate beam-search -n 200 --seed 1 --llm generator=llama-3.2-3b -o beam.jsonl`
    """
    from scepsy.files.trace import TraceWriter
    from scepsy.generate import generate_runs, trace_source
    from scepsy.generate.builder import BLOCK_TOKENS

    calls = 0
    llms = assignments(llm, "--llm")
    source = trace_source(workflow, seed)
    with progress(f"generating {workflow}", runs) as advance, TraceWriter(output, source, BLOCK_TOKENS) as writer:
        for run in generate_runs(workflow, runs=runs, seed=seed, llms=llms):
            writer.write(run)
            calls += len(run.calls)
            advance()
    if as_json:
        emit_json({"trace": str(output), "workflow": workflow, "runs": runs, "calls": calls, "seed": seed})
        return
    stdout.print(f"{output}: {runs} runs of {workflow}, {calls} calls, seed {seed}", soft_wrap=True)
    for assumption in source.assumptions:
        stdout.print(f"  assumed: {assumption}", soft_wrap=True, highlight=False)


@app.command("list")
@command
def list_(as_json: Json = False) -> None:
    """List the workflows that can be generated and the formats that can be imported.

    Example: `scepsy trace list --json`
    """
    from scepsy.generate import WORKFLOWS
    from scepsy.importers.registry import IMPORTERS

    if as_json:
        emit_json(
            {
                "workflows": {
                    name: {
                        "summary": spec.summary,
                        "roles": {role: item.llm for role, item in spec.roles.items()},
                        "sources": list(spec.sources),
                        "assumptions": list(spec.assumptions),
                    }
                    for name, spec in WORKFLOWS.items()
                },
                "formats": {
                    name: {"summary": importer.summary, "options": dict(importer.options)}
                    for name, importer in IMPORTERS.items()
                },
            }
        )
        return
    show_table(
        "Workflows (scepsy trace generate NAME)",
        ("name", "what a run does", "roles"),
        (
            (name, spec.summary, ", ".join(f"{role}={item.llm}" for role, item in spec.roles.items()))
            for name, spec in WORKFLOWS.items()
        ),
    )
    show_table(
        "Formats (scepsy trace import FILE... finds out which; scepsy trace import NAME FILE... says)",
        ("name", "what is read", "options (--set NAME=VALUE)"),
        (
            (name, importer.summary, "; ".join(f"{option}: {what}" for option, what in importer.options.items()))
            for name, importer in IMPORTERS.items()
        ),
    )
