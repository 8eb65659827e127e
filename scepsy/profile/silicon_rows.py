"""Built-in step models against measured times per output token: the vLLM rows of aiconfigurator-core's ``silicon_sample.csv``.

A closed loop of B users with prompts of ``isl`` and answers of ``osl`` tokens: in the mean, every decoding step of the
batch carries
B / osl prompts. So the time per output token is a decoding step at the mean context, and B / osl times the prompt's
own cost, without
a second base. It leaves out host time and queueing: TPOT only, TTFT is not estimated this way.
"""

import csv
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from scepsy.errors import InputError
from scepsy.models.names import find
from scepsy.profile import catalogue
from scepsy.profile.check import FamilyError
from scepsy.profile.model import Profile
from scepsy.profile.roofline import precision_class
from scepsy.profile.vendor import VENDOR_SYSTEMS
from scepsy.value import Value

PRECISIONS = {"bf16": "16 bits", "fp8": "fp8", "fp4": "fp4", "nvfp4": "fp4", "mxfp4": "fp4", "int4": "int"}
"""The table's precisions as ``roofline.precision_class`` names them; rows of another precision than the model's are
left out."""


class TpotRow(Value, frozen=True, kw_only=True):
    """One measured row, and what the built-in profile gives."""

    llm: str
    family: str
    gpu: str
    tensor_parallel: int
    measured_s: float
    built_in_s: float
    source: str

    @property
    def error_pct(self) -> float:
        """Relative error, percent."""
        return 100 * (self.built_in_s / self.measured_s - 1)


def tpot_s(profile: Profile, users: int, input_tokens: int, output_tokens: int) -> float:
    """Time per output token of a closed loop of ``users`` (see the module)."""
    step = profile.step
    prompt = step.prefill_s_per_token * input_tokens + step.attention_s_per_token2 * input_tokens**2 / 2
    context = input_tokens + output_tokens / 2
    return step.step_s(0, 0, users, int(users * context)) + users / output_tokens * prompt


def read_rows() -> list[dict[str, str]]:
    """The vLLM rows of aggregated serving. Raises ``InputError`` when the package is not installed."""
    package = find_spec("aiconfigurator_core")
    if package is None or not package.submodule_search_locations:
        raise InputError("--silicon needs aiconfigurator-core: pip install 'scepsy[vendor]'")
    path = Path(package.submodule_search_locations[0]) / "systems" / "silicon_sample.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["backend"] == "vllm" and row["mode"] == "agg"]


def compare(rows: Sequence[dict[str, str]]) -> list[TpotRow]:
    """The rows whose model and GPU type are known, without attention data parallelism, with what built-in profiles give."""
    gpus = {system: gpu for gpu, system in VENDOR_SYSTEMS.items()}
    found = []
    for row in rows:
        gpu, degree = gpus.get(row["system"]), int(row["tp_size"])
        llm = find(row["model_path"], catalogue.llms())
        if gpu is None or llm is None or not llm.supports_tensor_parallel(degree) or row["attention_dp_size"] not in ("", "1"):
            continue
        if row["precision"] and PRECISIONS.get(row["precision"]) != precision_class(llm):
            continue
        profile = catalogue.built_in_profile(llm, catalogue.gpu_type(gpu), degree)
        found.append(
            TpotRow(
                llm=llm.name,
                family=llm.family or "dense",
                gpu=gpu,
                tensor_parallel=degree,
                measured_s=float(row["silicon_tpot_ms"]) / 1e3,
                built_in_s=tpot_s(profile, int(row["batch_size"]), int(row["isl"]), int(row["osl"])),
                source=profile.source,
            )
        )
    return found


def families(rows: Sequence[TpotRow]) -> list[FamilyError]:
    """Median and largest error of each family (as decoding error; prefill is not compared)."""
    names = sorted({row.family for row in rows})
    groups = [(name, [row for row in rows if row.family == name]) for name in names] + [("all", list(rows))]
    return [
        FamilyError(
            family=name,
            pairs=len(group),
            decode_pct=float(np.median([abs(row.error_pct) for row in group])),
            decode_worst_pct=max(abs(row.error_pct) for row in group),
            prefill_pct=0.0,
            prefill_worst_pct=0.0,
        )
        for name, group in groups
        if group
    ]
