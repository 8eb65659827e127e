"""Curves by simulation: L_m(rate) and T_m of every (LLM, GPU type, degree, share, replicas) that a planner may choose.

Every option is simulated: unloaded, saturated, and at each of ``points.LOADS``, until the standard error of its mean latency
is ``points.STANDARD_ERROR`` or the calls of a point are used up. Curves carry the standard error. Nothing is inferred from
other options.

Each simulation yields a regression of call latency on tokens, and from it the means over *all* traced runs
(``sim.profiling.regression``).
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, fsum, inf
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from scepsy.backend import Stream
from scepsy.errors import InputError
from scepsy.files.cache import cache_key, usable_cache
from scepsy.files.curves import load_curves, save_curves
from scepsy.predictors.paths import Paths
from scepsy.profile.curve import Curve
from scepsy.profile.model import Profile, ProfileSet, kv_capacity_tokens
from scepsy.progress import Progress, no_progress
from scepsy.workers import delayed, parallel, require_jobs
from sim.profiling import bench, load, points, regression
from sim.profiling.bench import Bench
from sim.profiling.load import LlmLoad

REPLICAS = (1, 4, 16)
FAN_OUT_REPLICAS = 64
"""Profiled too where a run issues more calls at once than the other counts have instances."""
SHARES = tuple(range(10, 101, 10))
MEAN_CALLS_IN_KV = 4
"""A KV cache must hold the longest call, and this many mean ones: with fewer in flight an engine batches nothing."""
SMALL_MODEL_BYTES = 1_500_000_000
"""Models with fewer bytes of weights are not worth a tensor-parallel group: a step is mostly overhead."""

REGRESSION = ("call_base_s", "call_s_per_input_token", "call_s_per_output_token")
RISING = ("mean_s", "p50_s", "p95_s", "p99_s", "busy_s")
_decisive = (sys.modules[__name__], points, bench, load, regression)
"""Modules whose constants decide what comes out. No constant itself: a module's text names the folder it lies in."""


def profile_curves(
    streams: Sequence[Stream],
    profiles: ProfileSet,
    gpu_types: Sequence[str],
    *,
    shares: Sequence[int] = SHARES,
    degrees: Sequence[int] | None = None,
    gpus: Mapping[str, int] | None = None,
    replica_counts: Sequence[int] = REPLICAS,
    seed: int = 0,
    cache_dir: Path | None = None,
    jobs: int = 1,
    progress: Progress = no_progress,
) -> list[Curve]:
    """Profile every LLM that the streams call on every GPU type for which it has a profile.

    The streams' rates give the mix in which workflows share an LLM; the load is swept. ``shares`` are the shares to give
    curves for, ``degrees`` limits the tensor-parallel degrees (None: all profiled ones). ``gpus`` says how many GPUs of each
    type there are: more replicas than those hold are not profiled. With ``cache_dir``, what was profiled before from the
    same runs, profiles and settings is read back. ``progress`` counts pairs of LLM and GPU type. Raises ``InputError`` when
    an LLM has no profile, or fits no instance, on any of the GPU types.
    """
    llms = list(dict.fromkeys(llm for stream in streams for llm in stream.trace.llms))
    tasks = []
    for llm in llms:
        kinds = [
            _Task(llm, gpu, tuple(sorted({*shares, 100})), _degrees(profiles, llm, gpu, degrees), _rounded(gpus, gpu))
            for gpu in gpu_types
        ]
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
    callers = {llm: _callers(streams, llm) for llm in llms}
    paths = [cache_dir and cache_dir / f"{_key(task, callers[task.llm], profiles, counts, seed)}.curves.json" for task in tasks]
    found = {number: curves for number, path in enumerate(paths) if (curves := _kept(path)) is not None}
    for _ in found:
        progress()
    missing = [number for number in range(len(tasks)) if number not in found]
    if missing:  # workers take as long to start as all curves to be read
        work = (delayed(_made)(tasks[n], callers[tasks[n].llm], profiles, counts, seed, paths[n]) for n in missing)
        results: Iterator[list[Curve]] = parallel(work, jobs=min(jobs, len(missing)))
        for number, curves in zip(missing, results, strict=True):
            found[number] = curves
            progress()
    made = [curve for number in range(len(tasks)) for curve in found[number]]
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
    gpus: int | None
    """GPUs of the type; None: any number."""


def _rounded(gpus: Mapping[str, int] | None, gpu_type: str) -> int | None:
    """The next power of two, so that clusters of like size share their curves."""
    return None if gpus is None else 1 << max(gpus.get(gpu_type, 1) - 1, 0).bit_length()


def _degrees(profiles: ProfileSet, llm: str, gpu_type: str, wanted: Sequence[int] | None) -> tuple[int, ...]:
    known = [degree for degree in profiles.degrees(llm, gpu_type) if wanted is None or degree in wanted]
    if known and profiles.llm(llm).weight_bytes < SMALL_MODEL_BYTES:
        return tuple(known[:1])
    return tuple(known)


def _callers(streams: Sequence[Stream], llm: str) -> list[Stream]:
    """The streams that call the LLM, their rates as parts of the sum.

    LlmLoad is swept, so only the mix matters: curves serve every target rate, and other workflows beside them change nothing.
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


def _kept(path: Path | None) -> list[Curve] | None:
    """What the cache holds; None where it holds nothing, or nothing whole: what it lacks is computed."""
    if path is not None and path.exists():
        with contextlib.suppress(InputError):
            return list(load_curves(path))
    return None


def _made(
    task: _Task, streams: list[Stream], profiles: ProfileSet, counts: tuple[int, ...], seed: int, path: Path | None
) -> list[Curve]:
    """Profile, and keep the result. A cache that has become full is no reason to fail."""
    curves = _profile(task, streams, profiles, counts, seed)
    if path is not None:
        with contextlib.suppress(InputError, OSError):
            save_curves(path, curves)
    return curves


def _key(task: _Task, streams: list[Stream], profiles: ProfileSet, counts: tuple[int, ...], seed: int) -> str:
    mine = [p for p in profiles.profiles if (p.llm.name, p.gpu.name) == (task.llm, task.gpu_type)]

    def inputs() -> Iterator[Any]:
        yield [task.llm, task.gpu_type, task.shares, task.degrees, task.gpus, counts, seed]
        yield [mine, profiles.share_law, profiles.contention]
        for stream in streams:
            if task.llm in stream.trace.llms:
                yield [stream.arrivals, stream.order, stream.trace.prefix_block_tokens]
                yield from stream.trace.runs

    return cache_key(inputs(), _decisive)


def _profile(task: _Task, streams: list[Stream], profiles: ProfileSet, counts: tuple[int, ...], seed: int) -> list[Curve]:
    of_degree = {degree: profiles.of(task.llm, task.gpu_type, degree) for degree in task.degrees}
    calls = LlmLoad(task.llm, streams, next(iter(of_degree.values())).engine.block_tokens, seed)
    if counts == REPLICAS and calls.largest_group > counts[-1]:
        counts = (*counts, FAN_OUT_REPLICAS)
    longest = max(int((paths.input_tokens + paths.output_tokens).max()) for paths in calls.paths)
    mean = max(float((paths.input_tokens + paths.output_tokens).mean()) for paths in calls.paths)
    curves: list[Curve] = []
    for degree, share in _kinds(of_degree, task.shares, max(longest, ceil(MEAN_CALLS_IN_KV * mean))):
        those = _worth_profiling(counts, task.gpus, degree, share)
        if those:
            curves.extend(_curves(task, Bench(calls, of_degree[degree], share, profiles), those))
    return curves


def _worth_profiling(counts: tuple[int, ...], gpus: int | None, degree: int, share: int) -> tuple[int, ...]:
    """The replica counts up to the first that is at least as large as what the GPUs hold. Groups of whole GPUs that they do not
    hold have one curve, to say so."""
    if gpus is None:
        return counts
    most = gpus * 100 // (degree * share) if degree <= gpus else 0
    if most == 0 and share < 100:
        return ()
    return counts[: 1 + sum(count < most for count in counts)]


def _kinds(of_degree: dict[int, Profile], shares: tuple[int, ...], longest: int) -> list[tuple[int, int]]:
    """The (degree, share) pairs that hold the model and its longest call."""
    return [
        (degree, share)
        for degree, profile in of_degree.items()
        for share in shares
        if kv_capacity_tokens(profile, share) >= longest + profile.engine.block_tokens
    ]


def _curves(task: _Task, instance: Bench, counts: tuple[int, ...]) -> list[Curve]:
    """The curves of one instance type: by workflow and number of replicas."""
    calls, made = instance.load, []
    capacity = inf
    for replicas in counts:
        alone = points.unloaded(instance, replicas)
        # On more instances a run's calls can only miss more of each other's prefixes.
        capacity = min(capacity, points.capacity_per_s(instance, replicas, alone)[0])
        seen = [(points.UNLOADED_LOAD, alone)]
        for utilisation in points.LOADS:
            seen.append((utilisation, points.loaded(instance, capacity, utilisation, replicas, seen)))
        rows = [each for _, each in seen]
        for number, workflow in enumerate(calls.workflows):
            curve = Curve(
                workflow=workflow,
                llm=task.llm,
                gpu_type=task.gpu_type,
                tensor_parallel=instance.profile.tensor_parallel,
                share_pct=instance.spec.share_pct,
                replicas=replicas,
                capacity_per_s=capacity,
                utilisation=(points.UNLOADED_LOAD, *points.LOADS),
                **points.columns(rows, number),
            )
            made.append(_anchored(_monotone(curve), calls.paths[number], calls.calling[number]))
    return made


def _monotone(curve: Curve) -> Curve:
    """Latency cannot fall with load: what a simulation shows against it is noise."""
    return msgspec.structs.replace(
        curve, **{name: tuple(np.maximum.accumulate(getattr(curve, name)).tolist()) for name in RISING}
    )


def _anchored(curve: Curve, paths: Paths, calling: float) -> Curve:
    """Regressions that give the curve's own mean and busy seconds over the traced runs, where ``_monotone`` moved those."""
    named: dict[str, list[float]] = {name: [] for name in (*REGRESSION, "sibling_factor")}
    for n, mean in enumerate(curve.mean_s):
        line = [getattr(curve, name)[n] for name in REGRESSION]
        durations = line[0] + line[1] * paths.input_tokens + line[2] * paths.output_tokens
        if not durations.any():
            line, durations = [mean, 0.0, 0.0], np.full(len(paths), mean)
        factor, siblings = mean / float(durations.mean()), curve.sibling_factor[n]
        if factor != 1.0 or n:
            walked = float(paths.busy_s(durations * factor).mean()) * calling
            siblings = curve.busy_s[n] / walked if walked > 0 else 1.0
        for name, value in zip(named, (*(value * factor for value in line), siblings), strict=True):
            named[name].append(value)
    return msgspec.structs.replace(curve, **{name: tuple(values) for name, values in named.items()})
