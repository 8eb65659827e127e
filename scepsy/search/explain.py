"""Why this plan: what binds, what one more GPU unit would bring, why not another degree, and how sure the choice is."""

from dataclasses import dataclass
from math import fsum

import numpy as np

from scepsy.dag import NOMINAL_BASE_S, NOMINAL_S_PER_INPUT_TOKEN, NOMINAL_S_PER_OUTPUT_TOKEN
from scepsy.errors import Infeasible
from scepsy.plans import Allocation, Plan
from scepsy.predictors.aggregate import Floats
from scepsy.predictors.critical_path import RunModel
from scepsy.predictors.paths import busy_seconds_by_run
from scepsy.profile.model import kv_capacity_tokens
from scepsy.rng import stream
from scepsy.search.assemble import evaluate
from scepsy.search.knapsack import Items, backtrack, solve
from scepsy.search.problem import Problem
from scepsy.search.space import Options, Space, build_space
from scepsy.search.within import cost_items

RESAMPLES = 200


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
    """A choice that wins under some resampling of the trace."""

    allocations: tuple[Allocation, ...]
    wins: float
    """Part of the resamples in which it is the relaxed optimum."""


@dataclass(frozen=True)
class Explanation:
    """What ``plan --explain`` shows."""

    binding_llm: str
    binding_resource: str
    llms: tuple[LlmView, ...]
    gain_s_per_gpu: float
    """Weighted latency saved by one more GPU of the main type, by the frontier; 0 at the floor."""
    same_choice: float
    """Part of the bootstrap resamples of the trace in which the plan's own allocation is the optimum."""
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
        if self.alternatives:
            said.append(f"over resamples of the trace the same allocation is best in {self.same_choice:.0%}")
            said.extend(
                f"in {item.wins:.0%}: "
                + ", ".join(f"{a.llm} {a.replicas} x TP {a.tensor_parallel} at {a.share_pct} %" for a in item.allocations)
                for item in self.alternatives
            )
        return said


def explain(plan: Plan, problem: Problem, *, seed: int = 0, resamples: int = RESAMPLES) -> Explanation:
    """Explain a plan at the problem's rates. Without traced runs the bootstrap is left out (``same_choice`` is 1)."""
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
            least = float(options.units[mine].min()) * space.unit_pct / 100
            said.append((degree, f"carrying the load takes at least {least:.1f} GPUs, {chosen.gpu_pct / 100:.1f} are used"))
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


def _why_none(problem: Problem, llm: str, gpu_type: str, degree: int) -> str:
    """Why no option of that degree is finite: no curves of it, for lack of memory or of profiling, or none carries the load."""
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


def _bootstrap(plan: Plan, problem: Problem, space: Space, seed: int, resamples: int) -> tuple[float, tuple[Alternative, ...]]:
    """Resample the traced runs, scale each LLM's busy seconds by what the sample asks of it, and solve again."""
    models = problem.run_models
    if models is None or resamples < 1:
        return 1.0, ()
    per_run = {use.workflow: _busy_by_run(models[use.workflow]) for use in problem.uses}
    weights = np.asarray(problem.normal_weights)
    wins: dict[tuple[int, ...], int] = {}
    for draw in range(resamples):
        rng = stream(seed, "explain", draw)
        factors: dict[str, list[float]] = {options.llm: [1.0] * len(problem.uses) for options in space.llms}
        for w, use in enumerate(problem.uses):
            busy = per_run[use.workflow]
            runs = next(iter(busy.values())).shape[0]
            picked = rng.integers(runs, size=runs)
            for llm, seconds in busy.items():
                mean = float(seconds.mean())
                factors[llm][w] = float(seconds[picked].mean()) / mean if mean > 0 else 1.0
        items = []
        for options in space.llms:
            scale = weights * np.asarray(factors[options.llm])
            cost = np.where(np.isfinite(options.cost_s), scale @ np.nan_to_num(options.busy_s, posinf=0.0), np.inf)
            items.append(Items(options.gpu_type, options.units, cost))
        choices = backtrack(items, solve(items, space.budgets), space.budgets)
        if choices is not None:
            wins[choices] = wins.get(choices, 0) + 1
    total = sum(wins.values())
    if total == 0:
        raise Infeasible("no allocation carries the target rates: nothing to explain")
    ranked = sorted(wins.items(), key=lambda pair: (-pair[1], pair[0]))
    named = [Alternative(space.allocations(choices), count / total) for choices, count in ranked]
    own = set(plan.allocations)
    same = fsum(item.wins for item in named if set(item.allocations) == own)
    return same, tuple(item for item in named if set(item.allocations) != own)[:3]


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
