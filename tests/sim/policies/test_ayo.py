"""Ayo's graph passes and its run time, by hand."""

from collections.abc import Sequence

import msgspec
import pytest

from scepsy.generate import generate
from scepsy.plans import Allocation, Instance, Plan, Target
from scepsy.workload import Arrivals, Call, Run, Trace, TraceSource
from sim.policies.engines.ayo import EARLY, PART, known_blocks, optimised, pieces, pipelined, prefilled_early, without_implied
from sim.policies.orders.topology import topology
from sim.world.run import simulate
from tests.builders.by_hand import GPU, call, cluster, ends, profiles, replayed, run


def plan(llms: dict[str, int]) -> Plan:
    allocations, instances, gpus = [], [], iter(cluster(8).gpus)
    for llm, replicas in llms.items():
        allocations.append(Allocation(llm=llm, share_pct=100, tensor_parallel=1, replicas=replicas, gpu_type="G"))
        instances += [
            Instance(llm=llm, index=n, gpus=(next(gpus),), share_pct=100, memory_bytes=GPU.memory_bytes)
            for n in range(replicas)
        ]
    return Plan(
        planner="test",
        cluster=cluster(8),
        targets=(Target(workflow="w", arrivals=Arrivals(rate_per_s=1.0)),),
        allocations=tuple(allocations),
        instances=tuple(instances),
    )


def test_implied_dependencies_are_dropped_and_others_kept() -> None:
    chain = run(
        "r", call("a", "m"), call("b", "m", parents=["a"]), call("c", "m", parents=["a", "b"]), call("d", "m", parents=["a"])
    )
    assert [c.parents for c in without_implied(chain).calls] == [(), ("a",), ("b",), ("a",)]


def test_a_prompt_is_known_as_far_as_an_ancestor_had_it() -> None:
    tree = run(
        "r",
        call("a", "m", prefix=[1, 2]),
        call("b", "k", prefix=[1, 2, 3], parents=["a"]),
        call("c", "m", prefix=[1, 9], parents=["b"]),
    )
    assert known_blocks(tree) == {"a": 0, "b": 2, "c": 1}


def test_an_early_prefill_is_issued_with_the_parents_and_never_where_the_cache_has_it() -> None:
    tree = run(
        "r",
        call("a", "m", tokens=32, out=5, prefix=[1, 2]),
        call("b", "k", tokens=48, prefix=[1, 2, 3], parents=["a"]),
        call("c", "m", tokens=64, prefix=[1, 2, 3, 4], parents=["b"]),
    )
    made = prefilled_early(tree, 16)
    by_id = {c.id: c for c in made.calls}
    early = by_id["b" + EARLY]
    assert (early.llm, early.parents, early.output_tokens, early.prefix_hashes) == ("k", (), 0, (1, 2))
    assert early.input_tokens == round(32 * 1.075)
    assert by_id["b"].parents == ("a", "b" + EARLY)
    # c's ancestors' prompts hold three blocks; m itself has only seen two, k's prompt is another LLM's cache: prefilled early.
    assert by_id["c" + EARLY].parents == ("a",)
    assert prefilled_early(tree, 0) == tree


def test_the_known_part_is_off_the_critical_path() -> None:
    runs = (
        run(
            "r",
            call("a", "m", tokens=160, out=11, prefix=range(10)),
            call("b", "k", tokens=176, prefix=range(11), parents=["a"]),
        ),
    )
    trace = Trace(source=TraceSource(origin="test"), runs=runs, prefix_block_tokens=16)
    llms = profiles(["m", "k"])
    caching = tuple(
        msgspec.structs.replace(p, engine=msgspec.structs.replace(p.engine, prefix_caching=True)) for p in llms.profiles
    )
    llms = msgspec.structs.replace(llms, profiles=caching)
    plain = ends(simulate(plan({"m": 1, "k": 1}), replayed(*runs, block_tokens=16), profiles=llms))
    passed = optimised(trace)
    early = ends(simulate(plan({"m": 1, "k": 1}), replayed(*passed.runs, block_tokens=16), profiles=llms, router="ayo"))
    # a: 0.16 s prefill, 10 steps of 0.1 s. b: 176 tokens, of which 160 were prefilled meanwhile.
    assert plain["0/b"] == pytest.approx(1.16 + 0.176)
    assert early["0/b"] == pytest.approx(1.16 + 0.016)


def test_round_robin_but_a_call_follows_its_early_prefill() -> None:
    runs = tuple(
        run(
            f"r{n}",
            call("a", "m", tokens=32, out=2, prefix=[100 * n, 100 * n + 1]),
            call("b", "k", tokens=48, prefix=[100 * n, 100 * n + 1, 100 * n + 2], parents=["a"]),
            at_s=0.01 * n,
        )
        for n in range(3)
    )
    passed = optimised(Trace(source=TraceSource(origin="test"), runs=runs, prefix_block_tokens=16))
    records = simulate(
        plan({"m": 1, "k": 2}), replayed(*passed.runs, block_tokens=16), profiles=profiles(["m", "k"]), router="ayo"
    )
    where = {(row["run"], row["call"]): row["instance"] for row in records.calls.to_pylist()}
    for (name, item), instance in where.items():
        if item == "b":
            assert instance == where[name, "b" + EARLY]
    assert {where[name, "b"] for name, item in where if item == "b"} == {"k-0", "k-1"}


def embed(name: str, tokens: int, parent: str) -> Call:
    return Call(id=name, llm="k", kind="embed", input_tokens=tokens, parents=(parent,))


def expand(*parts: int, also: Sequence[str] = ()) -> Run:
    """One call of m whose answer is embedded by k in parts, and calls of m that wait for all of it."""
    calls = [call("write", "m", tokens=10, out=sum(parts))]
    calls += [embed(f"embed{n}", tokens, "write") for n, tokens in enumerate(parts)]
    return run("r", *calls, *(call(name, "m", parents=["write"]) for name in also))


def test_pieces_are_found_by_token_counts() -> None:
    assert pieces(expand(2, 3)) == {"write": ("embed0", "embed1")}
    assert pieces(expand(5)) == {}  # one taker: nothing to overlap
    whole = run("r", call("a", "m", out=5), *(embed(f"e{n}", 5, "a") for n in range(2)))
    assert pieces(whole) == {}  # each takes all of it
    assert pipelined(whole) == whole


def test_an_answer_is_decoded_piece_by_piece() -> None:
    made = pipelined(expand(2, 3, also=["after"]))
    by_id = {c.id: c for c in made.calls}
    assert [c.id for c in made.calls] == ["write" + PART + "0", "write", "embed0", "embed1", "after"]
    assert (by_id["write~part0"].input_tokens, by_id["write~part0"].output_tokens) == (10, 2)
    assert (by_id["write"].input_tokens, by_id["write"].output_tokens, by_id["write"].parents) == (12, 3, ("write~part0",))
    assert [by_id[name].parents for name in ("embed0", "embed1", "after")] == [("write~part0",), ("write",), ("write",)]


def test_what_takes_a_piece_runs_while_the_rest_is_decoded() -> None:
    llms = profiles(["m", "k"])
    plain = ends(simulate(plan({"m": 1, "k": 1}), replayed(expand(200, 2)), profiles=llms))
    passed = pipelined(expand(200, 2))
    early = ends(simulate(plan({"m": 1, "k": 1}), replayed(passed), profiles=llms, router="ayo"))
    # Whole: 0.01 + 201 steps of 0.1 = 20.11, then both embeddings in one iteration of 0.202 s.
    assert plain["0/embed0"] == plain["0/embed1"] == pytest.approx(20.11 + 0.202)
    # In pieces: 200 tokens by 0.01 + 19.9, then 0.2 s of embedding, while a prompt of 210 takes 0.21 and one token 0.1.
    assert early["0/embed0"] == pytest.approx(19.91 + 0.2)
    assert early["0/embed1"] == pytest.approx(19.91 + 0.21 + 0.1 + 0.002)


def test_pieces_stay_on_one_instance() -> None:
    runs = tuple(msgspec.structs.replace(pipelined(expand(2, 2, 2)), id=f"r{n}", arrival_s=0.01 * n) for n in range(4))
    records = simulate(plan({"m": 3, "k": 1}), replayed(*runs), profiles=profiles(["m", "k"]), router="ayo")
    where: dict[str, set[str]] = {}
    for row in records.calls.to_pylist():
        if row["call"].startswith("write"):
            where.setdefault(row["run"], set()).add(row["instance"])
    assert all(len(instances) == 1 for instances in where.values())
    assert len(set.union(*where.values())) == 3  # runs go round


def test_the_workflow_that_pipelining_is_for_is_pipelined() -> None:
    trace = generate("rag-expand", runs=5, seed=1)
    assert all(pieces(r) == {"expand": ("embed-0", "embed-1", "embed-2")} for r in trace.runs)
    before, after = trace.runs[0], optimised(trace).runs[0]
    assert sum(c.output_tokens for c in before.calls) == sum(c.output_tokens for c in after.calls)


def test_topology_serves_the_oldest_run_and_its_deepest_call_first() -> None:
    # Both runs ask for two calls of m while it is busy with r0's "first": the deep one leads to "after".
    def shape(name: str, at_s: float) -> object:
        return run(name, call("flat", "m"), call("deep", "m"), call("after", "k", parents=["deep"]), at_s=at_s)

    busy = run("r0", call("first", "m", tokens=500))
    load = replayed(busy, shape("r1", 0.1), shape("r2", 0.2))  # type: ignore[arg-type]
    llms = profiles(["m", "k"])
    # One sequence at a time, so that order shows.
    single = tuple(msgspec.structs.replace(p, engine=msgspec.structs.replace(p.engine, max_num_seqs=1)) for p in llms.profiles)
    llms = msgspec.structs.replace(llms, profiles=single)
    assert topology is not None
    ordered = ends(simulate(plan({"m": 1, "k": 1}), load, profiles=llms, queue_order="topology"))
    assert (ordered["1/deep"], ordered["1/flat"], ordered["2/deep"], ordered["2/flat"]) == (0.6, 0.7, 0.8, 0.9)
    fcfs = ends(simulate(plan({"m": 1, "k": 1}), load, profiles=llms))
    assert (fcfs["1/flat"], fcfs["1/deep"]) == (0.6, 0.7)
