"""Every figure and table is drawn twice, byte for byte the same, at a paper's widths; missing tables are skipped aloud."""

import importlib
import importlib.util
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from experiments.findings.derive import write_derived
from experiments.systems.deployment import label_of
from experiments.systems.registry import SYSTEMS
from scepsy.errors import InputError
from scepsy.profile.catalogue import cluster_of
from scepsy.report.scripts import chosen_scripts, draw

_SPEC = importlib.util.spec_from_file_location("made_up", Path(__file__).with_name("made_up.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
made_up = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(made_up)

FOLDER = Path(__file__).parents[2] / "paper_figures"
SCRIPTS = sorted([*FOLDER.glob("fig_*.py"), *FOLDER.glob("tab_*.py")])

DRAW_ALL = """
import runpy, sys
folder, tables, output, *scripts = sys.argv[1:]
sys.path.insert(0, folder)
for script in scripts:
    sys.argv = [script, "--data", tables, "--output", output]
    runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed tables, and beside them a made-up evaluation that has something for every figure."""
    folder = tmp_path_factory.mktemp("tables")
    for path in (FOLDER / "data").glob("*.parquet"):
        shutil.copy(path, folder)
    made_up.table(("newcomer",)).to_parquet(folder / "evaluation.parquet")
    write_derived(folder)
    return folder


@pytest.fixture(scope="module")
def drawn(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two processes with different hash seeds have drawn everything."""
    folders = []
    for seed in ("1", "2"):
        output = tmp_path_factory.mktemp(f"figures-{seed}")
        line = [sys.executable, "-c", DRAW_ALL, str(FOLDER), str(tables), str(output), *map(str, SCRIPTS)]
        result = subprocess.run(
            line, capture_output=True, text=True, env={"PYTHONHASHSEED": seed, "HOME": str(output.parent)}, check=False
        )
        assert result.returncode == 0, result.stderr
        folders.append(output)
    return folders[0], folders[1]


def test_there_are_fourteen_figures_and_the_tables() -> None:
    assert [script.stem.split("_")[1] for script in SCRIPTS if script.stem.startswith("fig")] == [
        f"{n:02d}" for n in range(1, 15)
    ]
    assert len(SCRIPTS) == 22


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_same_bytes_twice(script: Path, drawn: tuple[Path, Path]) -> None:
    first, second = ({path.name: path.read_bytes() for path in sorted(folder.glob(f"{script.stem}.*"))} for folder in drawn)
    assert first == second
    assert {Path(name).suffix for name in first} == (
        {".pdf", ".png", ".svg"} if script.stem.startswith("fig") else {".md", ".tex", ".csv"}
    )
    assert all(len(data) > 100 for data in first.values())


def test_figures_stand_on_the_parquet_files_alone() -> None:
    for path in FOLDER.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for package in ("scepsy", "sim", "experiments", "executor"):
            assert f"import {package}" not in text
            assert f"from {package}" not in text


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s.stem.startswith("fig")], ids=lambda path: path.stem)
def test_figures_have_the_width_of_one_or_two_columns(script: Path, drawn: tuple[Path, Path]) -> None:
    data = (drawn[0] / f"{script.stem}.png").read_bytes()
    width = struct.unpack(">I", data[16:20])[0]
    assert width in (990, 2100)  # 3.3 and 7 inches at 300 dots per inch


def test_a_system_that_style_does_not_know_is_in_figures_and_tables(drawn: tuple[Path, Path]) -> None:
    for name in ("tab_02_allocations", "tab_03_ratios"):
        assert "Newcomer" in (drawn[0] / f"{name}.md").read_text(encoding="utf-8")
    check = "import sys; sys.path.insert(0, sys.argv[1]); import evaluated, pandas as pd; " + (
        "f = pd.DataFrame({'system': ['newcomer', 'scepsy', 'another'], 'title': ['Newcomer', 'x', 'Another']}); "
        "assert evaluated.systems(f) == ['scepsy', 'another', 'newcomer'], evaluated.systems(f); "
        "assert evaluated.title('newcomer', f) == 'Newcomer'; "
        "part = f[f['system'] != 'another']; "
        "assert evaluated.look('newcomer', f) != evaluated.look('another', f); "
        "assert evaluated.legend_of(evaluated.systems(part), part, f)[1].get_color() == evaluated.look('newcomer', f)['color']"
    )
    result = subprocess.run([sys.executable, "-c", check, str(FOLDER)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_missing_table_is_skipped_with_the_command_that_makes_it(tmp_path: Path, tables: Path) -> None:
    shutil.copy(tables / "workflows.parquet", tmp_path)
    found = list(draw(["fig_05_main", "tab_01_workflows"], tmp_path, tmp_path / "out"))
    assert found[0].files == ()
    assert "points.parquet is missing: run: scepsy experiment run evaluation" in found[0].skipped
    assert [path.suffix for path in found[1].files] == [".csv", ".md", ".tex"]
    pd.read_parquet(tables / "points.parquet").query("gpus == 4").to_parquet(tmp_path / "points.parquet")
    shutil.copy(tables / "maxima.parquet", tmp_path)
    assert "no rows on 16 GPUs" in next(draw(["fig_05_main"], tmp_path, tmp_path / "out")).skipped


def test_predictions_without_a_stable_point_are_skipped_aloud(tmp_path: Path, tables: Path) -> None:
    frame = pd.read_parquet(tables / "prediction.parquet")
    frame.assign(stable=False).to_parquet(tmp_path / "prediction.parquet")
    assert "no stable point" in next(draw(["fig_04_prediction"], tmp_path, tmp_path / "out")).skipped


def test_scripts_are_named_by_their_beginning() -> None:
    assert chosen_scripts(["fig_05", "fig_05_main"]) == ["fig_05_main"]
    with pytest.raises(InputError, match="say which"):
        chosen_scripts(["fig_0"])
    with pytest.raises(InputError, match="must be one of"):
        chosen_scripts(["fig_99"])


def test_the_page_says_what_came_out_what_is_lost_and_how_each_figure_is_drawn(tables: Path, tmp_path: Path) -> None:
    from experiments.report import headline_ratios, write_report

    frame = pd.read_parquet(tables / "evaluation.parquet")
    frame = frame[(frame["workload"] == "debate") | (frame["gpus"] == 8)].copy()
    ahead = (frame["system"] == "newcomer") & (frame["workload"] == "debate")
    frame.loc[ahead, "latency_mean_s"] = 0.5 + 0.001 * frame.loc[ahead, "seed"]
    frame.loc[ahead, ["point_settled"]] = True
    frame.to_parquet(tmp_path / "evaluation.parquet")
    files = write_report(tmp_path, tmp_path / "evaluation.html")
    page = (tmp_path / "evaluation.html").read_text(encoding="utf-8")
    first_screen = page.partition("Public claims</h2>")[0]
    assert "Losses" in first_screen
    assert "Newcomer" in first_screen
    assert "points are settled" in first_screen
    for part in ("up to 2.4x higher throughput", "not reproduced", "What is settled", "Assumptions by system", "made-up"):
        assert part in page
    assert "--only fig_06_aegaeon" in page
    assert "fig_09_ablation is not drawn" in page
    assert {path.name for path in files} >= {"evaluation.html", "fig_06_aegaeon.svg", "fig_13_sensitivity.svg"}
    assert {"workload", "load", "system", "ratio", "low", "high", "ours_s", "other_s"} <= set(headline_ratios(tmp_path)[0])


def texts_of(svg: Path) -> list[str]:
    """The texts of a figure."""
    return re.findall(r">([^<>]+)</text>", svg.read_text(encoding="utf-8"))


def test_every_panel_of_the_main_figure_says_its_workload_and_every_option_has_a_name_of_its_own(
    drawn: tuple[Path, Path],
) -> None:
    texts = texts_of(drawn[0] / "fig_05_main.svg")
    for workload in ("rag-rerank", "beam-search"):
        assert texts.count(workload) == 1
    sys.path.insert(0, str(FOLDER))
    try:
        words = importlib.import_module("small").words
    finally:
        sys.path.remove(str(FOLDER))
    for system in ("aegaeon", "ayo"):
        options = [label_of(option) for option in SYSTEMS[system].options(cluster_of(8, "A100-80G", 8))]
        assert len({words(option) for option in options}) == len(options)


def test_the_marks_on_the_axis_are_the_highest_rates_shown_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    evaluated = importlib.import_module("evaluated")
    both = pd.DataFrame(
        [
            {"system": name, "title": name, "group": "allocation", "low": low, "rate_per_s": 1.4 * low, "settled": False}
            for name, low in (("scepsy", 8.0), ("equal", 3.0))
        ]
    )
    axes = Figure().add_subplot()
    axes.set_xlim(1.0, 20.0)
    evaluated.maxima_rug(axes, both, both)
    assert sorted(line.get_xdata()[0] for line in axes.get_lines()) == [3.0, 8.0]
