"""``scepsy trace``: import real traces, generate published workflows, and see what a trace says about both."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scepsy.cli.options import Csv, Json
from scepsy.cli.output import command, emit_json, progress_bar, show_table, stdout
from scepsy.cli.statistics import show_statistics, statistics_of
from scepsy.cli.trace_import import assignments

if TYPE_CHECKING:
    pass

app = typer.Typer(name="trace", help="Traces: import, generate, stats, list.", no_args_is_help=True)

Output = Annotated[Path, typer.Option("--output", "-o", metavar="TRACE", help="Trace file to write (.jsonl or .jsonl.gz).")]


@app.command("stats")
@command
def stats(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="Trace file (.jsonl or .jsonl.gz).")],
    min_calls: Annotated[int, typer.Option(min=1, help="Leave out runs of fewer calls.")] = 1,
    min_llms: Annotated[int, typer.Option(min=1, help="Leave out runs that call fewer LLMs.")] = 1,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Show what each workflow asks of each LLM, and whether the LLMs' shares are stable.

    Example: `scepsy trace stats traces/beam-search.jsonl.gz`
    """
    document, assumptions = statistics_of(trace, min_calls, min_llms)
    if as_json:
        emit_json(document)
        return
    show_statistics(document, assumptions)


@app.command("generate")
@command
def generate(
    workflow: Annotated[str, typer.Argument(help="A workflow of `scepsy trace list`.")],
    output: Output,
    runs: Annotated[int, typer.Option("--runs", "-n", help="Runs to generate.")] = 100,
    seed: Annotated[int, typer.Option(help="Same seed, same trace; more runs leave the first ones as they are.")] = 0,
    llm: Annotated[list[str] | None, typer.Option(metavar="ROLE=NAME", help="The LLM that plays a role, repeatable.")] = None,
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
    with progress_bar(f"generating {workflow}", runs) as progress, TraceWriter(output, source, BLOCK_TOKENS) as writer:
        for run in generate_runs(workflow, runs=runs, seed=seed, llms=llms):
            writer.write(run)
            calls += len(run.calls)
            progress()
    if as_json:
        emit_json({"trace": str(output), "workflow": workflow, "runs": runs, "calls": calls, "seed": seed})
        return
    stdout.print(f"{output}: {runs} runs of {workflow}, {calls} calls, seed {seed}", soft_wrap=True)
    for assumption in source.assumptions:
        stdout.print(f"  assumed: {assumption}", soft_wrap=True, highlight=False)


@app.command("list")
@command
def list_(as_csv: Csv = False, as_json: Json = False) -> None:
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
