"""MuxServe's placement and its run time, by hand; and its own result against first come first served."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scepsy.backend import Stream, Workload
from scepsy.errors import Infeasible, SimulationError
from scepsy.generate import generate
from scepsy.profile import catalogue
from scepsy.workload import Arrivals
from sim.policies.engines.muxserve import simulate_muxserve
from sim.policies.engines.muxserve_placement import (
    Demand,
    Estimator,
    Mesh,
    Tenant,
    candidate,
    cluster_partitions,
    node_partitions,
    place,
)
from tests.builders.by_hand import call, ends, profiles, replayed, run


def demand(llm: str, rate: float, tokens: float = 100, out: float = 10, copy: int = 0) -> Demand:
    return Demand(llm=llm, copy=copy, rate_per_s=rate, input_tokens=tokens, output_tokens=out)


def test_throughput_is_batch_over_prefills_and_decode() -> None:
    estimator = Estimator(profiles(["m", "k"], decode_s=0.01, prefill_s=0.001), "G")
    alone = Tenant(demand("m", 0.1), 100)
    # One call: 0.1 s prefill, 10 steps of 0.01 s.
    assert estimator.throughputs(1, [alone]) == pytest.approx([1 / (0.1 + 0.1)])
    both = [alone, Tenant(demand("k", 0.1, tokens=300), 100)]
    # Each also waits for the other's prefill: 0.1 + 0.3.
    assert estimator.throughputs(1, both) == pytest.approx([1 / (0.4 + 0.1), 1 / (0.4 + 0.1)])


def test_the_smallest_share_that_meets_the_rate_is_taken() -> None:
    estimator = Estimator(profiles(["m"], decode_s=0.01), "G")
    # Law k = 1: at 50 % a step takes twice as long. 1 / (0.1 + 10 · 0.01 / s) >= 3 needs s >= 0.43.
    chosen = candidate(estimator, demand("m", 3.0), 1)
    assert chosen is not None
    assert chosen.decode_share_pct == 50
    best = candidate(estimator, demand("m", 1e6), 1)
    assert best is not None
    assert best.decode_share_pct == 90


def test_partitions_cover_the_node() -> None:
    assert all(sum(sizes) == 8 for sizes in node_partitions(8))
    assert len(list(node_partitions(8))) == 10
    assert len(list(cluster_partitions([8, 8]))) == 55


def test_heavy_llms_are_placed_first_and_shares_stay_within_the_overcommit() -> None:
    estimator = Estimator(profiles(["m", "k", "j"], degrees=(1, 2)), "G")
    meshes = place([demand("m", 2.0), demand("k", 0.5), demand("j", 0.1)], [2], estimator)
    assert sorted(t.demand.llm for mesh in meshes for t in mesh.tenants) == ["j", "k", "m"]
    assert all(mesh.decode_pct <= 120 for mesh in meshes)


def test_a_larger_model_goes_before_a_smaller_one_that_is_called_more_often() -> None:
    large, small = profiles(["large"], weight_gb=26), profiles(["small"], weight_gb=7)
    both = msgspec.structs.replace(large, profiles=large.profiles + small.profiles)
    # Rate times size weight: 0.1 · 2 against 0.3 · 0.5. By the rate alone the small one would be placed first.
    meshes = place([demand("small", 0.3), demand("large", 0.1)], [1], Estimator(both, "G"))
    assert [t.demand.llm for mesh in meshes for t in mesh.tenants] == ["large", "small"]


def test_models_that_fit_nowhere_are_infeasible() -> None:
    with pytest.raises(Infeasible, match="no partition of 2 GPUs"):
        place([demand("m", 1.0)], [2], Estimator(profiles(["m"], weight_gb=150), "G"))


MESH = (Mesh(node=0, size=1, tenants=(Tenant(demand("m", 1.0), 50), Tenant(demand("k", 1.0), 50))),)


def test_prefills_take_turns_and_decodes_run_beside_each_other() -> None:
    load = replayed(run("a", call("x", "m", out=3)), run("b", call("x", "k", out=3)))
    found = ends(simulate_muxserve(load, MESH, profiles(["m", "k"]), "G"))
    # m prefills 0-0.1 on all SMs. At 0.1 k's prefill asks for 100 % and m's decode for 50: they get 67 and 33 %, so the
    # prefill ends at 0.1 + 0.1 / 0.67 and m's step at 0.1 + 0.1 / 0.33. From then on both decode at 50 %, 0.2 s a step.
    k_decodes, m_second = 0.1 + 0.1 / 0.67, 0.1 + 0.1 / 0.33
    assert found == {"0/x": round(m_second + 0.2, 9), "1/x": round(k_decodes + 0.4, 9)}


def test_a_job_that_has_all_sms_holds_up_one_that_comes_later() -> None:
    """Shares fixed at a start cannot add up to more SM time than there is: the later job ends later."""
    load = replayed(run("a", call("x", "m", out=3)), run("b", call("x", "k", tokens=1000), at_s=0.15))
    found = ends(simulate_muxserve(load, MESH, profiles(["m", "k"]), "G"))
    # m prefills 0-0.1, then decodes alone at 50 %: 0.1-0.3. At 0.15 k's prefill of 1 s gets 67 %: until 0.15 + 1/0.67. m's
    # step still needs 0.05 s of SM time by 0.3, the prefill 1 s by 1.64: both can be kept. m's last step gets 33 %.
    assert found == {"0/x": round(0.3 + 0.1 / 0.33, 9), "1/x": round(0.15 + 1 / 0.67, 9)}
    wide = (Mesh(node=0, size=1, tenants=tuple(Tenant(demand(llm, 1.0), 90) for llm in "mk")),)
    load = replayed(run("a", call("x", "m", out=2)), run("b", call("x", "k", tokens=20), at_s=0.15))
    found = ends(simulate_muxserve(load, wide, profiles(["m", "k"]), "G"))
    # m's one step at 90 %: 0.1-0.2111, 0.1 s of SM time. At 0.15 k's prefill of 0.02 s gets 100 of 190 %, 53 %, so it would end
    # at 0.1877. By 0.2111 the GPU has 0.0611 s for m's 0.05 and k's 0.02: k ends once both are done, at 0.22.
    assert found == {"0/x": round(0.1 + 0.1 / 0.9, 9), "1/x": 0.22}


def test_fcfs_runs_one_job_at_a_time() -> None:
    load = replayed(run("a", call("x", "m", out=3)), run("b", call("x", "k", out=3)))
    found = ends(simulate_muxserve(load, MESH, profiles(["m", "k"]), "G", policy="fcfs"))
    # Two prefills of 0.1, then four steps of 0.1 in turn.
    assert found == {"0/x": 0.5, "1/x": 0.6}


def test_a_full_llm_takes_a_tenth_of_the_others_free_blocks() -> None:
    # 200 tokens of KV in all, 100 each by quota; m's calls need 60 each: the second waits unless k gives up some of its blocks.
    kv = (100 - 2 * 16) * 10**9 // 200
    load = replayed(run("a", call("x", "m", tokens=50, out=10)), run("b", call("x", "m", tokens=50, out=10)))
    records = simulate_muxserve(load, MESH, profiles(["m", "k"], kv=kv), "G")
    waited = sorted(row["scheduled_s"] for row in records.calls.to_pylist())
    assert waited[0] == 0.0
    # k lends a tenth of its quota at each look: 10 tokens' worth at 0, where b does not fit beside a (120 > 110), and 9 at
    # 0.05, when a's prefill ends (119). There is another look at the end of each of a's steps.
    assert 0 < waited[1] < 0.95


def test_a_call_beyond_the_mesh_is_refused_with_numbers() -> None:
    with pytest.raises(SimulationError, match=r"a call of 8001 tokens never fits the mesh of m-0"):
        simulate_muxserve(replayed(run("a", call("x", "m", tokens=8000))), MESH, profiles(["m", "k"], kv=10**8), "G")


def test_sharing_in_space_beats_first_come_first_served() -> None:
    """MuxServe's own result: co-located LLMs of uneven popularity, decode beside prefill, against one job at a time."""
    trace = generate("rag-rerank", runs=40, seed=3)
    known = catalogue.builtin_profiles(trace.llms, ("A100-80G",))
    calls = [call for run in trace.runs for call in run.calls]
    demands = []
    for llm in trace.llms:
        mine = [call for call in calls if call.llm == llm]
        demands.append(
            demand(
                llm,
                6.0 * len(mine) / 40,
                float(np.mean([c.input_tokens for c in mine])),
                float(np.mean([c.output_tokens for c in mine])),
            )
        )
    mesh = (Mesh(node=0, size=2, tenants=tuple(Tenant(d, 90 if d.output_tokens else 0) for d in demands)),)
    load = Workload(streams=(Stream(trace=trace, arrivals=Arrivals(rate_per_s=6.0)),), runs=150)
    mean = {}
    for policy in ("adbs", "fcfs"):
        table = simulate_muxserve(load, mesh, known, "A100-80G", policy=policy).runs.to_pandas()  # type: ignore[arg-type]
        mean[policy] = float((table["end_s"] - table["arrival_s"]).mean())
    assert mean["adbs"] < mean["fcfs"]


@settings(max_examples=30, deadline=None)
@given(
    shares=st.lists(st.sampled_from([30, 50, 60, 90]), min_size=1, max_size=3),
    loads=st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 400), st.integers(1, 8), st.floats(0, 2)), min_size=1, max_size=12
    ),
)
def test_no_more_sm_time_is_used_than_there_is(shares: list[int], loads: list[tuple[int, int, int, float]]) -> None:
    """All work at whole-GPU speed (k = 1: a share costs exactly its inverse) is at most the time that it took."""
    names = [f"m{n}" for n in range(len(shares))]
    mesh = (Mesh(node=0, size=1, tenants=tuple(Tenant(demand(n, 1.0), s) for n, s in zip(names, shares, strict=True))),)
    runs = [
        run(f"r{n}", call("x", names[llm % len(names)], tokens=tokens, out=out), at_s=at)
        for n, (llm, tokens, out, at) in enumerate(sorted(loads, key=lambda load: load[3]))
    ]
    found = ends(simulate_muxserve(replayed(*runs), mesh, profiles(names), "G"))
    work = sum(tokens * 0.001 + (out - 1) * 0.1 for _, tokens, out, _ in loads)
    assert max(found.values()) >= work - 1e-9 * len(loads)


@pytest.mark.parametrize("policy", ["adbs", "fcfs"])
def test_a_mesh_does_no_more_prompt_work_than_its_gpu(policy: str) -> None:
    # 40 prompts of 0.1 s for each of two LLMs, all at once: 8 s of a whole GPU's work
    load = replayed(*(run(f"{llm}{n}", call("x", llm)) for n in range(40) for llm in ("m", "k")))
    found = ends(simulate_muxserve(load, MESH, profiles(["m", "k"]), "G", policy=policy))
    assert max(found.values()) >= 80 * 0.1 - 1e-9
