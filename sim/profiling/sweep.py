"""Many simulations at once: every combination of named parameters, over all cores or a cluster, with progress and ETA.

Parallelism is joblib's, so a sweep runs unchanged on its process pool (``loky``) or inside
``joblib.parallel_config("dask")`` or ``("ray")`` with a cluster behind it. Results come back in the order of the points,
whoever finished first.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, TypeVar

from scepsy.errors import InputError
from scepsy.progress import Progress, no_progress
from scepsy.workers import delayed, parallel

R = TypeVar("R")
Point = Mapping[str, Any]


def grid(**axes: Iterable[Any]) -> list[dict[str, Any]]:
    """Every combination, the last axis fastest.

    >>> grid(rate_per_s=[1.0, 2.0], seed=range(2))[1]
    {'rate_per_s': 1.0, 'seed': 1}
    """
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def sweep(evaluate: Callable[..., R], points: Sequence[Point], *, jobs: int = -1, progress: Progress = no_progress) -> list[R]:
    """Call ``evaluate(**point)`` for every point; results in the same order.

    ``jobs``: processes at once, −1 for one per core, 1 for none but this one. ``progress`` counts the results as they
    arrive. An exception in a worker ends the sweep and is raised here. Raises
    ``InputError`` without points.
    """
    if not points:
        raise InputError("sweep has 0 points: give every axis at least one value")
    work = (delayed(_numbered)(evaluate, number, point) for number, point in enumerate(points))
    results: Iterator[tuple[int, R]] = parallel(work, jobs=jobs, unordered=True, pre_dispatch="all", batch_size=1)
    found: dict[int, R] = {}
    for number, result in results:
        found[number] = result
        progress()
    return [found[number] for number in range(len(points))]


def _numbered(evaluate: Callable[..., R], number: int, point: Point) -> tuple[int, R]:
    return number, evaluate(**point)
