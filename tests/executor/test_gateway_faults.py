"""What breaks on purpose: engines and gateways killed, lists changed under load, disks full. Nothing is lost or doubled."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from executor.gateway.config import Endpoint, GatewayConfig, GatewayLimits, load_gateway, save_gateway
from scepsy.importers.recorded.reader import load_recording

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def endpoint(process, name="m-0"):
    return Endpoint(name=name, llm="m", url=process.url)


async def stream(session, url, request_id, **body):
    """One streamed call: (request id, call id, whole?, data)."""
    headers = {"x-request-id": request_id}
    async with session.post(f"{url}/v1/chat/completions", json={**CHAT, "stream": True, **body}, headers=headers) as answer:
        data = await answer.read()
        return request_id, answer.headers.get("x-scepsy-call"), data.endswith(b"data: [DONE]\n\n"), data


async def test_a_stream_whose_engine_is_killed_ends_in_an_openai_error_and_the_others_go_on(stub, gateway):
    doomed, healthy = stub(), stub()
    served = gateway([endpoint(doomed, "m-0"), endpoint(healthy, "m-1")])
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        calls = [
            asyncio.create_task(stream(session, served.url, f"r{i}", max_tokens=20, stub={"delay_s": 0.05})) for i in range(20)
        ]
        await asyncio.sleep(0.4)
        doomed.kill()
        killed_s = time.monotonic()
        done = [await call for call in calls]
    broken = [data for _, _, whole, data in done if not whole]
    assert len(broken) == 10
    assert time.monotonic() - killed_s < 5
    for data in broken:
        last = data.rstrip(b"\n").rsplit(b"\n\n", 1)[-1]
        error = json.loads(last.removeprefix(b"data: "))["error"]
        assert error["code"] == "engine_lost"
        assert "m-0" in error["message"]
    for request_id, _, whole, data in done:
        if whole:
            assert data.count(request_id.encode() + b"-") == 20
    outcomes = sorted(call.outcome for call in load_recording(served.recording).calls)
    assert outcomes == ["completed"] * 10 + ["failed"] * 10


async def test_a_call_lost_before_its_answer_began_is_told_and_not_repeated(stub, gateway):
    doomed, other = stub(), stub()
    served = gateway([endpoint(doomed, "m-0"), endpoint(other, "m-1")])
    async with aiohttp.ClientSession() as session:
        body = {**CHAT, "stub": {"delay_s": 5}}

        async def ask():
            async with session.post(f"{served.url}/v1/chat/completions", json=body) as answer:
                return answer.status, await answer.json()

        call = asyncio.create_task(ask())
        await asyncio.sleep(0.4)
        doomed.kill()
        status, reply = await call
    assert (status, reply["error"]["code"]) == (502, "engine_lost")
    assert other.get("/stub/seen") == []


async def test_no_call_is_lost_or_doubled_under_load_reload_and_kill(stub, gateway):
    """Four seconds of streams while an instance joins, one leaves by reload and one is killed."""
    engines = [stub() for _ in range(3)]
    served = gateway([endpoint(engines[0], "m-0"), endpoint(engines[1], "m-1")], limits=GatewayLimits(health_s=0.2))
    config = load_gateway(served.config)
    ended = []

    async def user(session, number):
        for turn in range(40):
            ended.append(await stream(session, served.url, f"u{number}t{turn}", max_tokens=5, stub={"delay_s": 0.01}))

    async def disturb():
        await asyncio.sleep(0.8)
        new = (*config.endpoints, endpoint(engines[2], "m-2"))
        save_gateway(served.config, GatewayConfig(port=0, endpoints=new, limits=config.limits, recording=config.recording))
        await asyncio.sleep(1.3)
        save_gateway(served.config, GatewayConfig(port=0, endpoints=new[1:], limits=config.limits, recording=config.recording))
        await asyncio.sleep(1.3)
        engines[1].kill()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(disturb(), *(user(session, number) for number in range(30)))

    assert len(ended) == 1200
    recorded = load_recording(served.recording)
    ids = [call.id for call in recorded.calls]
    assert len(ids) == len(set(ids)), "recorded twice"
    by_id = {call.id: call for call in recorded.calls}
    for request_id, call_id, whole, data in ended:
        if call_id is None:  # answered before any stream began: the connection of the killed engine
            assert json.loads(data)["error"]["code"] == "engine_lost", request_id
            continue
        assert by_id[call_id].outcome == ("completed" if whole else "failed"), request_id
    assert sum(call.outcome == "completed" for call in recorded.calls) == sum(whole for *_, whole, _ in ended)
    for engine in (engines[0], engines[2]):
        seen = engine.get("/stub/seen")
        assert len(seen) == len(set(seen)), "sent twice"
    assert engines[2].get("/stub/seen"), "the instance that joined took calls"
    assert served.stop() == 0
    assert len(load_recording(served.recording).calls) == len(ids)


async def test_a_killed_gateway_loses_only_the_calls_in_flight(stub, gateway):
    served = gateway([endpoint(stub())])
    completed = []

    async def user(session, number):
        for turn in range(200):
            try:
                _, call_id, whole, _ = await stream(session, served.url, f"u{number}t{turn}", max_tokens=2)
            except aiohttp.ClientError:
                return
            if whole:
                completed.append(call_id)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        users = asyncio.gather(*(user(session, number) for number in range(20)))
        await asyncio.sleep(1)
        served.kill()
        await users
    assert len(completed) > 50
    recorded = {call.id for call in load_recording(served.recording).calls if call.outcome == "completed"}
    assert set(completed) <= recorded
    assert len(recorded - set(completed)) <= 20, "recorded, but their clients saw no end: those in flight"


async def test_a_gateway_goes_on_in_the_recording_that_a_killed_one_left(stub, gateway):
    engine = stub()
    first = gateway([endpoint(engine)])
    async with aiohttp.ClientSession() as session:
        await stream(session, first.url, "a")
        first.kill()
        with first.recording.open("ab") as file:
            file.write(b'{"id":"torn","session":')
        second = gateway([endpoint(engine)])
        await stream(session, second.url, "b")
    recorded = load_recording(second.recording)
    assert (len(recorded.calls), recorded.sessions, recorded.torn_lines) == (2, 2, 1)


LIMITED = (
    "import resource, os, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); os.execv(sys.argv[1], sys.argv[1:])"
)


async def test_a_full_disk_stops_the_recording_but_not_the_calls(stub, gateway):
    """A limit on file size stands in for the disk: writes are cut short at it, then refused, as on a full disk."""
    served = gateway([endpoint(stub())], launcher=[sys.executable, "-c", LIMITED])
    async with aiohttp.ClientSession() as session:
        replies = [await stream(session, served.url, f"r{i}") for i in range(20)]
        assert all(whole for *_, whole, _ in replies)
        assert served.get("/health")["recording"] == "failing: No space left on device"
        async with session.get(f"{served.url}/metrics") as answer:
            metrics = await answer.text()
    recorded = load_recording(served.recording)
    assert recorded.torn_lines == 0
    kept = len(recorded.calls)
    assert 0 < kept < 20
    assert f"scepsy_gateway_unrecorded_calls {20 - kept}.0" in metrics
    served.recording.write_bytes(served.recording.read_bytes()[:100].split(b"\n")[0] + b"\n")  # space is made
    async with aiohttp.ClientSession() as session:
        await stream(session, served.url, "after")
    assert len(load_recording(served.recording).calls) == 1
    log = served.log.read_text()
    assert log.count("fails: ") == 1
    assert f"works again; {20 - kept} calls were not recorded" in log


FULL = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
from executor.recording.config import Recording
from executor.recording.recorder import Recorder
try:
    Recorder(Recording(path="calls.jsonl"), Path(sys.argv[1]))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_disk_full_from_the_start_is_an_error(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert "BackendError recording path" in done.stdout, done.stderr
    assert "calls.jsonl cannot be written: No space left on device (free some space)" in done.stdout


@pytest.mark.parametrize(("kind", "told"), [("fifo", "is a FIFO"), ("null", "is a device"), ("folder", "is a folder")])
def test_a_recording_goes_to_a_regular_file_or_nowhere(gateway, stub, tmp_path, kind, told):
    path = tmp_path / "target"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/null")
    with pytest.raises(AssertionError, match=f"recording path {path} {told}: must be a regular file"):
        gateway([endpoint(stub())], recording={"path": str(path)})


@pytest.mark.parametrize("how", ["deleted", "moved", "emptied", "cut", "replaced", "folder gone"])
async def test_what_becomes_of_the_file_loses_no_later_record(stub, gateway, tmp_path, how):
    (tmp_path / "logs").mkdir()
    served = gateway([endpoint(stub())], recording={"path": "logs/calls.jsonl"})
    path = tmp_path / "logs" / "calls.jsonl"
    async with aiohttp.ClientSession() as session:
        for number in range(3):
            await stream(session, served.url, f"a{number}")
        kept = load_recording(path)
        assert len(kept.calls) == 3
        if how == "deleted":
            path.unlink()
        elif how == "moved":
            path.rename(tmp_path / "logs" / "calls.jsonl.1")
        elif how == "emptied":
            path.write_bytes(b"")
        elif how == "cut":
            os.truncate(path, path.stat().st_size - 20)
        elif how == "replaced":
            (tmp_path / "new").write_bytes(b"")
            (tmp_path / "new").rename(path)
        else:
            shutil.rmtree(path.parent)
            await stream(session, served.url, "lost")
            assert served.get("/health")["recording"].startswith("failing")
            path.parent.mkdir()
        for number in range(3):
            await stream(session, served.url, f"b{number}")
    recorded = load_recording(path)
    assert len(recorded.calls) == (5 if how == "cut" else 3)
    assert recorded.torn_lines == (how == "cut")
    assert path.stat().st_mode & 0o777 == (0o600 if how != "replaced" else 0o644)
    if how == "moved":
        assert load_recording(tmp_path / "logs" / "calls.jsonl.1").calls == kept.calls


def test_a_taken_port_is_an_error(stub, tmp_path):
    port = int(stub().url.rsplit(":", 1)[1])
    path = tmp_path / "g.yaml"
    save_gateway(path, GatewayConfig(port=port, endpoints=()))
    command = [sys.executable, "-c", "from scepsy.cli import main; main()", "gateway", "-c", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 4
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


async def test_a_client_that_goes_away_frees_its_engine(stub, gateway, eventually):
    served = gateway([endpoint(stub())])
    async with aiohttp.ClientSession() as session:
        body = {**CHAT, "stream": True, "max_tokens": 100, "stub": {"delay_s": 0.1}}
        async with session.post(f"{served.url}/v1/chat/completions", json=body) as answer:
            await answer.content.readany()
    eventually(lambda: load_recording(served.recording).calls != (), what="the record")
    (record,) = load_recording(served.recording).calls
    assert record.outcome == "cancelled"
    async with aiohttp.ClientSession() as session, session.get(f"{served.url}/metrics") as answer:
        assert 'scepsy_gateway_outstanding{instance="m-0",llm="m"} 0.0' in await answer.text()
