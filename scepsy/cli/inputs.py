"""Options that several commands share, turned into values: cluster, profiles, traces, arrivals, the curve cache."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scepsy.errors import InputError

if TYPE_CHECKING:
    from scepsy.cluster import Cluster
    from scepsy.plans import Plan
    from scepsy.profile.model import ProfileSet
    from scepsy.workload import Arrivals, Trace


def read_cluster(name: str | None, gpus: int | None, gpu_type: str) -> "Cluster":
    """The cluster of a preset, of a file, or of ``--gpus N`` GPUs of one type. By default 2 nodes of 8 A100-80G."""
    from scepsy.files.cluster import load_cluster
    from scepsy.profile import catalogue

    if name is not None and gpus is not None:
        raise InputError("--cluster and --gpus are both given: give one")
    if gpus is not None:
        return catalogue.cluster_of(gpus, gpu_type)
    if name is None:
        return catalogue.cluster_preset("2x8-a100-80g")
    if name in catalogue.cluster_names():
        return catalogue.cluster_preset(name)
    if Path(name).exists():
        return load_cluster(Path(name))
    presets = ", ".join(catalogue.cluster_names())
    raise InputError(f"--cluster is {name!r}: must be a cluster file or a preset ({presets})")


def read_profiles(
    path: Path | None,
    llms: Sequence[str],
    cluster: "Cluster",
    renames: Sequence[str],
    contexts: Mapping[str, int] | None = None,
) -> "ProfileSet":
    """A profiles file, or the built-in profiles of the trace's LLMs; ``--as NAME=MODEL`` says which model a name stands for.

    ``contexts``: mean context tokens of each LLM's calls (``catalogue.builtin_profiles``).
    """
    from scepsy.files.profiles import load_profiles
    from scepsy.models.names import find, unknown
    from scepsy.profile import catalogue

    names = {name: name for name in llms}
    for rename in renames:
        name, _, model = rename.partition("=")
        if not model or name not in names:
            raise InputError(f"--as is {rename!r}: must be NAME=MODEL with NAME one of {', '.join(llms)}")
        names[name] = model
    if path is not None:
        if renames:
            raise InputError("--as goes with built-in profiles: leave it out when --profiles is given")
        return load_profiles(path / "profiles.yaml" if path.is_dir() else path)
    found = {name: find(model, catalogue.llms()) for name, model in names.items()}
    unmapped = [name for name, model in names.items() if found[name] is None and model == name]
    wrong = [model for name, model in names.items() if found[name] is None and model != name]
    if unmapped and wrong:
        raise InputError(f"{unmapped_line(unmapped)}; and {unknown(wrong, catalogue.llms())}")
    if unmapped:
        raise InputError(unmapped_line(unmapped))
    if wrong:
        raise unknown(wrong, catalogue.llms())
    return catalogue.builtin_profiles(names, cluster.gpu_types, contexts=contexts)


def mean_contexts(traces: Sequence["Trace"]) -> dict[str, int]:
    """Tokens of context of each LLM's calls at their end, in the mean over all calls of the traces."""
    sums: dict[str, list[int]] = {}
    for trace in traces:
        for run in trace.runs:
            for call in run.calls:
                total = sums.setdefault(call.llm, [0, 0])
                total[0] += call.input_tokens + call.output_tokens
                total[1] += 1
    return {llm: max(1, tokens // calls) for llm, (tokens, calls) in sums.items()}


def unmapped_line(names: Sequence[str]) -> str:
    """What to say of LLMs of a trace that no known model answers to: the option to fill in, and why for hosted ones."""
    from scepsy.models.names import is_hosted

    hosted = [name for name in names if is_hosted(name)]
    why = f" ({', '.join(hosted)}: served by their owners only, so say which open model stands in)" if hosted else ""
    what = f"LLM{'s' if len(names) > 1 else ''} {', '.join(repr(name) for name in names)} of the trace"
    remedy = f"give --profiles FILE, or {as_options(names)} with a MODEL of `scepsy model list` each"
    return f"{what} must be mapped to models{why}: {remedy}"


def as_options(names: Sequence[str], models: Mapping[str, str] | None = None) -> str:
    """The ``--as`` options for these names; ``MODEL`` where ``models`` has none.

    >>> as_options(["gpt-4.1"], {"gpt-4.1": "qwen3-32b"})
    "--as 'gpt-4.1=qwen3-32b'"
    """
    known = models or {}
    pairs = [f"{name}={known.get(name, 'MODEL')}" for name in names]
    return " ".join("--as '" + pair.replace("'", "'\\''") + "'" for pair in pairs)


def read_shares(shares: Sequence[str], traces: Sequence["Trace"]) -> list[list[str]]:
    """The names of each ``--share NAME,NAME``. Raises ``InputError`` for names that cannot share instances."""
    from scepsy.profile.sharing import require_groups

    groups = [[name.strip() for name in share.split(",")] for share in shares]
    require_groups(groups, traces)
    return groups


def read_traces(paths: Sequence[Path]) -> list[tuple["Trace", str]]:
    """Load the trace files, with a progress bar; each with its path as given."""
    from scepsy.cli.output import progress_bar
    from scepsy.files.trace import load_trace

    with progress_bar("reading traces", len(paths)) as progress:
        traces = []
        for path in paths:
            traces.append((load_trace(path), str(path)))
            progress()
    return traces


def read_arrivals(text: str) -> "Arrivals":
    """``poisson``, ``deterministic``, ``trace`` or ``gamma:CV`` as arrivals of rate 1/s (the rate is set later)."""
    from scepsy.workload import Arrivals

    kind, _, rest = text.partition(":")
    try:
        cv = float(rest) if rest else 1.0
    except ValueError:
        cv = 0.0
    if kind == "gamma" and cv > 0:
        return Arrivals(kind="gamma", rate_per_s=1.0, cv=cv)
    if kind in ("poisson", "deterministic", "trace") and not rest:
        return Arrivals(kind=kind, rate_per_s=1.0)  # type: ignore[arg-type]  # narrowed by the tuple above
    raise InputError(f"--arrivals is {text!r}: must be poisson, deterministic, trace or gamma:CV with CV > 0")


def plan_inputs(plan: "Plan", path: Path) -> tuple[list[tuple["Trace", str]], "ProfileSet"]:
    """The traces (one per target, of its workflow) and the profiles that a plan file names, found relative to it.

    Calls to a name that shares instances are calls to the LLM that serves it.
    """
    from scepsy.files.profiles import load_profiles
    from scepsy.files.trace import load_trace
    from scepsy.profile.sharing import sharing

    if not plan.profiles:
        raise InputError(f"{path}: profiles is empty: the plan names no profiles file, so it cannot be predicted or simulated")
    loaded: dict[str, Trace] = {}
    traces = []
    for index, target in enumerate(plan.targets):
        if not target.trace:
            raise InputError(f"{path}: targets[{index}].trace is empty: the plan names no trace for {target.workflow}")
        if target.trace not in loaded:
            loaded[target.trace] = load_trace(path.parent / target.trace)
        try:
            traces.append((loaded[target.trace].of(target.workflow).renamed(plan.other_names), target.trace))
        except KeyError as error:
            raise InputError(f"{path.parent / target.trace}: {error.args[0]}: the plan was made from another trace") from error
    shared = [served.names for served in plan.models if served.also]
    return traces, sharing(load_profiles(path.parent / plan.profiles), shared)


def relative(target: Path, start: Path) -> str:
    """``target`` as seen from the folder ``start``: what a plan file names, so that both can be moved together."""
    return os.path.relpath(target.resolve(), start.resolve())
