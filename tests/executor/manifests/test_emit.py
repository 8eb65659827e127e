"""Manifests as text: no reader may take a text for a number, a date, a boolean or nothing."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from executor.manifests.emit import read_strictly, yaml_text

ODD = (
    *("0884370e45", "1e3", "12345", "1_000", "0x1f", "0o17", "0b101", "017", ".5", "1.", "-0", "+1", "1:30", "2026-11-27"),
    *("yes", "No", "on", "y", "null", "~", "", "true", "NaN", ".inf", "=", "<<"),
    *(
        "- a",
        "a: b",
        "a #b",
        "'",
        '"',
        "\n",
        "a\n",
        " a",
        "\ta",
        "!x",
        "&a",
        "*a",
        "%",
        "@",
        "`",
        "{a}",
        "[a]",
        "\u2028",
        "\x07",
    ),
)
"""Texts that some reader of YAML takes for something else when they are not quoted."""


@pytest.mark.parametrize("text", ODD, ids=repr)
def test_a_text_stays_a_text(text: str) -> None:
    document = {"labels": {"digest": text}, "args": [text], "plain": 5, "flag": True}
    written = yaml_text([document])
    assert list(yaml.safe_load_all(written)) == [document]
    assert read_strictly(written) == [document]


@given(st.lists(st.from_regex(r"[0-9a-f]{10}", fullmatch=True) | st.text(max_size=20), max_size=20))
def test_any_texts_stay_texts(texts: list[str]) -> None:
    assert list(yaml.safe_load_all(yaml_text([texts]))) == [texts]


def test_a_digest_without_quotes_would_be_noticed() -> None:
    """PyYAML itself reads it as a text, and Go's reader as a number."""
    assert yaml.safe_load("0884370e45") == "0884370e45"
    assert read_strictly("0884370e45") != ["0884370e45"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_the_reader_of_kubectl_takes_them_for_texts_too(tmp_path: Path) -> None:
    # Not "=" and "<<", which PyYAML cannot read back from what kubectl writes.
    data = {f"k{number}": text for number, text in enumerate(ODD) if text.isprintable() and text not in ("=", "<<")}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "odd"}, "data": data}
    (tmp_path / "odd.yaml").write_text(yaml_text([config_map]))
    (tmp_path / "kustomization.yaml").write_text(json.dumps({"resources": ["odd.yaml"]}))
    built = subprocess.run(["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, check=True)
    assert list(yaml.safe_load_all(built.stdout)) == [config_map]
