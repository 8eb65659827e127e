"""Makes ``scepsy/data/steps_vendor.yaml``: ``python -m scepsy.profile.vendor_steps -o FILE`` (extra ``vendor``).

One row for each model below on each GPU type that the vendor data holds, fitted at degree 1 from a grid of kernel
times. A model
that does not fit one GPU has such a row too: it is what the tensor-parallel law starts from.
"""

import argparse
import sys
from pathlib import Path

import msgspec
import yaml

from scepsy.errors import InputError
from scepsy.profile import catalogue
from scepsy.profile.vendor import vendor_profile

MODELS = (
    "qwen3-30b-a3b", "qwen3-30b-a3b-fp8", "qwen3-235b-a22b", "gpt-oss-20b", "gpt-oss-120b", "minimax-m2.5", "deepseek-v3",
    "deepseek-v3.2", "kimi-k2.5", "glm-5", "qwen3.5-35b-a3b", "nvidia-nemotron-3-nano-30b-a3b-bf16", "gemma-4-26b-a4b",
    "llama-4-scout-17b-16e-instruct",
)  # fmt: skip
GPUS = ("A100-80G", "H100-80G", "H200-141G", "B200")


def main(arguments: list[str] | None = None) -> None:
    """Write the rows; pairs that the vendor data does not hold are named on stderr."""
    parser = argparse.ArgumentParser(prog="python -m scepsy.profile.vendor_steps", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args(arguments)
    rows = []
    for name in MODELS:
        for gpu in GPUS:
            try:
                profile, errors = vendor_profile(catalogue.llm(name), catalogue.gpu_type(gpu), 1)
            except (InputError, ValueError) as error:
                print(f"left out: {name} on {gpu}: {str(error)[:150]}", file=sys.stderr)
                continue
            step = {key: float(f"{value:.4g}") for key, value in msgspec.to_builtins(profile.step).items()}
            step["expert_part"] = profile.step.expert_part
            rows.append(
                {"llm": name, "gpu": gpu, "step": step, "residual_pct": round(errors.median_pct, 1), "source": profile.source}
            )
    head = "# Made by `python -m scepsy.profile.vendor_steps` (aiconfigurator-core): mixtures of experts at one whole GPU.\n"
    given.output.write_text(head + yaml.safe_dump(rows, sort_keys=False, width=1000), encoding="utf-8")
    print(f"{len(rows)} rows in {given.output}")


if __name__ == "__main__":
    main()
