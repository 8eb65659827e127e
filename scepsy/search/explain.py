"""Why this plan: what binds, what one more GPU unit would bring, why not another degree, and how sure the choice is."""

from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from scepsy.dag import NOMINAL_BASE_S, NOMINAL_S_PER_INPUT_TOKEN, NOMINAL_S_PER_OUTPUT_TOKEN
from scepsy.place.hierarchical import Placement, layout, pack
from scepsy.plans import Allocation, Plan
from scepsy.predictors import critical_path
from scepsy.predictors.aggregate import Floats, call_rates_per_s
from scepsy.predictors.critical_path import RunModel
from scepsy.predictors.paths import busy_seconds_by_run
from scepsy.profile.model import kv_capacity_tokens
from scepsy.rng import stream
from scepsy.search.assemble import accepts, evaluate
from scepsy.search.climb import neighbours
from scepsy.search.knapsack import Items, backtrack, solve
from scepsy.search.problem import Problem
from scepsy.search.space import Options, Space, build_space
from scepsy.search.within import cost_items

RESAMPLES = 200
OPTIMA = 8
"""Relaxed optima of resamples that the plan is compared with, the most frequent first."""
NEIGHBOURS = 16
"""Neighbours of the plan that it is compared with, cheapest first."""


@dataclass(frozen=True)
class LlmView:
    """One LLM of the plan."""

    llm: str
    allocation: Allocation
    utilisation: float
    latency_share: float
    """Part of the weighted latency spent in this LLM."""
    gain_s_per_gpu: float
    """Weighted latency saved per further GPU by the best larger option of this LLM alone; 0 when none helps."""
    other_degrees: tuple[tuple[int, str], ...]
    """Every other tensor-parallel degree and why it was not chosen."""


@dataclass(frozen=True)
class Alternative:
    """A choice that packs and wins under some resampling of the trace."""

    allocations: tuple[Allocation, ...]
    wins: float
    """Part of the resamples in which it is the fastest."""


@dataclass(frozen=True)
class Explanation:
    """What ``plan --explain`` shows."""

    binding_llm: str
    binding_resource: str
    llms: tuple[LlmView, ...]
    gain_s_per_gpu: float
    """Weighted latency saved by one more GPU of the main type, by the frontier; 0 at the floor."""
    same_choice: float | None
    """Part of the bootstrap resamples of the trace in which no other allocation that packs is faster than the plan's own, by
    the critical path; None without traced runs or regressions."""
    alternatives: tuple[Alternative, ...]

    def lines(self) -> list[str]:
        """The explanation as sentences."""
        said = [f"{self.binding_llm} binds: {self.binding_resource}", f"one more GPU would save {self.gain_s_per_gpu:.3g} s"]
        for view in self.llms:
            a = view.allocation
            said.append(
                f"{view.llm}: {a.replicas} x TP {a.tensor_parallel} at {a.share_pct} %, utilisation {view.utilisation:.0%}, "
                f"{view.latency_share:.0%} of the latency, {view.gain_s_per_gpu:.3g} s saved per further GPU"
            )
            said.extend(f"{view.llm}: not TP {degree}: {why}" for degree, why in view.other_degrees)
        if self.same_choice is not None:
            said.append(
                f"over resamples of the trace the same allocation is best by the critical path in {self.same_choice:.0%}"
            )
            said.extend(
                f"in {item.wins:.0%}: "
                + ", ".join(f"{a.llm} {a.replicas} x TP {a.tensor_parallel} at {a.share_pct} %" for a in item.allocations)
                for item in self.alternatives
            )
        return said


def explain(plan: Plan, problem: Problem, *, seed: int = 0, resamples: int = RESAMPLES) -> Explanation:
    """Explain a plan at the problem's rates. Without traced runs the bootstrap is left out (``same_choice`` is None)."""
    space = build_space(problem)
    outlook = evaluate(problem, plan.allocations, plan.placement)
    by_llm = {a.llm: a for a in plan.allocations}
    views = []
    for options in space.llms:
        chosen = by_llm[options.llm]
        number = find(options, chosen, space)
        cost = float(options.cost_s[number]) if number is not None else float("nan")
        views.append(
            LlmView(
                llm=options.llm,
                allocation=chosen,
                utilisation=outlook.utilisation[options.llm],
                latency_share=cost / outlook.objective_s,
                gain_s_per_gpu=_gain(options, cost, chosen, space),
                other_degrees=_other_degrees(problem, options, cost, chosen, space),
            )
        )
    worst = max(views, key=lambda view: (view.utilisation, view.llm))
    costly = max(views, key=lambda view: (view.latency_share, view.llm))
    tight = worst.utilisation > 0.8 * problem.max_utilisation
    binding = worst if tight else costly
    resource = (
        f"its load is {worst.utilisation:.0%} of what its {worst.allocation.replicas} instances complete"
        if tight
        else f"{costly.latency_share:.0%} of the latency is spent in it"
    )
    same, others = _bootstrap(plan, problem, space, seed, resamples)
    return Explanation(
        binding_llm=binding.llm,
        binding_resource=resource,
        llms=tuple(views),
        gain_s_per_gpu=_next_gpu(space),
        same_choice=same,
        alternatives=others,
    )


def find(options: Options, allocation: Allocation, space: Space) -> int | None:
    """The number of the option that an allocation is; None when it is none of them."""
    if allocation.gpu_type not in space.gpu_types:
        return None
    same = (
        (options.share_pct == allocation.share_pct)
        & (options.tensor_parallel == allocation.tensor_parallel)
        & (options.replicas == allocation.replicas)
        & (options.gpu_type == space.gpu_types.index(allocation.gpu_type))
    )
    found = np.flatnonzero(same)
    return int(found[0]) if len(found) else None


def _gain(options: Options, cost: float, chosen: Allocation, space: Space) -> float:
    more = options.units * space.unit_pct - chosen.gpu_pct
    larger = (more > 0) & np.isfinite(options.cost_s)
    if not larger.any() or np.isnan(cost):
        return 0.0
    return max(0.0, float(((cost - options.cost_s[larger]) / (more[larger] / 100)).max()))


def _other_degrees(
    problem: Problem, options: Options, cost: float, chosen: Allocation, space: Space
) -> tuple[tuple[int, str], ...]:
    said = []
    for degree in problem.profiles.degrees(options.llm, chosen.gpu_type):
        if degree == chosen.tensor_parallel:
            continue
        mine = (options.tensor_parallel == degree) & np.isfinite(options.cost_s)
        if not mine.any():
            said.append((degree, _why_none(problem, options.llm, chosen.gpu_type, degree)))
            continue
        within = mine & (options.units * space.unit_pct <= chosen.gpu_pct)
        if not within.any():
            said.append((degree, _too_large(problem, options, chosen, degree, mine, space)))
            continue
        best = int(np.flatnonzero(within)[options.cost_s[within].argmin()])
        change = float(options.cost_s[best]) - cost
        word = "slower" if change >= 0 else "faster alone, but it does not fit beside the others"
        said.append(
            (
                degree,
                f"its best within the same GPUs ({int(options.replicas[best])} at {int(options.share_pct[best])} %) is "
                f"{abs(change):.3g} s {word}",
            )
        )
    return tuple(said)


def _too_large(
    problem: Problem, options: Options, chosen: Allocation, degree: int, mine: npt.NDArray[np.bool_], space: Space
) -> str:
    """Why the smallest option of a degree takes more GPUs than are used: the load, or the shares that were looked at."""
    least = float(options.units[mine].min()) * space.unit_pct / 100
    used = f"{chosen.gpu_pct / 100:.1f} are used"
    shares = [share for gpu, known, share in problem.index.kinds(options.llm) if (gpu, known) == (chosen.gpu_type, degree)]
    smallest = min(shares) * degree / 100
    if least > smallest + 1e-9:
        return f"carrying the load takes at least {least:.1f} GPUs, {used}"
    if min(shares) == 100:
        return f"it was looked at on whole GPUs only, which takes {least:.1f}, {used}"
    return f"its smallest share that holds the model takes {least:.1f} GPUs, {used}"


def _why_none(problem: Problem, llm: str, gpu_type: str, degree: int) -> str:
    """Why no option of that degree is finite: no curves of it, for lack of memory or of profiling, or none carries the load."""
    nodes = [node for node in problem.cluster.nodes if node.gpu_type == gpu_type]
    if degree > max((len(domain) for node in nodes for domain in node.domains), default=0):
        return f"no NVLink domain of {gpu_type} here has {degree} GPUs"
    if any((gpu, known) == (gpu_type, degree) for gpu, known, _ in problem.index.kinds(llm)):
        return "no instance of it holds the model and carries the load here"
    room = kv_capacity_tokens(problem.profiles.of(llm, gpu_type, degree), 100)
    longest = problem.longest_call_tokens.get(llm, 1)
    if room < longest:
        return f"no instance of it holds the model and its longest call ({longest} tokens)"
    return "its latency under load was not profiled"


def _next_gpu(space: Space) -> float:
    """Weighted latency that one more GPU of the largest type saves, packing left aside."""
    main = int(np.argmax(space.budgets))
    more = tuple(b + (100 // space.unit_pct if n == main else 0) for n, b in enumerate(space.budgets))
    table = solve(cost_items(space), more)[0]
    now, then = float(table[space.budgets]), float(table[more])
    return now - then if np.isfinite(now) else 0.0


def _bootstrap(
    plan: Plan, problem: Problem, space: Space, seed: int, resamples: int
) -> tuple[float | None, tuple[Alternative, ...]]:
    """Resample the traced runs, and see which allocation is the fastest by the critical path, as plans are compared.

    Candidates are the plan's own, the optima of the relaxed problem under the resamples, and the plan's neighbours; only those
    that pack on the plan's GPUs and are accepted there count.
    """
    models = problem.run_models
    if models is None or not problem.has_regressions or resamples < 1:
        return None, ()
    candidates = [plan.allocations, *_others(plan, problem, space, seed, resamples)]
    placements = [plan.placement, *(None for _ in candidates[1:])]
    seconds: list[list[Floats]] = []
    kept: list[tuple[Allocation, ...]] = []
    for allocations, placement in zip(candidates, placements, strict=True):
        found = _run_seconds(plan, problem, allocations, placement)
        if found is not None:
            kept.append(allocations)
            seconds.append(found)
    if not kept or kept[0] != plan.allocations:
        return None, ()
    wins = [0] * len(kept)
    for draw in range(resamples):
        rng = stream(seed, "explain", draw)
        total = np.zeros(len(kept))
        for w, weight in enumerate(problem.normal_weights):
            runs = len(seconds[0][w])
            picked = rng.integers(runs, size=runs)
            total += weight * np.array([found[w][picked].mean() for found in seconds])
        wins[int(total.argmin())] += 1  # of equal ones the first: the plan's own
    ranked = sorted(((count, n) for n, count in enumerate(wins) if n and count), key=lambda pair: (-pair[0], pair[1]))
    return wins[0] / resamples, tuple(Alternative(kept[n], count / resamples) for count, n in ranked[:3])


def _run_seconds(
    plan: Plan, problem: Problem, allocations: tuple[Allocation, ...], placement: Placement | None
) -> list[Floats] | None:
    """Expected seconds of every walked run, by workflow; None where the allocation does not pack or is not accepted."""
    own = placement is not None
    placed = placement if placement is not None else pack(layout(problem.cluster), allocations)
    if placed is None or not (own or _touched(placed) <= _most_gpus(plan, problem)):
        return None
    outlook = evaluate(problem, allocations, placed)
    models = problem.run_models
    assert models is not None, "asked only with runs"
    if not own and not accepts(problem, outlook):
        return None
    loads = call_rates_per_s(problem.uses, problem.rates_per_s)
    by_llm = {a.llm: a for a in allocations}
    found = []
    for use in problem.uses:
        times = {
            item.llm: critical_path.call_times(
                problem.index, use.workflow, by_llm[item.llm], loads[item.llm], slowdown=outlook.slowdown.get(item.llm, 1.0)
            )
            for item in use.llms
        }
        found.append(critical_path.run_seconds(models[use.workflow], times))
    return found


def _most_gpus(plan: Plan, problem: Problem) -> int:
    """GPUs that another allocation may touch: the plan's own where fewer were the goal, else all that were allowed."""
    if problem.goal.kind in ("gpus", "cost"):
        return len(plan.gpu_shares)
    return problem.goal.max_gpus or len(problem.cluster.gpus)


def _touched(placement: Placement) -> int:
    return len({gpu for slots in placement.values() for slot in slots for gpu in slot})


def _others(plan: Plan, problem: Problem, space: Space, seed: int, resamples: int) -> list[tuple[Allocation, ...]]:
    """Allocations to compare with: the most frequent relaxed optima of the resamples, then the plan's nearest neighbours."""
    models = problem.run_models
    assert models is not None, "asked only with runs"
    per_run = {use.workflow: _busy_by_run(models[use.workflow]) for use in problem.uses}
    weights = np.asarray(problem.normal_weights)
    optima: dict[tuple[int, ...], int] = {}
    for draw in range(resamples):
        rng = stream(seed, "explain", draw)
        factors: dict[str, list[float]] = {options.llm: [1.0] * len(problem.uses) for options in space.llms}
        for w, use in enumerate(problem.uses):
            busy = per_run[use.workflow]
            runs = next(iter(busy.values())).shape[0]
            picked = rng.integers(runs, size=runs)
            for llm, each in busy.items():
                mean = float(each.mean())
                factors[llm][w] = float(each[picked].mean()) / mean if mean > 0 else 1.0
        items = []
        for options in space.llms:
            scale = weights * np.asarray(factors[options.llm])
            cost = np.where(np.isfinite(options.cost_s), scale @ np.nan_to_num(options.busy_s, posinf=0.0), np.inf)
            items.append(Items(options.gpu_type, options.units, cost))
        choices = backtrack(items, solve(items, space.budgets), space.budgets)
        if choices is not None:
            optima[choices] = optima.get(choices, 0) + 1
    ranked = sorted(optima.items(), key=lambda pair: (-pair[1], pair[0]))[:OPTIMA]
    found = [space.allocations(choices) for choices, _ in ranked]
    found += islice(neighbours(space, plan.allocations), NEIGHBOURS)
    return [each for each in dict.fromkeys(found) if each != plan.allocations]


def _busy_by_run(model: RunModel) -> dict[str, Floats]:
    """Nominal busy seconds by LLM and run: enough to weigh runs against each other."""
    paths = model.paths
    durations = (
        NOMINAL_BASE_S + NOMINAL_S_PER_INPUT_TOKEN * paths.input_tokens + NOMINAL_S_PER_OUTPUT_TOKEN * paths.output_tokens
    )
    starts, ends = paths.walk(durations)
    found = {}
    for number, llm in enumerate(paths.llms):
        mine = paths.llm == number
        found[llm] = busy_seconds_by_run(paths.run[mine], paths.runs, starts[mine], ends[mine])
    return found
