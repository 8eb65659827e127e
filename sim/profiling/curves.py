"""Curves by simulation: L_m(rate) and T_m of every (LLM, GPU type, degree, share, replicas) that a planner may choose.

Simulating every option at every rate would take minutes, and most of it would repeat itself. So per LLM and GPU type:

- one reference instance type (whole GPUs, the smallest degree with room for several of the longest calls) is simulated
  unloaded, saturated and at
  ``LOADS``; with several replicas at ``REPLICA_LOADS``;
- other degrees, and two smaller shares, are simulated unloaded, saturated and at ``CHECK_LOAD`` (shares with one and
  ``MANY_REPLICAS`` replicas, degrees with room for few calls with all counts); in between they follow the
  shape of the reference, since another instance of the same LLM mostly has another clock;
- other shares are interpolated in 1/share, the form of the share law; other replica counts follow the reference's ratios.

Each simulation yields a regression of call latency on tokens, and from it the means over *all* traced runs: a few
hundred simulated calls settle the regression, while the mean over runs as unequal as a beam search's would need thousands.
Warm-up (a part of the arrivals) and the time after the last arrival are left out.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, fsum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from scepsy.backend import Stream
from scepsy.errors import InputError
from scepsy.files.cache import cache_key, usable_cache
from scepsy.files.curves import load_curves, save_curves
from scepsy.predictors.aggregate import Floats
from scepsy.predictors.paths import Paths
from scepsy.profile.curve import Curve
from scepsy.profile.model import Profile, ProfileSet, kv_capacity_tokens
from scepsy.progress import Progress, no_progress
from scepsy.workers import delayed, parallel, require_jobs
from sim.profiling import bench as bench_module
from sim.profiling.bench import Bench, Calls, Duty, LlmLoad, fit_latency

UNLOADED_LOAD = 0.02
"""Where the unloaded measurement is filed."""
LOADS = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95)
REPLICA_LOADS = (0.6, 0.9)
CHECK_LOAD = 0.8
REPLICAS = (1, 4, 16)
MANY_REPLICAS = 16
"""The replica count besides 1 at which every instance type is simulated."""
FAN_OUT_REPLICAS = 64
"""Profiled too where a run issues more calls at once than the other counts have instances."""
LONG_PROMPT_BLOCKS = 64
"""Mean prompts longer than this many KV blocks are replayed with coarser blocks: rounding then costs under 1 % of a prompt."""
SHARES = tuple(range(10, 101, 10))

AIMED_CALLS = 1800
"""Calls per simulation to aim at."""
MAX_CALLS = 20_000
"""Longer simulations of several replicas are left out, and their count follows a smaller one; a single instance's are cut.

What makes a queue at high load is that the number of runs in flight wanders, over about a run's duration. A simulation cut to
fewer than ``ARRIVALS_PER_RUN`` of those hardly sees it: with 16 instances it then shows a fifth of the waiting.
"""
SATURATING_CALLS = 8_000
"""The same for what needs no steady queue: saturated instances, and the part of prompts that caches serve."""
MIN_RUNS = 100
"""Queueing behind other runs shows only with many of them, however many calls each makes."""
STEADY_RUNS = 400
"""The same from ``STEADY_LOAD`` on, up to ``SATURATING_CALLS`` calls: a queue settles ever slower, as 1 / (1 − utilisation)². A
hundred runs show two thirds of the waiting at 0.9."""
STEADY_LOAD = 0.6
WARMUP_PART = 0.3
ARRIVALS_PER_RUN = 3.0
"""Arrivals last at least this many run durations, so that the window sees the steady state."""
MEAN_CALLS_IN_KV = 4
"""A KV cache must hold the longest call, and this many mean ones: with fewer in flight an engine batches nothing."""
REFERENCE_KV_CALLS = 8
"""The reference type's KV cache holds this many of the longest calls, where any does: a starved one has a shape of its own."""
SMALL_MODEL_BYTES = 1_500_000_000
"""Models with fewer bytes of weights are not worth a tensor-parallel group: a step is mostly overhead."""
LEAST_CACHED_PART = 0.02
"""Part of prompt tokens served by the prefix cache from which on replicas are looked at for losing it."""
DEGREES_WITH_SHARES = 2
"""How many of the degrees, smallest first, are profiled at partial shares."""


COLUMNS = (
    "mean_s",
    "p50_s",
    "p95_s",
    "p99_s",
    "busy_s",
    "parallelism",
    "call_base_s",
    "call_s_per_input_token",
    "call_s_per_output_token",
    "call_residual_s",
    "sibling_factor",
    "residual_shared",
    "decoding",
    "stretchable",
)

REGRESSION = ("call_base_s", "call_s_per_input_token", "call_s_per_output_token")

Row = dict[str, float]
"""One value per column of ``Curve``."""
Rows = list[Row]
"""One row per calling workflow."""


@dataclass(frozen=True)
class MeasuredInstance:
    """One instance type: its capacity per instance by replicas, and rows by (replicas, utilisation)."""

    capacity_per_s: dict[int, float]
    rows: dict[tuple[int, float], Rows]


def profile_curves(
    streams: Sequence[Stream],
    profiles: ProfileSet,
    gpu_types: Sequence[str],
    *,
    shares: Sequence[int] = SHARES,
    degrees: Sequence[int] | None = None,
    replica_counts: Sequence[int] = REPLICAS,
    seed: int = 0,
    cache_dir: Path | None = None,
    jobs: int = 1,
    progress: Progress = no_progress,
) -> list[Curve]:
    """Profile every LLM that the streams call on every GPU type for which it has a profile.

    The streams' rates give the mix in which workflows share an LLM; the load is swept. ``shares`` are the shares to give
    curves for, ``degrees`` limits the tensor-parallel degrees (None: all profiled ones). With ``cache_dir``, what was
    profiled before from the same runs, profiles and settings is read back. ``progress`` counts pairs of
    LLM and GPU type. Raises ``InputError`` when an LLM has no profile, or fits no instance, on any of the GPU types.
    """
    llms = list(dict.fromkeys(llm for stream in streams for llm in stream.trace.llms))
    tasks = []
    for llm in llms:
        kinds = [_Task(llm, gpu, tuple(sorted({*shares, 100})), _degrees(profiles, llm, gpu, degrees)) for gpu in gpu_types]
        usable = [task for task in kinds if task.degrees]
        if not usable:
            raise InputError(f"LLM {llm}: no profile on {', '.join(gpu_types)}: add one to the profiles file")
        tasks.extend(usable)
    for replicas in replica_counts:
        if replicas < 1:
            raise InputError(f"replica_counts holds {replicas}: must be >= 1")
    counts = tuple(sorted({1, *replica_counts}))
    progress(0, total=len(tasks))
    require_jobs(jobs, "jobs")
    cache_dir = usable_cache(cache_dir) if cache_dir is not None else None
    work = (delayed(_cached)(task, _callers(streams, task.llm), profiles, counts, seed, cache_dir) for task in tasks)
    made: list[Curve] = []
    results: Iterator[list[Curve]] = parallel(work, jobs=min(jobs, len(tasks)))
    for curves in results:
        made.extend(curves)
        progress()
    for llm in llms:
        if not any(curve.llm == llm for curve in made):
            raise InputError(f"LLM {llm}: its longest call fits no instance on {', '.join(gpu_types)} at the profiled degrees")
    return made


@dataclass(frozen=True)
class _Task:
    llm: str
    gpu_type: str
    shares: tuple[int, ...]
    degrees: tuple[int, ...]


def _degrees(profiles: ProfileSet, llm: str, gpu_type: str, wanted: Sequence[int] | None) -> tuple[int, ...]:
    known = [degree for degree in profiles.degrees(llm, gpu_type) if wanted is None or degree in wanted]
    if known and profiles.llm(llm).weight_bytes < SMALL_MODEL_BYTES:
        return tuple(known[:1])
    return tuple(known)


def _callers(streams: Sequence[Stream], llm: str) -> list[Stream]:
    """The streams that call the LLM, their rates as parts of the sum.

    Load is swept, so only the mix matters: curves serve every target rate, and other workflows beside them change nothing.
    """
    calling = [stream for stream in streams if llm in stream.trace.llms]
    total = fsum(stream.arrivals.rate_per_s or 1.0 for stream in calling)
    return [
        Stream(
            trace=stream.trace,
            arrivals=msgspec.structs.replace(
                stream.arrivals, rate_per_s=float(f"{(stream.arrivals.rate_per_s or 1.0) / total:.9g}")
            ),
            order=stream.order,
        )
        for stream in calling
    ]


def _cached(
    task: _Task, streams: list[Stream], profiles: ProfileSet, counts: tuple[int, ...], seed: int, cache_dir: Path | None
) -> list[Curve]:
    if cache_dir is None:
        return _profile(task, streams, profiles, counts, seed)
    path = cache_dir / f"{_key(task, streams, profiles, counts, seed)}.curves.json"
    # A cache that is damaged or has become full is no reason to fail: what it lacks is computed.
    if path.exists():
        with contextlib.suppress(InputError):
            return list(load_curves(path))
    curves = _profile(task, streams, profiles, counts, seed)
    with contextlib.suppress(InputError, OSError):
        save_curves(path, curves)
    return curves


def _key(task: _Task, streams: list[Stream], profiles: ProfileSet, counts: tuple[int, ...], seed: int) -> str:
    mine = [p for p in profiles.profiles if (p.llm.name, p.gpu.name) == (task.llm, task.gpu_type)]

    def inputs() -> Iterator[Any]:
        yield [task.llm, task.gpu_type, task.shares, task.degrees, counts, seed]
        yield [mine, profiles.share_law, profiles.contention]
        for stream in streams:
            if task.llm in stream.trace.llms:
                yield [stream.arrivals, stream.order, stream.trace.prefix_block_tokens]
                yield from stream.trace.runs

    return cache_key(inputs(), (sys.modules[__name__], bench_module))


def _profile(task: _Task, streams: list[Stream], profiles: ProfileSet, counts: tuple[int, ...], seed: int) -> list[Curve]:
    of_degree = {degree: profiles.of(task.llm, task.gpu_type, degree) for degree in task.degrees}
    prompts = [
        call.input_tokens for stream in streams for run in stream.trace.runs for call in run.calls if call.llm == task.llm
    ]
    of_degree = {degree: _coarser(profile, float(np.mean(prompts))) for degree, profile in of_degree.items()}
    load = LlmLoad(task.llm, streams, next(iter(of_degree.values())).engine.block_tokens, seed)
    if counts == REPLICAS and load.largest_group > counts[-1]:
        counts = (*counts, FAN_OUT_REPLICAS)
    longest = max(int((paths.input_tokens + paths.output_tokens).max()) for paths in load.paths)
    mean = max(float((paths.input_tokens + paths.output_tokens).mean()) for paths in load.paths)
    kinds = _kinds(of_degree, task.shares, max(longest, ceil(MEAN_CALLS_IN_KV * mean)))
    if not kinds:
        return []
    roomy = [
        kind for kind in kinds if kind[1] == 100 and kv_capacity_tokens(of_degree[kind[0]], 100) >= REFERENCE_KV_CALLS * longest
    ]
    reference = min(roomy or [max(kind for kind in kinds if kind[1] == 100)])
    full = _measure_reference(Bench(load, of_degree[reference[0]], reference[1], profiles), counts)
    curves: list[Curve] = []
    for degree in sorted({degree for degree, _ in kinds}):
        offered = sorted(share for d, share in kinds if d == degree)
        known: dict[int, MeasuredInstance] = {}
        for share in _nodes(offered):
            if (degree, share) == reference:
                known[share] = full
            else:
                several: tuple[int, ...] = tuple(count for count in counts if count == MANY_REPLICAS) if share < 100 else ()
                if share == 100 and kv_capacity_tokens(of_degree[degree], share) < REFERENCE_KV_CALLS * longest:
                    several = counts[1:]
                known[share] = _measure_briefly(Bench(load, of_degree[degree], share, profiles), full, counts, several)
        for share in offered:
            measured = known.get(share) or _between(known, share)
            curves.extend(_curves(task, load, degree, share, measured, counts))
    return curves


def _coarser(profile: Profile, mean_prompt: float) -> Profile:
    """The profile with KV blocks doubled until a mean prompt has few of them: long prompts are slow to simulate block by
    block."""
    tokens = profile.engine.block_tokens
    while mean_prompt > LONG_PROMPT_BLOCKS * tokens:
        tokens *= 2
    return msgspec.structs.replace(profile, engine=msgspec.structs.replace(profile.engine, block_tokens=tokens))


def _kinds(of_degree: dict[int, Profile], shares: tuple[int, ...], longest: int) -> list[tuple[int, int]]:
    """The (degree, share) pairs that hold the model and its longest call; partial shares for the smallest degrees only."""
    fitting = [
        (degree, share)
        for degree, profile in of_degree.items()
        for share in shares
        if kv_capacity_tokens(profile, share) >= longest + profile.engine.block_tokens
    ]
    shared = sorted({degree for degree, _ in fitting})[:DEGREES_WITH_SHARES]
    return [(degree, share) for degree, share in fitting if share == 100 or degree in shared]


def _nodes(offered: Sequence[int]) -> list[int]:
    """The shares that are simulated: the smallest, the largest, and the one nearest to their geometric mean."""
    low, high = offered[0], offered[-1]
    middle = min(offered, key=lambda share: (abs(share - (low * high) ** 0.5), share))
    return sorted({low, middle, high})


def _measure_reference(bench: Bench, counts: tuple[int, ...]) -> MeasuredInstance:
    unloaded = _unloaded(bench, 1)
    single, cached = _capacity(bench, unloaded)
    capacity = {1: single}
    rows: dict[tuple[int, float], Rows] = {(1, UNLOADED_LOAD): unloaded}
    for utilisation in LOADS:
        rows[1, utilisation] = _loaded(bench, single, utilisation, 1, unloaded)
    for fewer, replicas in pairwise(counts):
        alone = _unloaded(bench, replicas)
        seen: dict[float, Rows] = {UNLOADED_LOAD: alone}
        capacity[replicas] = min(capacity[fewer], _capacity_of_several(bench, single, cached, replicas, alone))
        for utilisation in REPLICA_LOADS:
            if _affordable(bench, capacity[replicas], max(REPLICA_LOADS), replicas, alone):
                seen[utilisation] = _loaded(bench, capacity[replicas], utilisation, replicas, alone)
            else:  # too long a run to see that many replicas in their steady state: the next smaller count's ratio stands
                seen[utilisation] = _scaled(rows[fewer, utilisation], rows[fewer, UNLOADED_LOAD], alone)
        for utilisation in (UNLOADED_LOAD, *LOADS):
            rows[replicas, utilisation] = _by_ratio(rows, seen, utilisation)
    return MeasuredInstance(capacity, rows)


def _by_ratio(rows: dict[tuple[int, float], Rows], seen: dict[float, Rows], utilisation: float) -> Rows:
    """One replica's row times the ratio of several to one, interpolated between the loads at which both were simulated."""
    loads = sorted(seen)
    made = []
    for number, one in enumerate(rows[1, utilisation]):
        row = {}
        for name in COLUMNS:
            pairs = [(seen[load][number][name], rows[1, load][number][name]) for load in loads]
            if min(single for _, single in pairs) <= 0:
                row[name] = float(np.interp(utilisation, loads, [many for many, _ in pairs]))
            else:
                row[name] = one[name] * float(np.interp(utilisation, loads, [many / single for many, single in pairs]))
        made.append(row)
    return made


def _measure_briefly(
    bench: Bench, reference: MeasuredInstance, counts: tuple[int, ...], several: tuple[int, ...]
) -> MeasuredInstance:
    """Unloaded, saturated and one load, for one replica and the ``several`` counts; the reference gives the shape between.

    Other replica counts follow the reference's ratio to the nearest of those. A group of whole GPUs is the reference with a
    faster clock, and needs one replica only, unless its KV cache holds few calls: then queues form that the reference has
    not. A small share also has other step costs (share law).
    """
    unloaded = _unloaded(bench, 1)
    single, _ = _capacity(bench, unloaded)
    known = reference.capacity_per_s
    capacity = {replicas: single * known[replicas] / known[1] for replicas in counts}
    alone = {1: unloaded}
    for replicas in several:
        if _affordable(bench, capacity[replicas], CHECK_LOAD, replicas, unloaded):
            alone[replicas] = _unloaded(bench, replicas)
    rows: dict[tuple[int, float], Rows] = {}
    for replicas, low in alone.items():
        high = _loaded(bench, capacity[replicas], CHECK_LOAD, replicas, low)
        base, top = reference.rows[replicas, UNLOADED_LOAD], reference.rows[replicas, CHECK_LOAD]
        for utilisation in (UNLOADED_LOAD, *LOADS):
            like = reference.rows[replicas, utilisation]
            rows[replicas, utilisation] = _shaped(low, high, base, top, like, utilisation)
    for replicas in counts:
        if replicas not in alone:
            near = min(alone, key=lambda count: (abs(np.log(count / replicas)), count))
            for utilisation in (UNLOADED_LOAD, *LOADS):
                like = reference.rows[replicas, utilisation]
                rows[replicas, utilisation] = _scaled(like, reference.rows[near, utilisation], rows[near, utilisation])
    return MeasuredInstance(capacity, rows)


def _shaped(low: Rows, high: Rows, ref_low: Rows, ref_high: Rows, like: Rows, utilisation: float) -> Rows:
    """Between two measured rows as the reference lies between its own two."""
    made = []
    for a, b, ra, rb, r in zip(low, high, ref_low, ref_high, like, strict=True):
        row = {}
        for name in COLUMNS:
            # Coefficients of a regression trade places from point to point: they follow the mean they add up to.
            guide = "mean_s" if name in REGRESSION else name
            span = rb[guide] - ra[guide]
            steady = abs(span) <= 0.02 * abs(ra[guide]) or span == 0
            part = utilisation / CHECK_LOAD if steady else (r[guide] - ra[guide]) / span
            row[name] = max(a[name] + (b[name] - a[name]) * part, 0.0)
        made.append(row)
    return made


def _scaled(rows: Rows, old: Rows, new: Rows) -> Rows:
    """``rows`` times new / old, column by column."""
    return [
        {name: r[name] * n[name] / o[name] if o[name] > 0 else n[name] for name in COLUMNS}
        for r, o, n in zip(rows, old, new, strict=True)
    ]


def _between(known: dict[int, MeasuredInstance], share: int) -> MeasuredInstance:
    """Interpolate linearly in 1/share between the simulated shares: latencies, and the inverse of the capacity."""
    nodes = sorted(known)
    above = next(node for node in nodes if node >= share)
    below = nodes[nodes.index(above) - 1]
    weight = (1 / share - 1 / above) / (1 / below - 1 / above)
    low, high = known[below], known[above]
    capacity = {
        replicas: 1 / (weight / low.capacity_per_s[replicas] + (1 - weight) / high.capacity_per_s[replicas])
        for replicas in low.capacity_per_s
    }
    rows = {
        key: [
            {name: weight * a[name] + (1 - weight) * b[name] for name in COLUMNS}
            for a, b in zip(low.rows[key], high.rows[key], strict=True)
        ]
        for key in low.rows
    }
    return MeasuredInstance(capacity, rows)


# ---- single simulations ------------------------------------------------------------------------------------------------


def _calls_per_run(bench: Bench) -> float:
    return 1.0 / float(bench.load.mix.sum())


def _run_s(bench: Bench, rows: Rows) -> float:
    """Mean seconds from a replayed run's first call to the end of its last, everything in between included."""
    load = bench.load
    total = 0.0
    for mix, paths, row in zip(load.mix, load.paths, rows, strict=True):
        durations = (
            row["call_base_s"]
            + row["call_s_per_input_token"] * paths.input_tokens
            + row["call_s_per_output_token"] * paths.output_tokens
        )
        total += float(mix) * float(paths.span_s(durations).mean())
    return total / float(load.mix.sum())


def _runs_needed(bench: Bench, capacity: float, utilisation: float, replicas: int, unloaded: Rows) -> int:
    """Runs whose arrivals last ``ARRIVALS_PER_RUN`` run durations at that load, and make ``AIMED_CALLS`` calls."""
    per_run = _calls_per_run(bench)
    run_rate = utilisation * capacity * replicas / per_run
    in_flight = run_rate * _run_s(bench, unloaded) / (1.0 - 0.8 * utilisation)
    least = min(STEADY_RUNS, ceil(SATURATING_CALLS / per_run)) if utilisation >= STEADY_LOAD else MIN_RUNS
    return max(MIN_RUNS, least, ceil(AIMED_CALLS / per_run), ceil(ARRIVALS_PER_RUN * in_flight))


def _affordable(bench: Bench, capacity: float, utilisation: float, replicas: int, unloaded: Rows) -> bool:
    """Whether that many replicas can be seen in their steady state within ``MAX_CALLS``."""
    return _runs_needed(bench, capacity, utilisation, replicas, unloaded) * _calls_per_run(bench) <= MAX_CALLS


def _unloaded(bench: Bench, replicas: int) -> Rows:
    """One run at a time."""
    runs = max(MIN_RUNS // 5, min(ceil(AIMED_CALLS / 2 / _calls_per_run(bench)), MIN_RUNS))
    calls, duty = bench.replay(bench.load.closed(1, runs), replicas)
    return _rows(bench.load, calls, duty)


def _loaded(bench: Bench, capacity: float, utilisation: float, replicas: int, unloaded: Rows) -> Rows:
    """Open-loop arrivals at a part of the capacity; calls issued after the warm-up and before the last arrival count."""
    runs = _runs_needed(bench, capacity, utilisation, replicas, unloaded)
    runs = min(runs, max(MIN_RUNS, int(MAX_CALLS / _calls_per_run(bench))))
    workload = bench.load.offering(
        utilisation * capacity * replicas, runs, lambda inputs, outputs: _work_s(bench, inputs, outputs, 0.0)
    )
    calls, duty = bench.replay(workload, replicas, max(1, int(WARMUP_PART * runs)))
    first = calls.run > WARMUP_PART * runs
    # Run numbers follow arrivals, so a run's first call tells when it arrived, up to its first gap.
    last_arrival = float(calls.issued_s[calls.run == calls.run.max()].min())
    begin = float(calls.issued_s[first].min())
    window = calls.where((calls.issued_s >= begin) & (calls.issued_s <= last_arrival))
    return _rows(bench.load, window, duty, calls, unloaded)


def _capacity(bench: Bench, unloaded: Rows) -> tuple[float, float]:
    """Calls per second when saturated, and the part of prompt tokens that the prefix cache then serves.

    More users than the engine runs sequences; work counted while nobody is missing, and weighed by tokens, so that it
    does not matter in which part of their runs the users are.
    """
    load, spec = bench.load, bench.spec
    parallel = max(1.0, fsum(float(m) * row["parallelism"] for m, row in zip(load.mix, unloaded, strict=True)) / load.mix.sum())
    seats = spec.engine.max_num_seqs
    total_users = max(2, ceil(1.25 * seats / parallel))
    total_users = min(total_users, max(4, int(SATURATING_CALLS / 3 / _calls_per_run(bench))))
    runs = 3 * total_users
    calls, _ = bench.replay(load.closed(total_users, runs), 1)
    cached = float(calls.cached_tokens.sum() / calls.input_tokens.sum())
    starts = np.full(int(calls.run.max()) + 1, np.inf)
    np.minimum.at(starts, calls.run, calls.issued_s)
    begun = np.sort(starts[np.isfinite(starts)])
    begin, end = float(begun[min(total_users, len(begun) - 1)]), float(begun[-1])
    window = calls.where((calls.end_s > begin) & (calls.end_s <= end))
    if len(window) < 20 or end <= begin:
        begin, end = 0.0, float(calls.end_s.max())
        window = calls
    done = _work_s(bench, window.input_tokens, window.output_tokens, cached) / (end - begin)
    return done / _work_per_call_s(bench, cached), cached


def _work_s(bench: Bench, inputs: Floats, outputs: Floats, cached: float) -> float:
    """Engine seconds of calls in a full batch, to weigh calls against each other."""
    step, engine = bench.spec.step, bench.spec.engine
    per_output = step.decode_s_per_sequence + step.weights_s(engine.max_num_seqs) / engine.max_num_seqs
    # Where prompts cost no more than the steps they take (an embedder fitted so), tokens share the steps that they fill.
    per_input = step.prefill_s_per_token or step.weights_s(engine.max_num_batched_tokens) / engine.max_num_batched_tokens
    return float((per_input * (1 - cached) * inputs + per_output * outputs).sum())


def _work_per_call_s(bench: Bench, cached: float) -> float:
    """The same for the mean call of all workflows in their proportion."""
    load = bench.load
    return fsum(
        float(mix) * _work_s(bench, paths.input_tokens, paths.output_tokens, cached) / paths.runs
        for mix, paths in zip(load.mix, load.paths, strict=True)
    )


def _capacity_of_several(bench: Bench, single: float, cached: float, replicas: int, unloaded: Rows) -> float:
    """Calls per second and instance when a run's calls spread over ``replicas`` instances and miss each other's prefixes.

    A short replay shows what part of the prompts the caches still serve; the capacity falls as the work per call grows.
    """
    if cached < LEAST_CACHED_PART:
        return single
    most = max(MIN_RUNS, int(SATURATING_CALLS / _calls_per_run(bench)))
    runs = min(_runs_needed(bench, single, 0.5, replicas, unloaded), most)
    calls, _ = bench.replay(bench.load.open(0.5 * single * replicas, runs), replicas)
    kept = float(calls.cached_tokens.sum() / calls.input_tokens.sum())
    return single * min(1.0, _work_per_call_s(bench, cached) / _work_per_call_s(bench, kept))


def _rows(load: LlmLoad, calls: Calls, duty: Duty, whole: Calls | None = None, fallback: Rows | None = None) -> Rows:
    """One row per workflow: regression of its calls, then means over all its traced runs."""
    rows = []
    for number, (paths, part) in enumerate(zip(load.paths, load.calling, strict=True)):
        mine = calls.where(calls.workflow == number)
        if len(mine) < 8 and whole is not None:
            mine = whole.where(whole.workflow == number)
        if len(mine) == 0:
            if fallback is None:
                raise InputError(f"profiling {load.llm}: workflow {load.traces[number].workflows[0]} issued no call")
            rows.append(fallback[number])
            continue
        fit = fit_latency(mine)
        durations = fit.durations_s(paths.input_tokens, paths.output_tokens)
        busy = float(paths.busy_s(durations).mean()) * fit.group_factor
        p50, p95, p99 = np.percentile(mine.latency_s, (50, 95, 99)).tolist()
        rows.append(
            {
                "mean_s": float(durations.mean()),
                "p50_s": p50,
                "p95_s": p95,
                "p99_s": p99,
                "busy_s": busy * part,
                "parallelism": max(1.0, float(durations.mean()) * len(paths) / paths.runs / busy),
                "call_base_s": fit.base_s,
                "call_s_per_input_token": fit.s_per_input_token,
                "call_s_per_output_token": fit.s_per_output_token,
                "call_residual_s": fit.residual_s,
                "sibling_factor": fit.group_factor,
                "residual_shared": fit.residual_shared,
                "decoding": duty.decoding,
                "stretchable": duty.stretchable,
            }
        )
    return rows


def _curves(
    task: _Task, load: LlmLoad, degree: int, share: int, measured: MeasuredInstance, counts: tuple[int, ...]
) -> list[Curve]:
    made = []
    for number, trace in enumerate(load.traces):
        for replicas in counts:
            points = sorted(u for r, u in measured.rows if r == replicas)
            curve = Curve(
                workflow=trace.workflows[0],
                llm=task.llm,
                gpu_type=task.gpu_type,
                tensor_parallel=degree,
                share_pct=share,
                replicas=replicas,
                capacity_per_s=measured.capacity_per_s[replicas],
                utilisation=tuple(points),
                **{name: tuple(measured.rows[replicas, u][number][name] for u in points) for name in COLUMNS},
            )
            made.append(_anchored(_monotone(curve), load.paths[number], load.calling[number]))
    return made


def _monotone(curve: Curve) -> Curve:
    """Latency cannot fall with load: what a short simulation shows against it is noise."""
    rising = ("mean_s", "p50_s", "p95_s", "p99_s", "busy_s")
    return msgspec.structs.replace(
        curve, **{name: tuple(np.maximum.accumulate(getattr(curve, name)).tolist()) for name in rising}
    )


def _anchored(curve: Curve, paths: Paths, calling: float) -> Curve:
    """Regressions scaled so that they give the curve's own mean and busy seconds over the traced runs.

    Interpolating coefficients one by one does not keep their sum.
    """
    columns: dict[str, list[float]] = {name: [] for name in (*REGRESSION, "sibling_factor")}
    for n, mean in enumerate(curve.mean_s):
        base, per_input, per_output = (getattr(curve, name)[n] for name in REGRESSION)
        durations = base + per_input * paths.input_tokens + per_output * paths.output_tokens
        if not durations.any():
            base, durations = mean, np.full(len(paths), mean)
        factor = mean / float(durations.mean())
        for name, value in zip(REGRESSION, (base, per_input, per_output), strict=True):
            columns[name].append(value * factor)
        walked = float(paths.busy_s(durations * factor).mean()) * calling
        columns["sibling_factor"].append(curve.busy_s[n] / walked if walked > 0 else 1.0)
    return msgspec.structs.replace(curve, **{name: tuple(values) for name, values in columns.items()})
