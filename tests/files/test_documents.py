"""YAML and JSON documents: what a person writing one by hand gets told."""

import json
from importlib.metadata import version
from pathlib import Path

import jsonschema
import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from scepsy.cluster import MAX_GPUS, MAX_NODE_GPUS, Cluster, GpuType, Node
from scepsy.errors import InputError
from scepsy.files import yamltext
from scepsy.files.cluster import load_cluster
from scepsy.files.curves import save_curves
from scepsy.files.schemas import schemas
from scepsy.profile.curve import Curve

CLUSTER = """\
format: scepsy.cluster
version: 1
name: small
gpu_types:
  - name: a100
    memory_bytes: 85899345920
    bandwidth_bytes_per_s: 2.039e12
    flops_per_s: 312e12
nodes:
  - name: no
    gpu_type: a100
    gpus: 4
    nvlink_domains: [[0, 1], [2, 3]]
"""


def load(tmp_path: Path, text: str) -> Cluster:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load_cluster(path)


def test_a_cluster_written_by_hand(tmp_path):
    cluster = load(tmp_path, CLUSTER)
    assert cluster.nodes[0].name == "no"  # YAML 1.1 would say False
    assert cluster.gpu_types[0].flops_per_s == 312e12  # YAML 1.1 would say '312e12'
    assert cluster.nodes[0].nvlink_domains == ((0, 1), (2, 3))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("gpus: 4", "gpus: 4\n    gpus: 5", "line 13: nodes[0].gpus is given twice: must be given once"),
        ("gpus: 4", "gpu: 4", "line 12: nodes[0].gpu is not a known field: must be left out (did you mean 'gpus'?)"),
        ("gpus: 4", "gpus: 0", "nodes[0].gpus is 0: must be 1 to 4096 on one node"),
        ("gpus: 4", "gpus: 9223372036854775807", "nodes[0].gpus is 9223372036854775807: must be 1 to 4096 on one node"),
        ("gpus: 4", "gpus: four", "line 12: nodes[0].gpus is 'four': must be an integer"),
        ("gpus: 4", "gpus: 4.5", "line 12: nodes[0].gpus is 4.5: must be an integer"),
        ("gpus: 4", "gpus: 99999999999999999999", "line 12: nodes[0].gpus is 99999999999999999999: must be an integer of at most 64"),  # noqa: E501
        ("gpus: 4", "gpus: *four", "line 12: *four is an alias: must be written out"),
        ("gpus: 4", "gpus: !!python/name:os.system 4", "is a tag: must be left out"),
        ("gpus: 4", "? [a]\n    : 4", "has a collection as a key: must be a name"),
        ("gpus: 4", "gpus: [", "is not YAML"),
        ("2.039e12", ".nan", "line 7: gpu_types[0].bandwidth_bytes_per_s is .nan: must be a finite number"),
        ("2.039e12", ".inf", "line 7: gpu_types[0].bandwidth_bytes_per_s is .inf: must be a finite number"),
        ("2.039e12", "1e999", "line 7: gpu_types[0].bandwidth_bytes_per_s is 1e999: must be a finite number"),
        ("2.039e12", "-1", "line 7: gpu_types[0].bandwidth_bytes_per_s is -1.0: must be a finite number > 0"),
        ("[[0, 1], [2, 3]]", "[[0, 1], [2]]", "nodes[0].nvlink_domains is ((0, 1), (2,)): must be a partition of GPU indices 0 to 3"),  # noqa: E501
        ("gpu_type: a100", "gpu_type: h100", "line 11: nodes[0].gpu_type is 'h100': must be one of a100"),
        ("version: 1", "version: 9", "version is 9: must be 1"),
        ("version: 1\n", "", "version is missing: must be 1"),
        ("name: small\n", "", "name is missing: must be given"),
        ("  - name: no", "  - name: no\n    gpu_type: a100\n    gpus: 1\n  - name: no", "nodes is ['no', 'no']: must be distinct names"),  # noqa: E501
        ("version: 1", "version: 1\n---\nname: again", "line 3: is a second YAML document: must be one"),
    ],
)  # fmt: skip
def test_bad_fields_are_named(tmp_path, old, new, message):
    with pytest.raises(InputError) as caught:
        load(tmp_path, CLUSTER.replace(old, new, 1))
    assert message in str(caught.value)


def test_a_trace_in_the_place_of_a_document_is_called_by_its_name(tmp_path):
    with pytest.raises(InputError, match=r"line 1: format is 'scepsy.trace', JSON lines: must be a YAML document"):
        load(tmp_path, '{"format": "scepsy.trace", "version": 1}\n{"id": "r1"}\n')


def test_a_hostile_document_cannot_exhaust_memory(tmp_path):
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(InputError, match="is an alias"):
        load(tmp_path, bomb)
    with pytest.raises(InputError, match="is nested more than 64 deep"):
        load(tmp_path, "x: " + "[" * 70 + "]" * 70)


def test_a_cluster_of_more_gpus_than_there_are_is_refused():
    kind = GpuType(name="g", memory_bytes=1, bandwidth_bytes_per_s=1.0, flops_per_s=1.0)
    nodes = tuple(Node(name=f"n{index}", gpu_type="g", gpus=MAX_NODE_GPUS) for index in range(MAX_GPUS // MAX_NODE_GPUS + 1))
    with pytest.raises(ValueError, match="GPUs of all nodes is 102400: must be at most 100000"):
        Cluster(name="c", gpu_types=(kind,), nodes=nodes)
    assert len(Cluster(name="c", gpu_types=(kind,), nodes=nodes[1:]).gpus) < MAX_GPUS


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]))
)
documents = st.recursive(
    scalars,
    lambda c: (
        st.lists(c, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])), c, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(documents)
def test_yaml_round_trip(document):
    assert yamltext.parse("x", yamltext.dump(document)).value == document


@settings(max_examples=100, deadline=None)
@given(documents)
def test_other_readers_of_yaml_see_the_same_strings(document):
    theirs = yaml.safe_load(yamltext.dump(document))

    def strings(value: object) -> object:
        if isinstance(value, dict):
            return {key: strings(item) for key, item in value.items()}
        if isinstance(value, list):
            return [strings(item) for item in value]
        return value if isinstance(value, str) else None

    def kept(ours: object, other: object) -> bool:
        if isinstance(ours, dict):
            return isinstance(other, dict) and all(kept(ours[key], other.get(key)) for key in ours)
        if isinstance(ours, list):
            return isinstance(other, list) and all(map(kept, ours, other))
        return ours is None or ours == other

    assert kept(strings(document), theirs)


def test_numbers_that_are_not_finite_are_not_written(tmp_path):
    curve = Curve(
        workflow="w", llm="m", gpu_type="g", tensor_parallel=1, share_pct=100, replicas=1, capacity_per_s=1.0,
        utilisation=(0.1, 0.5),
        mean_s=(1.0, 1.0), p50_s=(1.0, 1.0), p95_s=(1.0, 1.0), p99_s=(1.0, 1.0), busy_s=(1.0, 1.0), parallelism=(1.0, 1.0),
        call_base_s=(float("nan"), 0.0),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"curves\[0\].call_base_s\[0\] is nan: must be a finite number"):
        save_curves(tmp_path / "c.json", [curve])
    with pytest.raises(ValueError, match="second curve of"):
        save_curves(tmp_path / "c.json", [curve, curve])
    assert list(tmp_path.iterdir()) == []


SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


def test_published_schemas_are_up_to_date():
    published = {path.name.removesuffix(".schema.json"): json.loads(path.read_text()) for path in SCHEMAS.glob("*.schema.json")}
    assert published == json.loads(msgspec.json.encode(schemas())), "run: python -m scepsy.files.schemas docs/schemas"


@pytest.mark.parametrize("name", list(schemas()))
def test_schemas_are_schemas(name):
    jsonschema.Draft202012Validator.check_schema(schemas()[name])
    assert int(version("jsonschema").split(".")[0]) >= 4


@settings(max_examples=25, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", ["trace", "cluster", "profiles", "plan", "curves"])
def test_schemas_accept_what_we_write(formats, tmp_path_factory, name, data):
    form = formats[name]
    path = tmp_path_factory.mktemp("schema") / form.files[0]
    form.save(path, data.draw(form.values))
    if name == "trace":
        header, *runs = map(json.loads, path.read_bytes().splitlines())
        jsonschema.validate(header, schemas()["trace-header"])
        for run in runs:
            jsonschema.validate(run, schemas()["trace-run"])
    else:
        data_read = path.read_bytes()
        parsed = json.loads(data_read) if name == "curves" else yamltext.parse(path, data_read, allow_infinity=True).value
        jsonschema.validate(parsed, schemas()[name])


def test_schemas_refuse_an_unknown_field():
    document = {"format": "scepsy.cluster", "version": 1, "name": "x", "gpu_types": [], "nodes": [], "colour": "red"}
    with pytest.raises(jsonschema.ValidationError, match="'colour' was unexpected"):
        jsonschema.validate(document, schemas()["cluster"])
