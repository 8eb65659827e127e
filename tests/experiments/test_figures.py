"""Every figure and table is drawn twice from the committed quick result, byte for byte the same."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "paper_figures"
SCRIPTS = sorted([*FOLDER.glob("fig_*.py"), *FOLDER.glob("tab_*.py")])

DRAW_ALL = """
import runpy, sys
folder, output, *scripts = sys.argv[1:]
sys.path.insert(0, folder)
for script in scripts:
    sys.argv = [script, "--output", output]
    runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two processes with different hash seeds have drawn everything."""
    folders = []
    for seed in ("1", "2"):
        output = tmp_path_factory.mktemp(f"figures-{seed}")
        line = [sys.executable, "-c", DRAW_ALL, str(FOLDER), str(output), *map(str, SCRIPTS)]
        result = subprocess.run(
            line, capture_output=True, text=True, env={"PYTHONHASHSEED": seed, "HOME": str(output.parent)}, check=False
        )
        assert result.returncode == 0, result.stderr
        folders.append(output)
    return folders[0], folders[1]


def test_there_are_twelve_figures_and_the_tables() -> None:
    assert [script.stem.split("_")[1] for script in SCRIPTS if script.stem.startswith("fig")] == [
        f"{n:02d}" for n in range(1, 13)
    ]
    assert len(SCRIPTS) == 18


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_same_bytes_twice(script: Path, drawn: tuple[Path, Path]) -> None:
    first, second = ({path.name: path.read_bytes() for path in sorted(folder.glob(f"{script.stem}.*"))} for folder in drawn)
    assert first == second
    assert {Path(name).suffix for name in first} == (
        {".pdf", ".png"} if script.stem.startswith("fig") else {".md", ".tex", ".csv"}
    )
    assert all(len(data) > 100 for data in first.values())


def test_figures_stand_on_the_parquet_files_alone() -> None:
    for path in FOLDER.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for package in ("scepsy", "sim", "experiments", "executor"):
            assert f"import {package}" not in text
            assert f"from {package}" not in text
