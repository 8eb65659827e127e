"""Real vLLM beneath the supervised local executor: tensor parallelism over cores, and engines killed while they stream."""

import asyncio
import json
import os
import signal
import time

import aiohttp
import psutil
import pytest

from executor.local.deployment import apply, delete, status
from executor.local.options import LocalOptions, engine_python
from executor.local.state import load_state, marked
from executor.profiler.instance import engine_version
from executor.random_models import RandomModel, write_model
from scepsy.errors import BackendError
from tests.executor.test_local import make_plan, make_profiles

pytestmark = pytest.mark.engine

VICTIM, BYSTANDER = (RandomModel(name=name, layers=2, hidden_size=128) for name in ("victim", "bystander"))


@pytest.fixture
def deployed(tmp_path):
    try:
        engine_version(engine_python(LocalOptions()))
    except BackendError as error:
        pytest.skip(f"no engine: {error}")
    folder = tmp_path / "deployment"

    def start(models, placed):
        paths = {model.name: str(write_model(model, tmp_path / "models")) for model in models}
        return folder, apply(make_plan(placed), make_profiles(*models), LocalOptions(device="cpu", models=paths), folder)

    yield start
    state = load_state(folder)
    delete(folder, 30)
    assert state is not None
    assert marked(state.deployment) == [], "nothing outlives its deployment"


async def stream(session, url, llm, tokens, begun=lambda: None):
    """(whole, tokens, the error event's code) of one streamed completion; a busy server puts several tokens into one event."""
    body = {"model": llm, "prompt": "once upon", "max_tokens": tokens, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True}}  # fmt: skip
    got, error = 0, None
    async with session.post(f"{url}/v1/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        async for line in answer.content:
            if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                continue
            event = json.loads(line[6:])
            if "error" in event:
                error = event["error"]["code"]
                continue
            if not got:
                begun()
            got = event["usage"]["completion_tokens"]
    return error is None, got, error


def test_tensor_parallelism_takes_a_core_per_rank(deployed):
    _, state = deployed([VICTIM], {"victim": [((0, 1), 100)]})
    workers = {
        process.name(): process.cpu_affinity()
        for process in psutil.Process(state.children[0].pid).children(recursive=True)
        if "Worker" in process.name()
    }
    assert sorted(map(tuple, workers.values())) == [(0,), (1,)], workers

    async def ask():
        async with aiohttp.ClientSession() as session:
            return await stream(session, state.gateway.url, "victim", 8)

    assert asyncio.run(ask()) == (True, 8, None)


@pytest.mark.parametrize(("part", "code"), [("server", "engine_lost"), ("core", 500)])
def test_an_engine_killed_under_load_fails_its_own_streams_at_once_and_comes_back(deployed, part, code):
    """``server`` is the process that the supervisor started, ``core`` the one beneath it that does the work.

    Without its server the gateway ends the streams; without its core vLLM's server does, and then itself.
    """
    placed = {"victim": [((0,), 100)], "bystander": [((1,), 100)]}
    folder, state = deployed([VICTIM, BYSTANDER], placed)
    child = next(child for child in state.children if child.llm == "victim")
    ours = psutil.Process(child.pid).children(recursive=True)
    wanted = child.pid if part == "server" else next(p.pid for p in ours if p.name().startswith("VLLM::Engine"))

    async def load():
        begun, errors_after_s = asyncio.Semaphore(0), []
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as session:

            async def one(llm, tokens):
                found = await stream(session, state.gateway.url, llm, tokens, begun.release)
                errors_after_s.append(time.monotonic() if found[2] else 0.0)
                return found

            lost = [asyncio.create_task(one("victim", 1500)) for _ in range(4)]
            kept = [asyncio.create_task(one("bystander", 300)) for _ in range(4)]
            for _ in (*lost, *kept):
                await begun.acquire()
            killed_s = time.monotonic()
            os.kill(wanted, signal.SIGKILL)
            results = await asyncio.gather(*lost), await asyncio.gather(*kept)
            return *results, max(errors_after_s) - killed_s

    lost, kept, told_s = asyncio.run(load())
    assert {(whole, error) for whole, _, error in lost} == {(False, code)}
    assert all(1 <= tokens < 1500 for _, tokens, _ in lost)
    assert {(whole, tokens) for whole, tokens, _ in kept} == {(True, 300)}, "the other engine's streams do not notice"
    assert told_s < 30, "clients are told, they do not wait for a timeout"

    deadline = time.monotonic() + 300
    while (row := next(r for r in status(folder)["instances"] if r["llm"] == "victim"))["phase"] != "healthy" or not row[
        "restarts"
    ]:
        assert time.monotonic() < deadline, row
        time.sleep(0.5)
    assert row["restarts"] == 1
    assert [r["restarts"] for r in status(folder)["instances"] if r["llm"] == "bystander"] == [0]
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in ours), "no part of the killed engine is left"

    async def again():
        async with aiohttp.ClientSession() as session:
            deadline = time.monotonic() + 30  # the gateway looks at health once a second
            while True:
                try:
                    return await stream(session, state.gateway.url, "victim", 8)
                except AssertionError:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.5)

    assert asyncio.run(again()) == (True, 8, None)
