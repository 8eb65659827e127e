"""Arrivals: deterministic by name, the right rate and spread, trace and piecewise times exact."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scepsy.arrivals import arrival_times, issue, stream_names, users
from scepsy.backend import Stream, Workload
from scepsy.errors import InputError
from scepsy.rng import stream
from scepsy.workload import Arrivals, Call, Piece, Run, Trace, TraceSource


def made(count=3, workflow="w", arrivals=None, spacing=None):
    runs = tuple(
        Run(
            id=f"r{n}",
            workflow=workflow,
            calls=(Call(id="c", llm="m", input_tokens=1, output_tokens=1),),
            arrival_s=None if spacing is None else spacing[n],
        )
        for n in range(count)
    )
    return Stream(trace=Trace(source=TraceSource(origin="t"), runs=runs), arrivals=arrivals or Arrivals(rate_per_s=2.0))


@pytest.mark.parametrize(("kind", "cv"), [("poisson", 1.0), ("gamma", 2.0), ("gamma", 0.5), ("gamma", 4.0)])
def test_gaps_have_the_rate_and_the_coefficient_of_variation(kind, cv):
    times = np.array(list(islice(arrival_times(Arrivals(kind=kind, rate_per_s=5.0, cv=cv), stream(1, kind)), 200_000)))
    gaps = np.diff(times)
    # standard error of the mean is cv / √n: 5 of them
    assert gaps.mean() == pytest.approx(0.2, rel=5 * cv / np.sqrt(len(gaps)))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_piecewise_arrivals_follow_each_piece_and_repeat():
    pieces = (Piece(duration_s=10, rate_per_s=20), Piece(duration_s=30, rate_per_s=0), Piece(duration_s=10, rate_per_s=5))
    times = np.array(list(islice(arrival_times(Arrivals(kind="piecewise", pieces=pieces), stream(1, "p")), 50_000)))
    assert (np.diff(times) >= 0).all()
    inside = times % 50
    assert not ((inside > 10) & (inside < 40)).any()
    assert (inside <= 10).mean() == pytest.approx(200 / 250, abs=0.01)
    assert len(times) / (times[-1] / 50) == pytest.approx(250, rel=0.02)


def test_trace_arrivals_start_at_zero_and_scale_to_the_rate():
    spacing = [7.0, 8.0, 11.0]
    workload = Workload(streams=(made(arrivals=Arrivals(kind="trace"), spacing=spacing),), runs=10)
    assert [(at, run.id) for at, _, run in issue(workload)] == [(0.0, "r0"), (1.0, "r1"), (4.0, "r2")]
    faster = Workload(streams=(made(arrivals=Arrivals(kind="trace", rate_per_s=1.0), spacing=spacing),), runs=10)
    assert [at for at, _, _ in issue(faster)] == [0.0, 0.5, 2.0]  # 2 gaps in 4 s: 0.5/s, so twice as fast


def test_trace_arrivals_without_times_are_refused():
    with pytest.raises(InputError, match=r"run 'r0' has no arrival_s"):
        list(issue(Workload(streams=(made(arrivals=Arrivals(kind="trace")),), runs=1)))


def test_several_streams_are_merged_in_order_and_do_not_disturb_each_other():
    alone = list(issue(Workload(streams=(made(workflow="a"),), runs=50, seed=3)))
    both = list(issue(Workload(streams=(made(workflow="a"), made(workflow="b")), runs=100, seed=3)))
    assert [entry[0] for entry in both] == sorted(entry[0] for entry in both)
    mine = [entry for entry in both if entry[2].workflow == "a"]
    assert mine == alone[: len(mine)]
    assert len({entry[1] for entry in both}) == 100


def test_streams_of_one_workflow_get_names_of_their_own():
    workload = Workload(streams=(made(workflow="a"), made(workflow="a"), made(workflow="b")), runs=5)
    assert stream_names(workload) == ("a", "a#2", "b")


def test_horizon_ends_the_arrivals():
    times = [at for at, _, _ in issue(Workload(streams=(made(),), horizon_s=5.0))]
    assert times
    assert max(times) <= 5.0


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_a_prefix_of_the_runs_is_the_same_however_many_are_asked_for(seed, count):
    few = list(issue(Workload(streams=(made(),), runs=count, seed=seed)))
    many = list(issue(Workload(streams=(made(),), runs=2 * count, seed=seed)))
    assert many[:count] == few


def test_users_think_and_ask_by_streams_of_their_own():
    workload = Workload(streams=(made(arrivals=Arrivals(kind="closed", users=3, think_s=2.0)),), runs=10)
    assert list(issue(workload)) == []
    first = [list(islice(user, 400)) for user in users(workload)]
    assert [list(islice(user, 400)) for user in users(workload)] == first
    assert len({entry[1] for asked in first for entry in asked}) == 1200
    assert np.mean([entry[0] for asked in first for entry in asked]) == pytest.approx(2.0, rel=0.15)


def test_kinds_without_times_have_none():
    with pytest.raises(InputError, match=r"arrivals.kind is 'closed'"):
        next(arrival_times(Arrivals(kind="closed", users=1), stream(0, "x")))
