"""Each variant changes what it says and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.points.variants import fan_out_trace, varied, without_llm
from scepsy.dag import latency_s, timed
from scepsy.errors import InputError
from scepsy.generate import generate
from scepsy.workload import Call, Run


def chain() -> Run:
    a = Call(id="a", llm="m", input_tokens=10, output_tokens=5)
    b = Call(id="b", llm="k", input_tokens=10, output_tokens=5, parents=("a",))
    c = Call(id="c", llm="k", input_tokens=10, output_tokens=5, parents=("b",))
    d = Call(id="d", llm="m", input_tokens=10, output_tokens=5, parents=("b", "c"))
    return Run(id="r", workflow="w", calls=(a, b, c, d))


def test_skipping_an_llm_joins_its_callers_to_its_callees() -> None:
    left = without_llm(chain(), "k")
    assert [(call.id, call.parents) for call in left.calls] == [("a", ()), ("d", ("a",))]
    assert without_llm(without_llm(chain(), "k"), "m").calls  # a run is never left empty


def test_drift_scales_answers_only() -> None:
    trace = generate("reflection", runs=5)
    longer = varied(trace, "drift:2.0")
    for before, after in zip(trace.runs, longer.runs, strict=True):
        assert [2 * call.output_tokens for call in before.calls] == [call.output_tokens for call in after.calls]
        assert [call.input_tokens for call in before.calls] == [call.input_tokens for call in after.calls]


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.95), st.sampled_from(["rag-rerank", "debate", "beam-search"]))
def test_tool_time_is_its_share_of_the_nominal_latency(part: float, workflow: str) -> None:
    for run in varied(generate(workflow, runs=3), f"tool:{part}").runs:
        bare = varied(generate(workflow, runs=3), "tool:0.0")
        llm_s = latency_s(timed(next(r for r in bare.runs if r.id == run.id)))
        whole = latency_s(timed(run))
        # Exact where every path has as many gaps as the longest; never more than asked for.
        assert (whole - llm_s) / whole <= part + 1e-9
        assert whole > llm_s


def test_about_half_the_runs_skip_the_busiest_llm() -> None:
    trace = varied(generate("rag-rerank", runs=200), "bimodal:0.5")
    skipped = [all(call.llm != "bge-reranker-large" for call in run.calls) for run in trace.runs]
    assert 0.4 < np.mean(skipped) < 0.6


def test_fan_out_calls_both_llms_in_parallel() -> None:
    run = fan_out_trace(3, runs=1).runs[0]
    roots = [call.llm for call in run.calls if not call.parents]
    assert sorted(roots) == sorted(["llama-3.1-8b", "llama-3.2-3b"] * 3)
    assert len(run.calls[-1].parents) == 6
    assert run.workflow == "fan-out-3"  # the name by which a question asks for it


@pytest.mark.parametrize("text", ["drift:0", "bimodal:2", "tool:1", "tool:x", "storm:1"])
def test_bad_variants_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError, match="variant"):
        varied(generate("reflection", runs=1), text)
