"""What ``status`` says of pods in trouble, of load, and of what somebody else changed; what ``drain`` waits for."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from executor.cluster.apply import apply
from executor.cluster.pods import pod_state
from executor.cluster.status import status
from executor.cluster.waits import Event, NotReady, WaitLimits
from executor.gateway.config import load_gateway
from executor.gateway.metrics import Metrics
from executor.gateway.pool import InstancePool
from executor.manifests import RenderOptions, render
from tests.builders import plans
from tests.executor.cluster.controllers import ready
from tests.executor.cluster.double import Double
from tests.executor.cluster.lab import QUICK, DoubleLab, placement, planned

PROFILES = plans.profiles()


def container(**state: Any) -> dict[str, Any]:
    return {"name": "vllm", "ready": False, "restartCount": 0, **state}


def waits(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def died(code: int, **more: str) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, **more}}


@pytest.mark.parametrize(
    ("status_", "problem", "hopeless"),
    [
        ({"containerStatuses": [container(state={"waiting": {"reason": "ContainerCreating"}})]}, "", False),
        (
            {"containerStatuses": [container(state=waits("ImagePullBackOff", "no\nsuch image"))]},
            "ImagePullBackOff: no such image",
            False,
        ),
        (
            {"containerStatuses": [container(state=waits("CreateContainerConfigError", 'secret "hf" not found'))]},
            'CreateContainerConfigError: secret "hf" not found',
            True,
        ),
        (
            {
                "containerStatuses": [
                    container(
                        restartCount=3,
                        state={"waiting": {"reason": "CrashLoopBackOff"}},
                        lastState={"terminated": {"exitCode": 1, "message": "ValueError: no free memory"}},
                    )
                ]
            },
            "crashed 3 times, last exit code 1: ValueError: no free memory",
            True,
        ),
        (
            {
                "containerStatuses": [
                    container(restartCount=1, state={"running": {}}, lastState=died(137, reason="OOMKilled"))
                ]
            },
            "crashed once, last out of host memory (OOMKilled: raise the engine's memory request)",
            False,
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available"}]},
            "not scheduled: 0/2 nodes are available",
            False,
        ),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, "failed: low on memory", False),
    ],
)  # fmt: skip
def test_a_pod_in_words(status_: dict[str, Any], problem: str, hopeless: bool) -> None:
    state = pod_state({"metadata": {"name": "p"}, "spec": {}, "status": status_})
    assert (state.problem, state.hopeless) == (problem, hopeless)


def test_a_crashing_engine_is_not_waited_for(double: Double) -> None:
    def verdict(pod: Any) -> Any:
        if pod["metadata"]["labels"].get("scepsy.dev/llm") != "reranker":
            return ready(pod)
        ended = {"terminated": {"exitCode": 1, "message": "CUDA out of memory"}}
        waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
        return {"phase": "Running", "containerStatuses": [container(restartCount=4, state=waiting, lastState=ended)]}

    double.server.controllers.verdict = verdict
    with pytest.raises(NotReady, match=r"instance reranker-\d on n1 .*: crashed 4 times, last exit code 1: CUDA out of memory"):
        apply(double.api(), render(plans.two_nodes(), PROFILES, plans.OPTIONS), limits=QUICK)
    found = status(double.api(), "scepsy")
    assert found["state"] == "changing"
    assert next(each["problem"] for each in found["instances"] if not each["ready"]).startswith("crashed 4 times")


def test_a_failed_switch_restores_the_plan_before(double: Double) -> None:
    lab = DoubleLab(double)
    apply(double.api(), render(plans.two_nodes(), PROFILES, plans.OPTIONS), limits=QUICK)
    moved = {e.name for e in render(plans.one_node(), PROFILES, plans.OPTIONS).engines} - {
        e.name for e in render(plans.two_nodes(), PROFILES, plans.OPTIONS).engines
    }
    double.server.controllers.verdict = lambda pod: (
        None if pod["metadata"]["labels"].get("scepsy.dev/engine") in moved else ready(pod)
    )
    events: list[Event] = []
    with pytest.raises(Exception, match=r"does not serve .* it is still loading .*; rolled back to scepsy-plan-"):
        apply(
            double.api(),
            render(plans.one_node(), PROFILES, plans.OPTIONS),
            limits=WaitLimits(**{**vars(QUICK), "start_s": 0.5, "tick_s": 0.2}),
            on_event=events.append,
        )
    assert placement(lab) == planned(plans.two_nodes())
    assert status(double.api(), "scepsy")["state"] == "serving"
    assert "rolling back" in [event.what for event in events]


def test_load_is_what_the_engines_say(double: Double) -> None:
    apply(double.api(), render(plans.two_nodes(), PROFILES, plans.OPTIONS), limits=QUICK)
    samples = (
        'num_requests_running{model_name="m"} 3.0',
        'num_requests_waiting{model_name="m"} 1.0',
        "kv_cache_usage_perc 0.25",
    )
    metrics = "".join(f"vllm:{sample}\n" for sample in samples)
    double.server.proxied = lambda path: metrics if "-qwen3-" in path and path.endswith(":8000/metrics") else None
    loads = {each["instance"]: each["load"] for each in status(double.api(), "scepsy")["instances"]}
    assert loads["qwen3-8b-0"] == {"num_requests_running": 3.0, "num_requests_waiting": 1.0, "kv_cache_usage_perc": 0.25}
    assert loads["reranker-0"] is None


def test_drift_names_what_somebody_else_changed(double: Double) -> None:
    made = render(plans.two_nodes(), PROFILES, plans.OPTIONS)
    apply(double.api(), made, limits=QUICK)
    big = next(engine for engine in made.engines if engine.llm == "Meta/Llama-3.1")
    double.store.change(("deployments", "scepsy", big.name), lambda o: o["spec"].update(replicas=2))
    double.store.remove(("services", "scepsy", "scepsy-embedder"))
    found = status(double.api(), "scepsy")
    assert found["state"] == "degraded"
    assert sorted(found["drift"]) == [
        f"deployment/{big.name} spec.replicas is 2, planned 1",
        "service/scepsy-embedder is missing",
    ]
    apply(double.api(), made, limits=QUICK)
    assert status(double.api(), "scepsy")["drift"] == [], "apply repairs"


def test_engines_leave_only_when_the_gateway_has_let_go(double: Double, tmp_path: Path) -> None:
    """A real gateway's pool and metrics, reading the stored configuration: calls in flight hold their engines back."""
    before, after = render(plans.two_nodes(), PROFILES, plans.OPTIONS), render(plans.one_node(), PROFILES, plans.OPTIONS)
    apply(double.api(), before, limits=QUICK)
    leaving = {e.name for e in before.engines} - {e.name for e in after.engines}
    pool, metrics = InstancePool(()), Metrics()
    alive: list[bool] = []

    def gateway(path: str) -> str | None:
        if not path.endswith(":8080/metrics"):
            return None
        stored = double.store.objects["configmaps", "scepsy", "scepsy-gateway"]
        (tmp_path / "gateway.yaml").write_text(stored["data"]["gateway.yaml"])
        pool.replace(load_gateway(tmp_path / "gateway.yaml").endpoints)
        for upstream in pool.upstreams:
            upstream.outstanding = 1 if upstream.name in leaving and len(alive) < 5 else 0
        alive.append(all(("deployments", "scepsy", name) in double.store.objects for name in leaving))
        return metrics.render(pool, 0, 0).decode()

    double.server.proxied = gateway
    events: list[Event] = []
    apply(double.api(), after, limits=WaitLimits(**{**vars(QUICK), "drain_s": 20.0}), on_event=events.append)
    assert len(alive) == 6, "it was asked until the calls had ended, and no longer"
    assert all(alive)
    whats = [event.what for event in events]
    assert whats.index("drained") < whats.index("deleted")


def test_draining_is_told_to_the_gateway_first(double: Double) -> None:
    """In the order of the requests: the gateway's configuration, then the first deletion; and new engines come in last."""
    apply(double.api(), render(plans.two_nodes(), PROFILES, plans.OPTIONS), limits=QUICK)
    double.server.seen.clear()
    apply(double.api(), render(plans.one_node(), PROFILES, plans.OPTIONS), limits=QUICK)
    writes = [(c.verb, c.plural, c.name) for c in double.server.seen if c.verb in ("patch", "delete") and not c.dry]
    told = [n for n, write in enumerate(writes) if write == ("patch", "configmaps", "scepsy-gateway")]
    gone = [n for n, write in enumerate(writes) if write[:2] == ("delete", "deployments")]
    assert told[0] < gone[0] < told[-1]


@pytest.mark.parametrize("target", ["mps", "hami"])
def test_the_other_targets_come_up_too(double: Double, target: str) -> None:
    plan = plans.one_node()
    chosen = msgspec.convert({"target": target, "gateway_image": plans.IMAGE}, RenderOptions)
    apply(double.api(), render(plan, PROFILES, chosen), limits=QUICK)
    found = status(double.api(), "scepsy")
    assert (found["state"], found["target"]) == ("serving", target)
    assert {each["node"]["actual"] for each in found["instances"]} == {"n1", "n2"}
