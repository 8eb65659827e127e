"""``explore``: one interactive page over GPU types, numbers of GPUs, rates and the SLO."""

from pathlib import Path
from typing import Annotated

import typer

from scepsy.cli.options import Json, Prices, Profiles, Rates, Renames, Shares, Traces
from scepsy.cli.output import command, emit_json, progress_bar, stdout
from scepsy.cli.question import priced, state_problem
from scepsy.errors import Infeasible, InputError

MOST_COUNTS = 12
"""Numbers of GPUs planned for by type: all up to this, else so many spread evenly."""


@command
def explore(
    trace: Traces,
    rate: Rates,
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")],
    profiles: Profiles = None,
    rename: Renames = None,
    share: Shares = None,
    gpus: Annotated[int, typer.Option(min=1, help="Most GPUs of each type.")] = 8,
    gpu_type: Annotated[list[str] | None, typer.Option(help="GPU type [A100-80G]; repeat to compare several.")] = None,
    prices: Prices = None,
    max_latency: Annotated[
        float | None, typer.Option(help="Latency limit that the page's slider shows at first, seconds.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained page on which rate, cluster size, GPU type and SLO are sliders over plans made beforehand.

    GPU map, latency and cost follow at once. The page works from a file, without a server or network. Its numbers are
    predicted, not simulated.

    Example: `scepsy explore -t rag.jsonl --rate 8 --gpus 8 --gpu-type A100-80G --gpu-type H100-80G -o explore.html`
    """
    from scepsy.api.explore import FACTORS
    from scepsy.api.explore import explore as explored
    from scepsy.profile import catalogue
    from scepsy.report.explorer import write_explorer
    from scepsy.search.offers import side_by_side

    if output.suffix != ".html":
        raise InputError(f"--output is {output}: must end in .html")
    if max_latency is not None and not 0 < max_latency < float("inf"):
        raise InputError(f"--max-latency is {max_latency:g}: must be a finite number of seconds > 0")
    names = list(dict.fromkeys(gpu_type or ["A100-80G"]))
    clusters = [[priced(catalogue.cluster_of(n, name), prices) for n in counts_of(gpus)] for name in names]
    problem, _, _ = state_problem(
        trace,
        rate,
        profiles=profiles,
        rename=rename,
        share=share,
        cluster=None,
        gpus=None,
        gpu_type="",
        machines=side_by_side([row[-1] for row in clusters]),
    )
    with progress_bar("planning", sum(map(len, clusters))) as progress:
        found = explored(problem, clusters, FACTORS, progress)
    if not found.types:
        raise Infeasible("; ".join(f"{name}: {why}" for name, why in found.left_out.items()))
    first = FACTORS.index(1.0)
    start = {"rate": first} | ({"limit": max_latency} if max_latency else {})
    told = [f"{t['name']}: ${t['usd_per_hour']:g} per GPU-hour, {t['price_source']}" for t in found.types if t["usd_per_hour"]]
    lost = [f"{name} is left out: {why}" for name, why in found.left_out.items()]
    scaled = "the rates of all workflows are scaled together, by the factors of the slider"
    workflows = ", ".join(str(w["name"]) for w in found.workflows)
    write_explorer(
        output,
        found,
        title=f"What if: {workflows}",
        notes=[*lost, *told, scaled, *problem.assumptions],
        start=start,
    )
    made = sum(number is not None for row in found.chosen.values() for numbers in row.values() for number in numbers)
    if as_json:
        emit_json({"page": str(output), "plans": made, "distinct_plans": len(found.plans), "left_out": found.left_out})
        return
    stdout.print(f"wrote {output}: {made} plans, {len(found.plans)} of them distinct", highlight=False, markup=False)
    for line in lost:
        stdout.print(line, highlight=False, markup=False)


def counts_of(gpus: int) -> list[int]:
    """Numbers of GPUs to plan for, ascending; 1 and ``gpus`` are among them.

    >>> counts_of(4), len(counts_of(64)), counts_of(64)[-1]
    ([1, 2, 3, 4], 12, 64)
    """
    if gpus <= MOST_COUNTS:
        return list(range(1, gpus + 1))
    return sorted({1 + round(step * (gpus - 1) / (MOST_COUNTS - 1)) for step in range(MOST_COUNTS)})
