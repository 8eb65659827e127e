"""``compare A B``: several plans side by side, simulated under the same runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scepsy.cli.output import emit_json, show_table, stderr, stdout

if TYPE_CHECKING:
    from scepsy.api.paired import Contender, Paired
    from scepsy.plans import Plan


def compare_plans(paths: Sequence[Path], rate: list[float] | None, *, runs: int | None, seed: int, as_json: bool) -> None:
    """Simulate the plans under one load and print what differs. Raises ``InputError`` for plans of different questions."""
    from scepsy.api.paired import Contender, compare_paired, documents
    from scepsy.cli.question import read_plan

    contenders = [Contender(name, *read_plan(path, rate)) for path, name in zip(paths, names_of(paths), strict=True)]
    with stderr.status("simulating"):
        found, count = compare_paired(contenders, seed=seed, runs=runs)
    if as_json:
        emit_json(documents(contenders, found, count, seed))
        return
    _show_plans(contenders)
    _show_latencies(contenders[0].name, found, count, seed)


def names_of(paths: Sequence[Path]) -> list[str]:
    """What to call each plan: its file's name, or the whole path where two files have the same; never one name twice.

    >>> names_of([Path("x/a.plan.yaml"), Path("b.plan.yaml")]), names_of([Path("a"), Path("a")])
    (['a', 'b'], ['a', 'a (2)'])
    """
    short = [path.name.removesuffix(".yaml").removesuffix(".plan") for path in paths]
    if len(set(short)) < len(short):
        short = [str(path) for path in paths]
    return [name if name not in short[:n] else f"{name} ({short[:n].count(name) + 1})" for n, name in enumerate(short)]


def _show_plans(contenders: "Sequence[Contender]") -> None:
    """Allocations and cost, one column per plan."""
    from scepsy.cost import cost_of, money

    llms = list(dict.fromkeys(a.llm for each in contenders for a in each.plan.allocations))
    costs = [cost_of(each.plan) for each in contenders]
    several = len({a.gpu_type for each in contenders for a in each.plan.allocations}) > 1
    rows: list[list[object]] = []
    for llm in llms:
        rows.append([llm, *(_allocated(each.plan, llm, several=several) for each in contenders)])
        sizes = [each.profiles.llm(_serving(each.plan, llm)).parameters / 1e9 for each in contenders]
        if len(set(sizes)) > 1:
            rows.append(["  parameters", *(f"{size:.3g}B" for size in sizes)])
    rows.append(["GPUs touched", *(str(cost.gpus) for cost in costs)])
    rows.append(["$ per hour", *(money(cost.usd_per_hour) for cost in costs)])
    rows.append(["$ per 1,000 runs", *(money(cost.usd_per_1000_runs) for cost in costs)])
    show_table("Plans", ["", *(each.name for each in contenders)], rows)
    first = contenders[0]
    swapped = [
        llm for llm in llms if len({each.profiles.llm(_serving(each.plan, llm)).weight_bytes for each in contenders}) > 1
    ]
    if swapped:
        stdout.print(
            f"Other models serve {', '.join(swapped)}: all are taken to answer with as many tokens as in {first.name}'s trace, "
            "and nothing is said of quality",
            highlight=False, markup=False,
        )  # fmt: skip


def _serving(plan: "Plan", llm: str) -> str:
    return plan.other_names.get(llm, llm)


def _allocated(plan: "Plan", llm: str, *, several: bool) -> str:
    """What an LLM has, or which one's instances serve it."""
    if llm in plan.other_names:
        return f"shares those of {plan.other_names[llm]}"
    a = plan.allocation(llm)
    return f"{a.replicas} x TP {a.tensor_parallel}, {a.share_pct} %" + (f" {a.gpu_type}" if several else "")


def _show_latencies(first: str, found: "Sequence[Paired]", runs: int, seed: int) -> None:
    from scepsy.api.paired import verdict

    rows: list[list[object]] = []
    for each in found:
        gap = each.against
        rows.append(
            [
                each.workflow,
                each.plan,
                _with_width(each.measured.latency.value, each.measured.latency.half_width),
                each.measured.p95_s.value,
                "" if gap is None else f"{gap.value:+.3g} ± {gap.half_width:.2g}",
                "" if gap is None else f"{gap.relative:+.1%}",
                each.measured.verdict,
            ]
        )
    show_table(
        f"Simulated: the same {runs} runs on each (seed {seed})",
        ["workflow", "plan", "mean s", "p95 s", f"less {first}'s", "of it", "verdict"],
        rows,
    )
    for each in found:
        if each.plan != first:
            stdout.print(f"{each.workflow}: {verdict(each, first)}", highlight=False, markup=False)


def _with_width(value: float, half_width: float) -> str:
    return f"{value:.4g} ± {half_width:.2g}"
