"""Keys of cached results: another input, setting or source gives another key; nothing else does."""

import types
from pathlib import Path

import pytest

from scepsy.files import sources
from scepsy.files.cache import cache_key, settings_of
from sim.profiling import curves, points


@pytest.mark.parametrize("module", [curves, points], ids=lambda module: module.__name__)
def test_each_setting_is_part_of_the_key(module: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache_key([1], (curves, points))
    names = [name for name in settings_of(module) if not isinstance(getattr(module, name), type)]
    for name in names:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, "another value")
            assert cache_key([1], (curves, points)) != before, name
    assert cache_key([1], (curves, points)) == before


def test_keys_do_not_depend_on_the_folder_that_the_sources_lie_in() -> None:
    told = [value for module in curves._decisive for value in settings_of(module).values()]
    assert told
    assert not [value for value in told if "/" in value or " at 0x" in value]


def test_inputs_are_told_apart_where_one_ends() -> None:
    keys = {cache_key(inputs, ()) for inputs in ([], [1], [1, 2], [12], [[1], 2], [[1, 2]], ["1", 2])}
    assert len(keys) == 7


def test_sources_follow_imports_inside_functions_and_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "sim/__init__.py": "",
        "sim/a.py": "def f():\n    from sim.deep.b import x\n"
        "try:\n    pass\nexcept OSError:\n    import scepsy.caught\n"
        "else:\n    import scepsy.otherwise\nfinally:\n    import scepsy.last\n"
        "match 1:\n    case 1:\n        import scepsy.matched\n",
        **{f"scepsy/{name}.py": "" for name in ("caught", "otherwise", "last", "matched")},
        "sim/deep/__init__.py": "import scepsy.unit\n",
        "sim/deep/b.py": "import os\nx = 1\n",
        "scepsy/__init__.py": "",
        "scepsy/unit.py": "",
        "scepsy/other.py": "",
        "scepsy/data/laws.yaml": "k: 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    sources.imports_of.cache_clear()
    sources.sources_hash.cache_clear()
    try:
        found = {path.relative_to(tmp_path).as_posix() for path in sources.sources_of("sim.a")}
        assert found == set(files) - {"scepsy/other.py"}
        hashes = {sources.sources_hash("sim.a")}
        for name in ("sim/deep/b.py", "scepsy/unit.py", "scepsy/data/laws.yaml"):
            (tmp_path / name).write_text(files[name] + "# changed\n")
            sources.sources_hash.cache_clear()
            hashes.add(sources.sources_hash("sim.a"))
        assert len(hashes) == 4
        (tmp_path / "scepsy/other.py").write_text("# changed\n")
        sources.sources_hash.cache_clear()
        assert sources.sources_hash("sim.a") in hashes
    finally:
        sources.imports_of.cache_clear()
        sources.sources_hash.cache_clear()


def test_a_name_that_is_no_module_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no first-party module 'sim\.nothing'"):
        sources.sources_of("sim.nothing")
