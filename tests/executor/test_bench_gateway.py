"""What the gateway costs (``make bench``): numbers to read, ratios within one run, no timed asserts."""

from executor.recording.config import Recording
from executor.recording.recorder import Recorder
from executor.wire.body import read_body
from executor.wire.stream import Output
from experiments.checks.gateway_load import RUNS, TOKENS, _event, measure, request_bytes


def test_bench_gateway(benchmark):
    """Capacity and added latency against a direct connection, recording and streaming on; 1,000 streams at once."""
    seconds = 3.0 if benchmark.enabled else 0.5
    streams = 1000 if benchmark.enabled else 50
    found = benchmark.pedantic(measure, (seconds, 750.0 if benchmark.enabled else 50.0, streams), rounds=1)
    benchmark.extra_info.update({name: value for name, value in found.items() if isinstance(value, (int, float))})
    assert found["broken"] == 0
    assert found["streams_whole"] == streams


def test_bench_recording_one_call(benchmark, tmp_path):
    """Attribution, hashes of input and output, usage, one line to disk."""
    recorder = Recorder(Recording(path="calls.jsonl"), tmp_path)
    body = read_body(request_bytes(0).split(b"\r\n\r\n", 1)[1])
    events = b"".join(_event(f"token{index} ") for index in range(TOKENS))
    turn = 0

    def once():
        nonlocal turn
        turn += 1
        call = recorder.begin("chat/completions", {"x-scepsy-run": f"r{turn % RUNS}"}, body, "", "", "")
        output = Output()
        output.read_events(events)
        recorder.end(call, outcome="completed", output=output)

    benchmark(once)
    assert recorder.lost == 0
    assert recorder.written == turn
