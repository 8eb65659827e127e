"""``apply`` simulates the plan first: what falls behind at its target rate is refused with exit 1, before any request."""

from pathlib import Path

import msgspec
import pytest

from scepsy.cli.deploy_inputs import check_by_simulation
from scepsy.errors import ScepsyError
from scepsy.files.trace import save_trace
from scepsy.plans import Expectation, Plan, Target
from scepsy.workload import Arrivals, Call, Run, Trace, TraceSource
from tests.builders import plans


def at_rate(tmp_path: Path, rate_per_s: float, latency_s: float) -> Plan:
    calls = (
        Call(id="a", llm="qwen3-8b", input_tokens=500, output_tokens=100),
        Call(id="b", llm="reranker", input_tokens=400, kind="rerank", parents=("a",)),
    )
    runs = tuple(Run(id=f"r{i}", workflow="rag", calls=calls) for i in range(5))
    save_trace(tmp_path / "t.jsonl", Trace(source=TraceSource(origin="test"), runs=runs))
    target = Target(workflow="rag", arrivals=Arrivals(rate_per_s=rate_per_s), trace="t.jsonl")
    expected = (Expectation(workflow="rag", latency_s=latency_s, throughput_per_s=rate_per_s),)
    (tmp_path / "p.yaml").touch()
    return msgspec.structs.replace(plans.two_nodes(), targets=(target,), expected=expected, profiles="p.yaml")


@pytest.fixture(autouse=True)
def profiles_file(tmp_path: Path) -> None:
    from scepsy.files.profiles import save_profiles

    save_profiles(tmp_path / "p.yaml", plans.profiles())


def test_a_plan_that_carries_its_rate(tmp_path: Path) -> None:
    check_by_simulation(at_rate(tmp_path, 2.0, 2.0), plans.profiles(), tmp_path / "x.plan.yaml")


def test_a_plan_that_falls_behind(tmp_path: Path) -> None:
    with pytest.raises(ScepsyError, match=r"falls behind: \d+ runs end while \d+ arrive: plan for a lower rate") as caught:
        check_by_simulation(at_rate(tmp_path, 400.0, 2.0), plans.profiles(), tmp_path / "x.plan.yaml")
    assert caught.value.exit_code == 1


def test_a_plan_that_is_expected_to_be_overloaded(tmp_path: Path) -> None:
    with pytest.raises(ScepsyError, match="latency_s is infinite"):
        check_by_simulation(at_rate(tmp_path, 2.0, float("inf")), plans.profiles(), tmp_path / "x.plan.yaml")
