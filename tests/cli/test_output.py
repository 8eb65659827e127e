"""Tables that fit the terminal, CSV, progress without a terminal, and ``doctor``."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from scepsy.api import doctor
from scepsy.cli import app, output
from scepsy.cli.outermost import _tables_as_csv

WORDS = st.text("abcdefgh", min_size=1, max_size=9)
CELLS = st.one_of(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), st.floats(0, 1e6), st.none(), st.integers(0, 10**6))


def shown(width: int, columns: list[str], rows: list[list[object]]) -> str:
    out = output.Out(width=width, file=io.StringIO())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "stdout", out)
        output.show_table("Title", columns, rows)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


@settings(max_examples=60, deadline=None)
@given(data=st.data(), width=st.sampled_from([40, 60, 80, 240]))
def test_a_table_fits_the_terminal_and_loses_no_cell(data: st.DataObject, width: int) -> None:
    count = data.draw(st.integers(1, 9))
    columns = [" ".join(data.draw(st.lists(WORDS, min_size=1, max_size=3))) for _ in range(count)]
    rows = [[data.draw(CELLS) for _ in range(count)] for _ in range(data.draw(st.integers(0, 4)))]
    text = shown(width, columns, rows)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    squeezed = "".join(text.split())
    for row in rows:
        for cell in row:
            told = cell if isinstance(cell, str) else output._number(cell)
            if len(told) <= 9:
                assert "".join(told.split()) in squeezed


def test_the_last_column_is_not_cut_where_another_can_wrap() -> None:
    columns = ["a aaaaaaaaa", "a a aaaaaaaa", "a", "a aaaaaaaaa", "a a aaaaaa", "aa aaaaa"]
    assert " 1" in shown(80, columns, [[None, None, "a a aaaaaaaaa", 0.0, 0.0, 1]])


def test_headings_wrap_before_a_table_is_turned() -> None:
    columns, rows = ["mean latency in seconds", "highest runs per second"], [["1.5", "20"]]
    assert "─" * 12 in shown(24, columns, rows)
    wide = shown(80, columns, rows).splitlines()
    assert any("mean latency in seconds" in line and "highest runs per second" in line for line in wide)
    narrow = shown(12, columns, rows)
    assert "mean latency in seconds" in " ".join(narrow.split())


def test_csv_has_full_numbers_and_a_second_table_says_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    with _tables_as_csv(True):
        output.show_table("First", ["a", "b c"], [[1 / 3, None], [float("inf"), "x,y"]])
        output.stdout.print("in words")
        output.show_table("Second", ["d"], [[True]])
    said = capsys.readouterr()
    assert said.out == 'a,b c\n0.3333333333333333,\n,"x,y"\n\n# Second\nd\nTrue\n'
    assert "in words" in said.err


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = [0.0], []
    monkeypatch.setattr(output.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(output, "notify", said.append)
    with output.progress_bar("profiling", 100) as advance:
        for _ in range(100):
            clock[0] += 1.0
            advance()
    assert said == [f"profiling: {n} of 100, {n} s" for n in range(10, 100, 10)]
    said.clear()
    with output.progress_bar("quick", 3) as advance:
        for _ in range(3):
            advance()
    assert said == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        for line in ("trace generate chat -n 20 -o chat.jsonl", "plan -t chat.jsonl --rate 0.5 --gpus 1 -o chat.plan.yaml"):
            assert CliRunner().invoke(app, line.split()).exit_code == 0
    return made


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ("trace stats chat.jsonl", "mean s"),
        ("trace list", "name"),
        ("model list", "name"),
        ("predict chat.plan.yaml", "mean s"),
        ("validate chat.plan.yaml -n 30", "check"),
        ("doctor", "what"),
        ("experiment list", "name"),
        ("profile check", "family"),
    ],
)
def test_commands_print_csv(folder: Path, monkeypatch: pytest.MonkeyPatch, line: str, column: str) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, [*line.split(), "--csv"])
    assert done.exit_code in (0, 1), done.stderr
    first = done.stdout.split("\n\n")[0].splitlines()
    assert column in next(csv.reader(first))
    assert len({len(row) for row in csv.reader(first)}) == 1
    both = CliRunner().invoke(app, [*line.split(), "--csv", "--json"])
    assert (both.exit_code, "give one" in both.stderr) == (2, True)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("plan -t chat.jsonl --rate 1 --gpus 1 --goal cost", "--goal cost needs a limit to stay within: give --max-latency"),
        ("plan -t chat.jsonl --rate 1 --gpus 1 --max-latency 2 --percentile 90", "--percentile is 90: must be 50, 95 or 99"),
        ("simulate chat.plan.yaml --timeline nowhere/x.json", "nowhere/x.json: cannot be written"),
        ("simulate chat.plan.yaml --records nowhere/x", "nowhere/x: cannot be written"),
        ("plan -t chat.jsonl --rate 1 --gpus 1 --as llama-3.1-8b=lama-3.1-9b", "nearest: llama-3.1"),
    ],
)
def test_mistakes_are_named_in_the_words_of_the_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, line: str, told: str
) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, line.split())
    assert (done.exit_code, told in done.stderr) == (2, True), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_doctor_names_what_is_missing_and_what_mends_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    found = {each.name: each for each in doctor.examine()}
    assert found["python"].standing == "works"
    for name in ("extra gateway", "event loop", "engine vllm", "GPU", "kubeconfig"):
        assert found[name].standing == "missing", name
        assert found[name].mend, name
    assert all(bool(each.mend) == (each.standing != "works") for each in found.values())


def test_the_doctor_survives_a_check_that_breaks_and_a_broken_kubeconfig(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("not: [a kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))

    def fails() -> list[doctor.Finding]:
        raise RuntimeError("boom")

    monkeypatch.setitem(doctor.CHECKS, "engine", fails)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    said = json.loads(done.stdout)
    found = {each["name"]: each for each in said["findings"]}
    assert (done.exit_code, said["ok"]) == (1, False)
    assert found["Kubernetes"]["standing"] == found["engine"]["standing"] == "broken"
    assert "boom" in found["engine"]["found"]


def test_an_old_python_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_PYTHON", (sys.version_info[0], sys.version_info[1] + 1))
    assert next(iter(doctor.CHECKS["python"]())).standing == "broken"
