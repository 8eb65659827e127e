"""What holds for every file format, whatever the value and whatever the damage."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scepsy.errors import InputError

SETTINGS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def same(a: Any, b: Any) -> bool:
    if hasattr(a, "runs") and hasattr(a, "calls"):  # Records compare by identity of their tables
        return a.runs.equals(b.runs) and a.calls.equals(b.calls) and dict(a.meta) == dict(b.meta)
    return a == b


def read_or_refuse(form: Any, path: Path) -> Any:
    """Load; the only exception allowed is an InputError of one line that names the file."""
    try:
        return form.load(path)
    except InputError as error:
        text = str(error)
        assert "\n" not in text
        assert str(path.parent) in text
        return None


@SETTINGS
@given(data=st.data())
def test_what_is_written_is_read_back(form, tmp_path, data):
    value = data.draw(form.values)
    path = tmp_path / form.files[0]
    form.save(path, value)
    assert same(form.load(path), value)


@SETTINGS
@given(data=st.data())
def test_same_value_same_bytes(form, tmp_path, data):
    value = data.draw(form.values)
    contents = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir(exist_ok=True)
        form.save(tmp_path / folder / form.files[0], value)
        contents.append([(tmp_path / folder / name).read_bytes() for name in form.files])
    assert contents[0] == contents[1]


@SETTINGS
@given(data=st.data())
def test_a_cut_off_file_is_refused(form, tmp_path, data):
    value = data.draw(form.values)
    path = tmp_path / form.files[0]
    form.save(path, value)
    victim = tmp_path / data.draw(st.sampled_from(form.files))
    whole = victim.read_bytes()
    victim.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    loaded = read_or_refuse(form, path)
    if victim.suffix in (".jsonl", ".gz", ".parquet"):  # the others are documents: some prefixes are documents too
        assert loaded is None or same(loaded, value)  # equal: only the final newline is gone


@SETTINGS
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_never_a_traceback(form, tmp_path, data):
    value = data.draw(form.values)
    path = tmp_path / form.files[0]
    form.save(path, value)
    victim = tmp_path / data.draw(st.sampled_from(form.files))
    content = bytearray(victim.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        until = min(len(content), at + data.draw(st.integers(0, 8)))
        content[at:until] = data.draw(
            st.binary(max_size=6)
            | st.sampled_from([b"-1", b"1e999", b"null", b"[", b"}", b"NaN", b".nan", b"\xff", b"\n", b": "])
        )
    victim.write_bytes(bytes(content))
    read_or_refuse(form, path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\xff\xfe",
        b"\x00" * 64,
        b"[" * 100_000,
        b"{" * 100_000,
        b"- " * 5_000,
        b'{"a":' * 50_000,
        b"PAR1",
        b"\x1f\x8b",
        b"\x1f\x8b" + b"\x08" * 40,
        b"null",
        b"3",
        b"[]",
        b"{}",
    ],
    ids=range(15),
)
def test_what_is_no_such_file_is_refused(form, tmp_path, content):
    for name in form.files:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"^[^\n]+: .*must "):
        form.load(tmp_path / form.files[0])


def test_missing_file_and_folder_are_refused(form, tmp_path):
    with pytest.raises(InputError, match="does not exist: must be a readable file"):
        form.load(tmp_path / form.files[0])
    (tmp_path / form.files[0]).mkdir()
    with pytest.raises(InputError, match="is a directory: must be a file"):
        form.load(tmp_path / form.files[0])


@SETTINGS
@given(data=st.data())
def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(form, tmp_path, data):
    value = data.draw(form.values)
    path = tmp_path / form.files[0]
    form.save(path, value)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("the writer fails half-way")

        def __iter__(self) -> Any:
            raise RuntimeError("the writer fails half-way")

    with pytest.raises((RuntimeError, TypeError)):
        form.save(path, Broken())
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


@SETTINGS
@given(data=st.data())
def test_writing_into_a_missing_folder_is_bad_input(form, tmp_path, data):
    value = data.draw(form.values)
    with pytest.raises(InputError, match=r"cannot be written: No such file or directory"):
        form.save(tmp_path / "none" / form.files[0], value)
