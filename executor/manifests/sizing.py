"""What an engine needs beside its GPUs, from its model's size: host memory, scratch space, time to start. Pure.

Assumed, not measured: 2 GiB for the server and 2 GiB for each rank (CUDA context, torch, NCCL), a tenth of the weights in host
memory while they are loaded, 5 GiB for compile caches. Downloads at 50 MB/s, model files on a volume are read at 200 MB/s, and
compiling and capturing graphs take five minutes.
"""

from dataclasses import dataclass
from math import ceil

from executor.manifests.options import RenderOptions, Resources
from scepsy.profile.model import Profile

GIB = 2**30
SERVER_BYTES = 2 * GIB
RANK_BYTES = 2 * GIB
LOADING_PART = 0.1
CACHES_BYTES = 5 * GIB
DOWNLOAD_BYTES_PER_S = 50e6
READ_BYTES_PER_S = 200e6
COMPILE_S = 300
LEAST_START_S = 600


@dataclass(frozen=True)
class Needs:
    """What one engine's pod asks for."""

    resources: Resources
    scratch: str
    """Ephemeral storage as a Kubernetes quantity; empty: its scratch is a volume of its own."""
    start_timeout_s: int


def needs_of(profile: Profile, model: str, options: RenderOptions) -> Needs:
    """Resources of an engine of ``profile`` that loads ``model``; what the options give stands as it is."""
    weights = profile.llm.weight_bytes
    ranks = profile.tensor_parallel
    downloads = not model.startswith("/")
    memory = SERVER_BYTES + RANK_BYTES * ranks + LOADING_PART * weights
    own = options.engine_resources or Resources(cpu=str(ranks), memory=_quantity(memory))
    scratch = "" if options.cache_claim else _quantity(CACHES_BYTES + (1.1 * weights if downloads else 0.0))
    seconds = COMPILE_S + weights / (DOWNLOAD_BYTES_PER_S if downloads else READ_BYTES_PER_S)
    start = options.start_timeout_s or max(LEAST_START_S, 60 * ceil(seconds / 60))
    return Needs(resources=own, scratch=options.scratch or scratch, start_timeout_s=start)


def _quantity(size_bytes: float) -> str:
    """Bytes as whole GiB, rounded up.

    >>> _quantity(5.2 * GIB)
    '6Gi'
    """
    return f"{ceil(size_bytes / GIB)}Gi"
