"""A measurement on a cluster. The double's kubelet runs the Job's own command here, against a stub engine."""

import base64
import contextlib
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from executor.cluster.experiment import backend
from executor.cluster.preflight import grants
from executor.manifests import render
from executor.manifests.replay import ReplayTask, replay_objects
from executor.replay_job import BEGIN, main, pack, unpack
from scepsy.backend import Stream, Workload
from scepsy.errors import BackendError, InputError
from scepsy.records import COMPLETED, Records
from scepsy.workload import Arrivals, Call, Run, Trace, TraceSource
from tests.builders import plans
from tests.executor.cluster.controllers import ready
from tests.executor.cluster.double import Double
from tests.executor.cluster.lab import QUICK, DoubleLab, everything

PROFILES = plans.profiles()


def workload(runs: int = 4, calls: int = 2) -> Workload:
    steps = tuple(
        Call(id=f"c{i}", llm="qwen3-8b", input_tokens=20, output_tokens=3, parents=(f"c{i - 1}",) if i else ())
        for i in range(calls)
    )
    trace = Trace(source=TraceSource(origin="test"), runs=(Run(id="r", workflow="rag", calls=steps),))
    return Workload(streams=(Stream(trace=trace, arrivals=Arrivals(rate_per_s=100.0)),), runs=runs)


class Kubelet:
    """Runs a replay pod's command in a thread's stead: the service's name becomes the stub's address."""

    def __init__(self, double: Double, url: str, tmp: Path) -> None:
        self.double, self.url, self.tmp = double, url, tmp
        self.log, self.phase = "", ""
        double.server.controllers.verdict = self
        double.server.proxied = lambda path: self.log if path.endswith("/log") else None

    def run(self) -> None:
        """Called by the test once the workload is there."""
        [packed] = [
            o["binaryData"]["job.json.gz"]
            for (p, _, _), o in self.double.store.objects.items()
            if p == "configmaps" and "binaryData" in o
        ]
        task = msgspec.json.decode(gzip.decompress(base64.b64decode(packed)), type=ReplayTask)
        assert task.url == "http://scepsy-gateway.scepsy.svc:8080"
        path = self.tmp / "job.json.gz"
        path.write_bytes(gzip.compress(msgspec.json.encode(msgspec.structs.replace(task, url=self.url))))
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = main(path)
        self.log, self.phase = out.getvalue(), "Failed" if code else "Succeeded"

    def __call__(self, pod: Any) -> Any:
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] != "replay":
            return ready(pod)
        return {"phase": self.phase} if self.phase else {"phase": "Running"}


def measure(double: Double, kubelet: Kubelet) -> Records:
    def note(event: Any) -> None:
        if event.what == "replaying":
            kubelet.run()
            double.later(0.0, double.server.controllers.settle)

    return backend(double.api(), PROFILES, plans.OPTIONS, limits=QUICK, on_event=note)(plans.two_nodes(), workload())


def test_records_come_back_and_nothing_stays(double: Double, stub: Callable[..., Any], tmp_path: Path) -> None:
    records = measure(double, Kubelet(double, stub().url, tmp_path))
    assert records.runs["status"].to_pylist() == [COMPLETED] * 4
    assert len(records.calls) == 8
    assert (records.meta["source"], records.meta["planner"]) == ("measured", "hand")
    assert everything(DoubleLab(double)) == []
    jobs = {g for g in double.server.used if g.resource == "jobs" or g.subresource == "log"}
    assert jobs == {g for g in grants() if g.resource == "jobs" or g.subresource == "log"}


def test_a_replay_that_fails_says_why_and_leaves_nothing(double: Double, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"replay: pod .* failed: scepsy: replay: none of \d+ calls was completed: Client"):
        measure(double, Kubelet(double, "http://127.0.0.1:9", tmp_path))
    assert everything(DoubleLab(double)) == []


def test_the_log_is_read_whole_or_not_at_all(double: Double, stub: Callable[..., Any], tmp_path: Path) -> None:
    kubelet = Kubelet(double, stub().url, tmp_path)
    records = measure(double, kubelet)
    text = f"50 runs ended\n{pack(records)}\n"
    assert unpack(text).calls.equals(records.calls)
    for cut in (text[:-40], text[text.index(BEGIN) + 40 :], text.replace("\n", "\nA", 3), ""):
        with pytest.raises(BackendError, match="does not hold the whole records"):
            unpack(cut)


def test_the_instances_have_the_plans_names(double: Double, stub: Callable[..., Any], tmp_path: Path) -> None:
    """The gateway reports Deployments; a record speaks of the plan's instances."""
    kubelet = Kubelet(double, stub().url, tmp_path)
    name = next(e.name for e in render(plans.two_nodes(), PROFILES, plans.OPTIONS).engines if e.instance == "qwen3-8b-0")
    run = kubelet.run

    def named() -> None:
        run()
        records = unpack(kubelet.log)
        column = records.calls.schema.get_field_index("instance")
        filled = records.calls.set_column(column, records.calls.schema.field(column), [[name] * len(records.calls)])
        kubelet.log = pack(Records(runs=records.runs, calls=filled, meta=records.meta))

    kubelet.run = named  # type: ignore[method-assign]
    assert set(measure(double, kubelet).calls["instance"].to_pylist()) == {"qwen3-8b-0"}


def test_a_workload_too_large_for_a_config_map() -> None:
    import numpy as np

    numbers = np.random.default_rng(0).integers(0, 2**62, size=(40, 4000))
    calls = tuple(
        Call(id=f"c{i}", llm="qwen3-8b", input_tokens=20, output_tokens=3, prefix_hashes=tuple(int(n) for n in row))
        for i, row in enumerate(numbers)
    )
    trace = Trace(source=TraceSource(origin="test"), runs=(Run(id="r", workflow="rag", calls=calls),), prefix_block_tokens=16)
    big = Workload(streams=(Stream(trace=trace, arrivals=Arrivals(rate_per_s=1.0)),), runs=1)
    with pytest.raises(InputError, match="must be <= 1000000, the most a ConfigMap holds"):
        replay_objects(plans.two_nodes(), render(plans.two_nodes(), PROFILES, plans.OPTIONS), big, PROFILES, deadline_s=60)
