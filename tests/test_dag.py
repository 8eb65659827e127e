"""A run as a graph: whole timelines by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scepsy.dag import latency_s, levels, longest_path_s, nominal_s, project, sibling_groups, timed, walk
from scepsy.workload import Call, Run


def call(
    name: str, llm: str, parents: str = "", gap: float = 0.0, times: tuple[float, float] | None = None, **more: int
) -> Call:
    start, end = times or (None, None)
    return Call(
        id=name, llm=llm, input_tokens=more.get("i", 10), output_tokens=more.get("o", 5), parents=tuple(parents), gap_s=gap,
        start_s=start, end_s=end,
    )  # fmt: skip


def run(*calls: Call, tail: float = 0.0) -> Run:
    return Run(id="r", workflow="w", calls=calls, tail_s=tail)


# plan(A) at 0-2; tool 1 s; two B calls 3-5 and 3-7; A joins at 7.5-8; tail 0.5
DIAMOND = run(
    call("p", "A", times=(0.0, 2.0)),
    call("x", "B", "p", gap=1.0, times=(3.0, 5.0)),
    call("y", "B", "p", gap=1.0, times=(3.0, 7.0)),
    call("j", "A", "xy", gap=0.5, times=(7.5, 8.0)),
    tail=0.5,
)


def test_walk_gives_the_whole_timeline():
    assert walk(DIAMOND, [2.0, 2.0, 4.0, 0.5]) == ([0.0, 3.0, 3.0, 7.5], [2.0, 5.0, 7.0, 8.0])
    assert longest_path_s(DIAMOND, [2.0, 2.0, 4.0, 0.5]) == 8.5
    assert longest_path_s(DIAMOND, [1.0, 9.0, 1.0, 1.0]) == 1.0 + 1.0 + 9.0 + 0.5 + 1.0 + 0.5


def test_timed_keeps_recorded_times():
    assert timed(DIAMOND) is DIAMOND


def test_timed_fills_in_nominal_times_after_recorded_parents():
    half = run(call("a", "A", times=(1.0, 4.0)), call("b", "B", "a", gap=2.0, i=1000, o=100))
    filled = timed(half)
    assert filled.calls[0] == half.calls[0]
    assert (filled.calls[1].start_s, filled.calls[1].end_s) == (6.0, 6.0 + 0.010 + 0.06 + 1.2)
    assert nominal_s(half.calls[1]) == pytest.approx(1.27)


def test_projection_turns_everything_else_into_gaps():
    b = project(DIAMOND, "B")
    assert b is not None
    assert [(c.id, c.parents, c.gap_s) for c in b.calls] == [("x", (), 3.0), ("y", (), 3.0)]
    assert b.tail_s == 1.5
    a = project(DIAMOND, "A")
    assert a is not None
    assert [(c.id, c.parents, c.gap_s) for c in a.calls] == [("p", (), 0.0), ("j", ("p",), 5.5)]
    assert a.tail_s == 0.5


def test_projection_of_an_llm_that_is_not_called():
    assert project(DIAMOND, "C") is None


def test_projection_skips_over_several_others_to_the_nearest_of_its_own():
    chain = run(
        call("a", "A", times=(0, 1)),
        call("b", "B", "a", times=(1, 2)),
        call("c", "C", "b", times=(2, 3)),
        call("d", "A", "c", times=(3, 4)),
        call("e", "A", "bd", times=(4, 6)),
    )
    kept = project(chain, "A")
    assert kept is not None
    assert [(c.id, c.parents) for c in kept.calls] == [("a", ()), ("d", ("a",)), ("e", ("a", "d"))]


def test_projection_gap_is_never_negative():
    # The clock says that b began before a ended, the graph says that it waited.
    odd = run(call("a", "A", times=(0.0, 2.0)), call("b", "A", "a", times=(1.5, 3.0)))
    kept = project(odd, "A")
    assert kept is not None
    assert [c.gap_s for c in kept.calls] == [0.0, 0.0]


def test_siblings_are_what_is_issued_together():
    assert [[c.id for c in group] for group in sibling_groups(DIAMOND)] == [["p"], ["x", "y"], ["j"]]
    apart = run(call("p", "A"), call("x", "B", "p"), call("y", "B", "p", gap=1.0))
    assert [[c.id for c in group] for group in sibling_groups(apart)] == [["p"], ["x"], ["y"]]


def test_levels():
    assert levels(DIAMOND) == {"p": 0, "x": 1, "y": 1, "j": 2}


@st.composite
def graphs(draw: st.DrawFn) -> Run:
    count = draw(st.integers(1, 8))
    seconds = st.floats(0, 100, allow_nan=False)
    calls = []
    for index in range(count):
        parents = draw(st.lists(st.sampled_from(range(index)), unique=True)) if index else []
        calls.append(
            Call(
                id=str(index), llm=draw(st.sampled_from("ABC")), input_tokens=draw(st.integers(1, 9999)),
                output_tokens=draw(st.integers(1, 999)), parents=tuple(map(str, parents)), gap_s=draw(seconds),
            )
        )  # fmt: skip
    return Run(id="r", workflow="w", calls=tuple(calls), tail_s=draw(seconds))


@settings(max_examples=150)
@given(graphs())
def test_projections_replayed_alone_start_and_end_when_the_whole_run_did(whole):
    reference = timed(whole)
    seen = 0
    for llm in "ABC":
        part = project(whole, llm)
        mine = [c for c in reference.calls if c.llm == llm]
        if part is None:
            assert mine == []
            continue
        seen += len(part.calls)
        starts, _ = walk(part, [c.duration_s for c in mine])
        assert starts == pytest.approx([c.start_s for c in mine], abs=1e-6)
        assert longest_path_s(part, [c.duration_s for c in mine]) == pytest.approx(latency_s(reference), abs=1e-6)
        assert all(c.gap_s >= 0 for c in part.calls)
    assert seen == len(whole.calls)


@settings(max_examples=100)
@given(graphs())
def test_levels_and_siblings_cover_every_call_once(whole):
    depth = levels(whole)
    assert all(depth[parent] < depth[c.id] for c in whole.calls for parent in c.parents)
    assert sorted(c.id for group in sibling_groups(whole) for c in group) == sorted(c.id for c in whole.calls)
