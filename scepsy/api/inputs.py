"""What a program hands to Scepsy: traces, clusters and profiles, by name or file."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from scepsy.cluster import Cluster
from scepsy.errors import InputError
from scepsy.files import cluster as cluster_files
from scepsy.generate import generate
from scepsy.importers.detect import find_format
from scepsy.importers.inputs import gather
from scepsy.importers.registry import IMPORTERS, find_importer
from scepsy.importers.tally import Tally
from scepsy.profile import catalogue
from scepsy.profile.model import ProfileSet
from scepsy.workload import Trace


def generate_trace(workflow: str, *, runs: int, seed: int = 0, llms: Mapping[str, str] | None = None) -> Trace:
    """A trace of a published workflow, made up from its distributions (``scepsy trace list`` names them).

    ``llms`` maps a role of the workflow to the model that plays it. Raises ``InputError`` for an unknown workflow or role.
    """
    return generate(workflow, runs=runs, seed=seed, llms=llms)


def import_trace(
    files: str | Path | Sequence[str | Path], format: str | None = None, options: Mapping[str, str] | None = None
) -> Trace:
    """A trace from foreign files or folders; what was inferred, repaired or left out stands in ``trace.source.notes``.

    ``format`` is a name of ``scepsy trace list``; None: found from the files. Raises ``InputError`` naming file, record, field
    and remedy, for an unknown format, and for files of several formats.
    """
    paths = [files] if isinstance(files, str | Path) else list(files)
    name = format or find_format(gather(paths, Tally()), IMPORTERS).format
    return find_importer(name)(paths, options)


def load_cluster(name: str | Path | int, gpu_type: str = "A100-80G") -> Cluster:
    """A cluster by preset name (``"2x8-h100"``), by file, or as a number of GPUs of one type in nodes of eight.

    >>> load_cluster(12).gpus[-1]
    Gpu(node='n1', index=3)

    Raises ``InputError`` for a name that is neither a preset nor a file, and for an unknown GPU type.
    """
    if isinstance(name, int):
        return catalogue.cluster_of(name, gpu_type)
    if str(name) in catalogue.cluster_names():
        return catalogue.cluster_preset(str(name))
    if Path(name).exists():
        return cluster_files.load_cluster(name)
    presets = ", ".join(catalogue.cluster_names())
    raise InputError(f"cluster is {str(name)!r}: must be a cluster file or a preset ({presets})")


def profiles_of(llms: Iterable[str] | Mapping[str, str], cluster: Cluster) -> ProfileSet:
    """Built-in profiles of the LLMs on every GPU type of the cluster.

    A mapping says which model serves a name of the trace: ``{"gpt-4o": "llama-3.1-70b"}``. Raises ``InputError`` for models
    that are not built in.
    """
    return catalogue.builtin_profiles(llms, cluster.gpu_types)
