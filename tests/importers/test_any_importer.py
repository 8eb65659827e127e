"""What holds for every importer of the registry, on its fixtures and on whatever they are mutated into."""

import copy
import json
import math
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from scepsy.cli import app
from scepsy.files.trace import load_trace
from scepsy.importers.registry import IMPORTERS
from tests.importers.samples import CANARY, FOLDER, WITHOUT_TEXT, samples

EVERY = [pytest.param(name, path, id=f"{name}-{path.name}") for name, path in samples()]

ABSURD: list[Any] = [
    None, True, "", "text", -1, 0, 0.5, -3.25, 1e308, -1e308, math.nan, math.inf, 2**31, 2**63, 2**70, 10**400, [], {}, [[]],
    [None], {"a": {}}, "NaN", "-5", "1e400", "\ud800", "2026-13-45T99:00:00Z",
    "0001-01-01T00:00:00", "9999-12-31T23:59:59+14:00",
    json.loads("[" * 300 + "]" * 300),
]  # fmt: skip


def run_import(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["trace", "import", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.stdout, result.stderr


def good_or_refused(*arguments: object, out: Path) -> int:
    """Import; assert that it is either a good trace or one line, exit 2 and nothing written. Returns the calls."""
    code, stdout, stderr = run_import(*arguments, "-o", out, "--json")
    assert CANARY not in stdout + stderr
    if code == 2:
        assert stderr.startswith("scepsy: ")
        assert stderr.count("\n") == 1
        assert (stdout, list(out.parent.glob(f"*{out.name}"))) == ("", [])
        return 0
    assert (code, stderr) == (0, "")
    assert CANARY not in out.read_text()
    trace = load_trace(out)
    said = json.loads(stdout)
    calls = [call for run in trace for call in run.calls]
    assert (said["runs"], said["calls"]) == (len(trace.runs), len(calls))
    assert said["input_tokens"] == sum(call.input_tokens for call in calls)
    assert said["output_tokens"] == sum(call.output_tokens for call in calls)
    assert said["estimated_calls"] <= said["calls"]
    lost = said["dropped_calls"] + said["estimated_calls"] + said["duplicate_calls"] + said["dropped_lines"]
    assert not lost or said["warnings"]
    out.unlink()
    return len(calls)


@pytest.mark.parametrize("name", IMPORTERS)
def test_every_importer_has_a_fixture_with_canaries(name):
    texts = [path.read_text() for of, path in samples() if of == name]
    assert texts, f"write one: {FOLDER / name}"
    assert (name in WITHOUT_TEXT) != any(CANARY in text for text in texts)


@pytest.mark.parametrize(("name", "path"), EVERY)
def test_the_format_is_found_and_nothing_of_the_text_is_kept(tmp_path, name, path):
    code, stdout, stderr = run_import(path, "-o", tmp_path / "t.jsonl", "--json")
    assert (code, stderr) == (0, "")
    assert json.loads(stdout)["format"] == name
    assert CANARY not in stdout + (tmp_path / "t.jsonl").read_text()
    code, stdout, stderr = run_import(name, path, "-o", tmp_path / "u.jsonl")
    assert (code, stderr) == (0, "")
    assert CANARY not in stdout
    assert (tmp_path / "u.jsonl").read_text() == (tmp_path / "t.jsonl").read_text()


@pytest.mark.parametrize(("name", "path"), EVERY)
def test_the_same_file_twice_counts_once(tmp_path, name, path):
    copy = tmp_path / f"copy{path.suffix}"
    copy.write_bytes(path.read_bytes())
    once = good_or_refused(path, out=tmp_path / "t.jsonl")
    assert once == good_or_refused(path, copy, out=tmp_path / "t.jsonl") > 0


def decoded(path: Path) -> tuple[str, Any]:
    """A fixture as (how it is written, values)."""
    text = path.read_text()
    if path.suffix == ".csv":
        return "csv", [line.split(",") for line in text.splitlines()]
    try:
        return "json", json.loads(text)
    except ValueError:
        lines = text.splitlines()
        try:
            return "lines", [json.loads(line) for line in lines]
        except ValueError:
            return "text", text


def encoded(form: str, value: Any) -> bytes:
    if form == "csv":
        return "\n".join(",".join(map(str, row)) if isinstance(row, list) else str(row) for row in value).encode(
            "utf-8", "replace"
        )
    if form == "json":
        return json.dumps(value).encode()
    if form == "lines":
        return b"".join(json.dumps(item).encode() + b"\n" for item in value)
    return str(value).encode("utf-8", "replace")


def mutate(value: Any, chance: random.Random) -> Any:
    """Change one thing somewhere inside a value, in place; the value itself where it holds nothing."""
    holder = value
    while isinstance(holder, (dict, list)) and holder:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = chance.choice(keys)
        inner = holder[key]
        if isinstance(inner, (dict, list)) and inner and chance.random() < 0.85:
            holder = inner
            continue
        kind = chance.choice(("absurd", "absurd", "missing", "double", "shuffle"))
        if kind == "missing":
            del holder[key]
        elif kind == "double" and isinstance(holder, list):
            holder.insert(chance.randrange(len(holder) + 1), inner)
        elif kind == "shuffle" and isinstance(holder, list):
            chance.shuffle(holder)
        else:
            holder[key] = copy.deepcopy(chance.choice(ABSURD))
        return value
    return copy.deepcopy(chance.choice(ABSURD))


def numbers(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where numbers stand, one place of each kind."""
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(inner, (*at, key))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield at


@pytest.mark.parametrize(("name", "path"), [each for each in EVERY if each.values[0] != "recording"])
def test_a_text_where_a_number_is_meant_is_not_shown(tmp_path, name, path):
    """Only a gateway's own recordings, which are ours, are read by a schema whose messages show what was found."""
    form, value = decoded(path)
    kinds = (
        {tuple(step for step in at if isinstance(step, str)): at for at in numbers(value)} if form in ("json", "lines") else {}
    )
    for at in kinds.values():
        changed = copy.deepcopy(value)
        inner = changed
        for step in at[:-1]:
            inner = inner[step]
        inner[at[-1]] = f"{CANARY} a prompt that went astray"
        broken = tmp_path / f"m{path.suffix}"
        broken.write_bytes(encoded(form, changed))
        _, stdout, stderr = run_import(name, broken, "-o", tmp_path / "t.jsonl")
        assert CANARY not in stdout + stderr, at


@pytest.mark.parametrize(("name", "path"), EVERY)
@settings(max_examples=int(os.environ.get("SCEPSY_FUZZ", "15")), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), changes=st.integers(1, 4), cut=st.integers(0, 400))
def test_mutations_are_imported_with_what_was_lost_or_refused(tmp_path, name, path, seed, changes, cut):
    chance = random.Random(seed)
    form, value = decoded(path)
    for _ in range(changes):
        value = mutate(value, chance)
    data = encoded(form, value) if isinstance(value, (dict, list, str)) else json.dumps(value).encode()
    if cut < 100:
        data = data[: len(data) * cut // 100]
    elif cut < 150:
        at = len(data) * (cut - 100) // 50
        data = data[:at] + chance.choice([b"\xff", b"NaN", b"}", b"[" * 3000, b"\n", b'"', b"\x00", b"1e999"]) + data[at:]
    broken = tmp_path / f"m{path.suffix}"
    broken.write_bytes(data)
    good_or_refused(name, broken, out=tmp_path / "t.jsonl")
    if changes == 1:
        good_or_refused(broken, out=tmp_path / "t.jsonl")
