"""A trace's statistics as a document and as tables, for ``trace stats`` and ``trace import --stats``."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from scepsy.cli.output import progress_bar, show_table, stdout
from scepsy.errors import InputError


def statistics_of(trace: Path, min_calls: int = 1, min_llms: int = 1) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Statistics of the runs with so many calls and LLMs, and what the trace assumes. Raises ``InputError`` without any."""
    from scepsy.files.trace import TraceReader
    from scepsy.stats.describe import describe
    from scepsy.stats.table import tabulate

    with reading_progress(trace) as progress:
        reader = TraceReader(trace, progress)
        tables = tabulate(
            run for run in reader if len(run.calls) >= min_calls and len({call.llm for call in run.calls}) >= min_llms
        )
    if not tables:
        raise InputError(f"{trace}: no run has {min_calls} calls and {min_llms} LLMs: must be at least one (lower the limits)")
    document = describe(tables)
    document["unmapped_llms"] = unmapped_llms(document)
    return document, reader.source.assumptions


def unmapped_llms(document: dict[str, Any]) -> list[str]:
    """The LLMs of a trace's statistics that no known model answers to, in order."""
    from scepsy.models.names import find
    from scepsy.profile import catalogue

    names = dict.fromkeys(name for flow in document["workflows"].values() for name in flow["llms"])
    return [name for name in names if find(name, catalogue.llms()) is None]


def show_statistics(document: dict[str, Any], assumptions: Sequence[str]) -> None:
    """Print them."""
    for name, workflow in document["workflows"].items():
        _show_workflow(name, workflow)
    for assumption in assumptions:
        stdout.print(f"assumed: {assumption}", soft_wrap=True, highlight=False)
    if document.get("unmapped_llms"):
        from scepsy.cli.inputs import unmapped_line

        line = f"to plan: {unmapped_line(document['unmapped_llms'])} (`scepsy plan --suggest-models` proposes some)"
        stdout.print(line, soft_wrap=True, highlight=False, markup=False)


def reading_progress(path: Path) -> AbstractContextManager[Callable[..., None]]:
    """A progress bar over a file's bytes."""
    return progress_bar(f"reading {path.name}", path.stat().st_size if path.is_file() else None)


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
