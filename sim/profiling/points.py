"""One point of a curve: an instance type, so many replicas, a load; simulated until its mean latency is known precisely enough.

A replay begins in the steady state (``sim.profiling.load``). What is still missing there, the calls under way and the queue,
comes within a few call latencies, which are left out. Where the standard error is too large, other runs are replayed at other
times, and all calls count together.
"""

from collections.abc import Sequence
from math import ceil, isfinite

import numpy as np

from scepsy.errors import InputError
from scepsy.predictors.aggregate import Floats
from sim.profiling.bench import Bench
from sim.profiling.calls import Calls, Duty, joined
from sim.profiling.load import LlmLoad
from sim.profiling.regression import fit_latency

UNLOADED_LOAD = 0.02
"""Where the unloaded measurement is filed: one run at a time."""
LOADS = (0.3, 0.6, 0.8, 0.9, 0.95)
"""Between them, curves are read as a queue's grow (``scepsy.profile.curve.read_curve``)."""
STANDARD_ERROR = 0.03
"""Standard error over the mean, of latency and of busy seconds, at which a replay is long enough."""
PRECISE_TO = 0.8
"""LlmLoad up to which it is looked for. A queue needs ever more calls beyond: 1 / (1 − load)² times as many."""
GROUPS_BY_LOAD = {0.3: 400, 0.6: 800, 0.8: 1_600, 0.9: 2_000, 0.95: 2_000}
"""Sibling groups of a first replay, by load: a group comes at one instant, however many calls it has."""
MOST_REPLAYS = 3.0
"""All replays of a point together have at most this many times as many. Where they do not suffice, the error says so."""
MOST_CALLS = 20_000
"""And no more calls than these."""
MOST_BLOCKS = 2_000_000
"""And no more KV blocks of prompts: a prompt of 100,000 tokens takes as long to simulate as a hundred short ones."""
UNLOADED_CALLS = 600
UNLOADED_RUNS = (20, 100)
"""Runs of an unloaded measurement, at least and at most."""
LEAST_LATENCIES = 8.0
"""A replay lasts at least so many call latencies after its warm-up."""
WARMUP_LATENCIES = 3.0
WARMUP_STAGES = 2.0
"""Runs under way at the beginning have lost what the prefix cache held of them, until they have gone so many stages further."""
WARMUP_PART = 0.2
"""The warm-up lasts at least this part of a replay: a queue forms ever more slowly, the higher the load."""
DRAIN_LATENCIES = 2.0
"""After the last arrival, calls are given this many times what the longest is expected to take."""
SATURATING_ROUNDS = (2.0, 4.0)
"""Runs of each saturated user, before those that count and in all. Users begin together, so that short calls end first: the
first rounds have too many of them. Several replicas have more calls to count in half a round than one in two."""
SEVERAL_ROUNDS = (1.25, 2.0)
MOST_SATURATING_CALLS = 8_000
USERS_PER_SEAT = 1.25
"""Saturating users' calls over the sequences that an engine runs at once."""
STARVED_KV_PART = 0.6
"""A KV cache that holds less than this part of the sequences an engine may run: fewer users may get more done."""
LEAST_CACHED_PART = 0.02
"""Part of prompt tokens served by the prefix cache from which on gaps and other replicas matter to it."""

Row = dict[str, float]
"""One value per column of ``Curve``."""
Rows = list[Row]
"""One row per calling workflow."""


def unloaded(bench: Bench, replicas: int) -> Rows:
    """One run at a time, nothing between its calls."""
    low, high = UNLOADED_RUNS
    runs = max(low, min(ceil(UNLOADED_CALLS / bench.load.per_run), high))
    calls, duty = bench.replay(bench.load.users(1, runs), replicas)
    return rows_of(bench.load, calls, duty)


def loaded(bench: Bench, capacity: float, utilisation: float, replicas: int, before: Sequence[tuple[float, Rows]]) -> Rows:
    """Open-loop arrivals at a part of the capacity.

    ``before``: rows at smaller loads, from which call latencies are guessed: runs are under way for as long, at the beginning.
    """
    load, rate = bench.load, utilisation * capacity * replicas
    durations = expected_s(load, before, utilisation)
    mean = float(np.dot(load.mix * load.calls_per_run, [float(seconds.mean()) for seconds in durations]))
    stage = max(
        float(paths.span_s(seconds).mean()) / stages if stages > 1 else 0.0
        for paths, stages, seconds in zip(load.paths, load.stages, durations, strict=True)
    )
    longest = max(float(seconds.max()) for seconds in durations)
    most = min(MOST_REPLAYS * GROUPS_BY_LOAD[utilisation] * load.per_group, MOST_CALLS, MOST_BLOCKS / load.blocks)
    parts: list[Calls] = []
    wanted, done = int(min(GROUPS_BY_LOAD[utilisation] * load.per_group, most)), 0
    while True:
        window_s = max(wanted / rate, LEAST_LATENCIES * mean)
        warm_s = max(WARMUP_LATENCIES * mean, WARMUP_STAGES * stage, WARMUP_PART * window_s)
        lasts_s = warm_s + window_s
        source = load.steady(rate, lasts_s, durations, lambda i, o: work_s(bench, i, o, 0.0), len(parts))
        warm_runs = 1 + int(np.searchsorted(source.time_s, warm_s))
        calls, duty = bench.replay(source, replicas, warm_runs=warm_runs, drain_s=DRAIN_LATENCIES * longest)
        parts.append(calls.where((calls.issued_s >= warm_s) & (calls.issued_s <= lasts_s)))
        done += len(parts[-1])
        rows = rows_of(load, joined(parts), duty, before[-1][1])
        error = max(max(row["mean_error_s"] / row["mean_s"], row["busy_error_s"] / row["busy_s"]) for row in rows)
        if error <= STANDARD_ERROR or done >= 0.9 * most or utilisation > PRECISE_TO:
            return rows
        factor = (error / STANDARD_ERROR) ** 2 - 1.0 if isfinite(error) else 1.0
        wanted = int(min(max(factor, 0.5) * done, most - done)) + 1


def expected_s(load: LlmLoad, before: Sequence[tuple[float, Rows]], utilisation: float) -> list[Floats]:
    """Latency of every traced call, by workflow, as it grows from the last two loads: times 1 − load it is linear."""
    found = []
    for number, paths in enumerate(load.paths):
        row, factor = before[-1][1][number], 1.0
        if len(before) > 2:  # unloaded runs are alone: what siblings do to each other is not the load's doing
            (lower, low), (upper, high) = ((at, rows[number]["mean_s"]) for at, rows in before[-2:])
            slope = ((1 - upper) * high - (1 - lower) * low) / (upper - lower)
            there = ((1 - upper) * high + slope * (utilisation - upper)) / (1 - utilisation)
            factor = min(max(there / high, 1.0), (1 - upper) / (1 - utilisation))
        found.append(factor * durations_s(row, paths.input_tokens, paths.output_tokens))
    return found


def capacity_per_s(bench: Bench, replicas: int, alone: Rows) -> tuple[float, float]:
    """Calls per second and instance when saturated, and the part of prompt tokens that the prefix cache then serves.

    With more users than the engine runs sequences. A KV cache that cannot hold them may get more done with fewer, which
    preempt each other less and keep their prefixes: as many as do best. Where the prefix cache matters, users keep the
    gaps of their runs, in which others' calls may push out what they will ask for again.
    """
    load, spec = bench.load, bench.spec
    parallel = max(1.0, float(np.dot(load.mix, [row["parallelism"] for row in alone]) / load.mix.sum()))
    held = spec.kv_blocks * spec.engine.block_tokens / load.tokens_per_call
    users = max(2.0, USERS_PER_SEAT * spec.engine.max_num_seqs / parallel)
    calls = min(MOST_SATURATING_CALLS, MOST_BLOCKS / load.blocks)
    users = min(users, max(4.0, calls / SATURATING_ROUNDS[1] / load.per_run))
    best = _best(bench, 1, users, held < STARVED_KV_PART * spec.engine.max_num_seqs, gaps=False)
    if best[1] < LEAST_CACHED_PART:
        return best  # saturated instances without a cache have nothing to do with each other
    away = float(np.dot(load.mix, load.gaps_s) / load.mix.sum())
    users += best[0] / load.per_run * away
    return _best(bench, replicas, users, held < STARVED_KV_PART * spec.engine.max_num_seqs, gaps=True)


def _best(bench: Bench, replicas: int, users: float, starved: bool, *, gaps: bool) -> tuple[float, float]:
    """Saturated by so many users for each instance, or by fewer where more get less done."""
    best = saturated(bench, replicas, users, gaps=gaps)
    while starved and users > 4:
        users /= 2
        fewer = saturated(bench, replicas, users, gaps=gaps)
        if fewer[0] <= best[0]:
            break
        best = fewer
    return best


def saturated(bench: Bench, replicas: int, users: float, *, gaps: bool) -> tuple[float, float]:
    """Calls per second and instance of so many users per instance, and the part of prompt tokens served by the prefix cache.

    Work is counted while nobody is missing, and weighed by tokens, so that it does not matter in which part of their runs
    the users are.
    """
    total = ceil(users * replicas)
    before, rounds = SATURATING_ROUNDS if replicas == 1 else SEVERAL_ROUNDS
    source = bench.load.users(total, ceil(rounds * total), gaps=gaps)
    calls, _ = bench.replay(source, replicas, drain_s=0.0)
    begins = np.full(int(calls.run.max()) + 1, np.inf)
    np.minimum.at(begins, calls.run, calls.issued_s)
    begun = np.sort(begins[np.isfinite(begins)])
    begin, end = float(begun[min(int(before * total), len(begun) - 1)]), float(calls.end_s.max())
    window = calls.where((calls.end_s > begin) & (calls.end_s <= end))
    if len(window) < 20 or end <= begin:
        begin, window = 0.0, calls
    cached = float(window.cached_tokens.sum() / window.input_tokens.sum())
    done = work_s(bench, window.input_tokens, window.output_tokens, cached).sum() / (end - begin)
    return float(done) / _work_per_call_s(bench, cached) / replicas, cached


def work_s(bench: Bench, inputs: Floats, outputs: Floats, cached: float) -> Floats:
    """Engine seconds of calls in a full batch, to weigh calls against each other."""
    step, engine, spec = bench.spec.step, bench.spec.engine, bench.spec
    batch = max(1.0, min(float(engine.max_num_seqs), spec.kv_blocks * engine.block_tokens / bench.load.tokens_per_call))
    per_output = step.decode_s_per_sequence + step.weights_s(round(batch)) / batch
    context = step.context_s_per_token * outputs * (inputs + outputs / 2)
    # Where prompts cost no more than the steps they take (an embedder fitted so), tokens share the steps that they fill.
    per_input = step.prefill_s_per_token or step.weights_s(engine.max_num_batched_tokens) / engine.max_num_batched_tokens
    return per_input * (1 - cached) * inputs + per_output * outputs + context


def _work_per_call_s(bench: Bench, cached: float) -> float:
    """The same for the mean call of all workflows in their proportion."""
    load = bench.load
    each = [float(work_s(bench, p.input_tokens, p.output_tokens, cached).sum()) / p.runs for p in load.paths]
    return float(np.dot(load.mix, each))


def durations_s(row: Row, inputs: Floats, outputs: Floats) -> Floats:
    """Latency of calls as a row's regression has them, what siblings add included."""
    line = row["call_base_s"] + row["call_s_per_input_token"] * inputs + row["call_s_per_output_token"] * outputs
    return row["sibling_factor"] * line


def rows_of(load: LlmLoad, calls: Calls, duty: Duty, fallback: Rows | None = None) -> Rows:
    """One row per workflow: regression of its calls, then means over all its traced runs."""
    rows = []
    for number, (paths, part) in enumerate(zip(load.paths, load.calling, strict=True)):
        mine = calls.where(calls.workflow == number) if len(load.paths) > 1 else calls
        if len(mine) < 8:
            if fallback is None:
                raise InputError(f"profiling {load.llm}: workflow {load.workflows[number]} issued no call")
            rows.append(fallback[number])
            continue
        fit = fit_latency(mine, alone=load.largest_group == 1)
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
                "mean_error_s": fit.error_s,
                "busy_error_s": fit.group_error * busy * part,
            }
        )
    return rows


def columns(rows: Sequence[Rows], workflow: int) -> dict[str, tuple[float, ...]]:
    """The columns of one workflow's curve from its rows by load."""
    return {name: tuple(each[workflow][name] for each in rows) for name in rows[0][workflow]}
