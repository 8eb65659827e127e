"""The live page and the metrics of a controller: loopback, numbers only, and never in the way."""

import json
import re
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from executor.operate.page import Server, metrics, page, snapshot
from tests.executor.operating import Clock, DiskTarget, look_until, operator, write_recording


@pytest.fixture
def one(tmp_path):
    clock = Clock()
    end = write_recording(tmp_path / "calls.jsonl", [(600.0, 2.0), (300.0, 6.0)])
    made = operator(tmp_path, DiskTarget(tmp_path), clock)
    made.start()
    look_until(made, clock, end)
    return made


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read()


def test_page_and_metrics_are_served_on_loopback(one) -> None:
    server = Server(one, 0)
    try:
        assert server.url.startswith("http://127.0.0.1:")
        assert b"GPU" in get(f"{server.url}/")
        assert json.loads(get(f"{server.url}/state.json"))["mode"] == "act"
        families = {family.name for family in text_string_to_metric_families(get(f"{server.url}/metrics").decode())}
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{server.url}/other")
    finally:
        server.close()
    assert {"scepsy_operate_drift", "scepsy_operate_switches", "scepsy_operate_latency_seconds"} <= families


def test_metrics_tell_drift_rates_and_switches(one) -> None:
    rows = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics(snapshot(one)))
        for sample in family.samples
    }
    assert rows["scepsy_operate_switches_total", "serving"] == 1
    assert rows["scepsy_operate_planned_rate_per_second", "w"] == pytest.approx(6.0, rel=0.3)
    assert rows["scepsy_operate_latency_seconds", "w"] == pytest.approx(1.0)
    assert rows["scepsy_operate_seconds_since_plan",] < 300
    assert all(value < 1 for (name, *_), value in rows.items() if name == "scepsy_operate_drift"), "no alarm now"
    assert ("scepsy_operate_drift", "chat", "output_tokens", "w") in rows
    assert 0 < rows["scepsy_operate_drift", "", "rate", "w"] < 1


def test_names_are_escaped_on_the_page(one) -> None:
    seen = snapshot(one)
    seen["problem"] = "<script>alert(1)</script>"
    assert "<script>" not in page(seen)
    assert "n0" in page(seen) or "host/0" in page(seen)


def test_the_page_fits_phones_and_the_dark_and_says_what_was_decided_when(one) -> None:
    html = page(snapshot(one))
    for word in (
        'name="viewport"',
        "prefers-color-scheme: dark",
        'class="scroll"',
        "Acts: it switches plans by itself",
        "UTC</div>",
    ):
        assert word in html, word
    assert 'class="line told">Decision: ' in html
    assert "Planned again, because the load is not the one known before." in html
    assert re.search(r">0\.\d\d \([a-z ]+\)</td>", html)


def test_the_page_says_what_is_frozen_wrong_or_alarming_and_that_nothing_was_seen(one) -> None:
    seen = snapshot(one)
    seen["workflows"]["w"]["drift"] = {"rate": 1.2, "calls:chat": 0.1}
    html = page({**seen, "frozen": True, "problem": "the recording <is> gone"})
    assert 'class="alarm">1.20 (rate)' in html
    assert "Frozen: the freeze file is there" in html
    assert "The latest look came to nothing: the recording &lt;is&gt; gone" in html
    empty = page({**seen, "mode": "advise", "workflows": {}, "decisions": []})
    assert "Nothing has been looked at yet" in empty
    assert "Advises: it changes nothing" in empty
    assert "None yet" in empty
    odd = page({**seen, "calls": {"read": 1200, "unnamed": 3, "strangers": 0, "damaged": 1}, "resumed": 1300})
    assert "1,200 calls were read, 3 name no run, 1 could not be read. 1,300 runs counted as ended while a call" in odd
    assert "counted as ended" not in html
    assert "scepsy_operate_resumed_runs_total 0" in metrics(seen)


def test_a_page_that_cannot_be_made_says_so_and_serving_goes_on(one) -> None:
    server = Server(one, 0)
    try:
        one.target.running = lambda: 1 / 0
        with pytest.raises(urllib.error.HTTPError, match="500"):
            get(f"{server.url}/")
        del one.target.running
        assert get(f"{server.url}/")
    finally:
        server.close()
