"""From traces and rates to a planning problem: the steps every command and experiment goes through first."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scepsy.backend import Stream, Workload
from scepsy.cluster import Cluster
from scepsy.errors import InputError
from scepsy.llm import Llm, Served
from scepsy.plans import Target
from scepsy.predictors.aggregate import curve_key
from scepsy.profile.curve import Curve
from scepsy.profile.model import ProfileSet
from scepsy.profile.served import served_by
from scepsy.profile.sharing import WORK
from scepsy.progress import Progress, no_progress
from scepsy.search.problem import Goal, Problem
from scepsy.stats.use import workflow_use
from scepsy.workload import Arrivals, Trace
from sim.profiling.curves import SHARES, profile_curves


@dataclass(frozen=True)
class Load:
    """One workflow and the arrivals to plan for."""

    trace: Trace
    """Of one workflow."""
    arrivals: Arrivals
    path: str = ""
    """The trace's file, to be named in the plan; empty for a trace made in memory."""

    @property
    def workflow(self) -> str:
        """The workflow's name."""
        return self.trace.workflows[0]

    @property
    def stream(self) -> Stream:
        """The load as a backend takes it."""
        return Stream(trace=self.trace, arrivals=self.arrivals, order="shuffled")


def loads_of(traces: Sequence[tuple[Trace, str]], rates_per_s: Sequence[float], arrivals: Arrivals) -> tuple[Load, ...]:
    """One load per workflow of the traces, in order, each with its rate. ``arrivals`` gives the kind.

    Raises ``InputError`` unless there is one rate for each workflow, and each workflow comes once.
    """
    parts = [(trace.of(workflow), path) for trace, path in traces for workflow in trace.workflows]
    names = [trace.workflows[0] for trace, _ in parts]
    if len(set(names)) != len(names):
        raise InputError(f"workflows are {', '.join(names)}: give each workflow in one trace only")
    if len(rates_per_s) != len(parts):
        raise InputError(
            f"--rate is given {len(rates_per_s)} times: must be once for each of {len(parts)} workflows ({', '.join(names)})"
        )
    for rate in rates_per_s:
        if not 0 < rate < float("inf"):
            raise InputError(f"--rate is {rate:g}: must be a finite number > 0 (runs per second)")
    return tuple(
        Load(
            trace=trace,
            arrivals=Arrivals(
                kind=arrivals.kind,
                rate_per_s=rate,
                cv=arrivals.cv,
                pieces=arrivals.pieces,
                users=arrivals.users,
                think_s=arrivals.think_s,
            ),
            path=path,
        )
        for (trace, path), rate in zip(parts, rates_per_s, strict=True)
    )


def longest_call_tokens(traces: Sequence[Trace]) -> Mapping[str, int]:
    """Prompt + output tokens of each LLM's longest call."""
    longest: dict[str, int] = {}
    for trace in traces:
        for run in trace.runs:
            for call in run.calls:
                longest[call.llm] = max(longest.get(call.llm, 0), call.input_tokens + call.output_tokens)
    return longest


def require_fit(traces: Sequence[Trace], models: Mapping[str, Llm]) -> None:
    """Raise ``InputError`` where a model does another kind of work than its LLM's calls, or takes less than the longest."""
    kinds = dict.fromkeys((call.llm, call.kind) for trace in traces for run in trace.runs for call in run.calls)
    for llm, kind in kinds:
        model = models[llm]
        if model.kind != kind:
            raise InputError(
                f"LLM {llm!r}: its calls {WORK[kind]}, but its model {model.model or model.name} can only {WORK[model.kind]}: "
                f"name one that can with --as '{llm}=MODEL' (scepsy model list shows the kinds)"
            )
    for llm, tokens in longest_call_tokens(traces).items():
        model = models[llm]
        if tokens > model.context_limit:
            raise InputError(
                f"LLM {llm!r}: its longest call has {tokens} tokens, but its model {model.model or model.name} takes "
                f"{model.context_limit}: name one with a longer context with --as '{llm}=MODEL', or split what is sent to it"
            )


def prepare(
    loads: Sequence[Load],
    cluster: Cluster,
    profiles: ProfileSet,
    *,
    share_unit_pct: int = 10,
    goal: Goal | None = None,
    seed: int = 0,
    cache_dir: Path | None = None,
    jobs: int = 1,
    progress: Progress = no_progress,
) -> Problem:
    """Profile the curves of every LLM in the loads on every GPU type of the cluster, and state the problem.

    Curves come from the cache where the same traces, profiles and settings were profiled before. Raises ``InputError``
    when an LLM has no profile, naming those that have, and when its model is of another kind than its calls or takes a
    shorter context.
    """
    llms = list(dict.fromkeys(llm for load in loads for llm in load.trace.llms))
    gpu_types = [gpu.name for gpu in cluster.gpu_types]
    for llm in llms:
        if not any(profiles.degrees(llm, gpu) for gpu in gpu_types):
            known = ", ".join(sorted({profile.llm.name for profile in profiles.profiles})) or "none"
            raise InputError(
                f"LLM {llm!r} of the trace has no profile on {', '.join(gpu_types)} (profiled: {known}): "
                f"add one to the profiles file, or name a known model for it with --as '{llm}=llama-3.1-8b'"
            )
    require_fit([load.trace for load in loads], {llm: profiles.llm(llm) for llm in llms})
    curves = profile_curves(
        [load.stream for load in loads],
        profiles,
        gpu_types,
        shares=_shares(share_unit_pct),
        gpus={name: sum(node.gpus for node in cluster.nodes if node.gpu_type == name) for name in gpu_types},
        seed=seed,
        cache_dir=cache_dir,
        jobs=jobs,
        progress=progress,
    )
    notes = [note for load in loads for note in load.trace.source.assumptions]
    scaled = sorted({p.llm.name for p in profiles.profiles if p.source.startswith("scaled") and p.llm.name in llms})
    if scaled:
        notes.append(f"step models scaled from another model's measurement, none of their own: {', '.join(scaled)}")
    most = max((len(domain) for node in cluster.nodes for domain in node.domains), default=1)
    notes += search_notes([curve for curve in curves if curve.tensor_parallel <= most])
    notes += model_notes(served_by(profiles, llms))
    return Problem(
        cluster=cluster,
        profiles=profiles,
        targets=tuple(Target(workflow=load.workflow, arrivals=load.arrivals, trace=load.path) for load in loads),
        uses=tuple(workflow_use(load.trace, load.workflow) for load in loads),
        curves={curve_key(curve): curve for curve in curves},
        share_unit_pct=share_unit_pct,
        assumptions=tuple(dict.fromkeys(notes)),
        goal=goal or Goal(),
        longest_call_tokens=longest_call_tokens([load.trace for load in loads]),
        runs={load.workflow: load.trace.runs for load in loads},
    )


def search_notes(curves: Iterable[Curve]) -> list[str]:
    """What the search space leaves out, which a proof of optimality does not speak of."""
    degrees: dict[str, set[int]] = {}
    shared: dict[str, set[int]] = {}
    for curve in curves:
        degrees.setdefault(curve.llm, set()).add(curve.tensor_parallel)
        if curve.share_pct < 100:
            shared.setdefault(curve.llm, set()).add(curve.tensor_parallel)
    left_out = {llm: sorted(shared.get(llm, set())) for llm, found in degrees.items() if found - shared.get(llm, set())}
    if not left_out:
        return []
    told = "; ".join(
        f"{llm} {', '.join(f'TP {degree}' for degree in found) if found else 'at none'}" for llm, found in left_out.items()
    )
    return [f"searched at shares below 100 %, each LLM at its smallest degrees only: {told}"]


def model_notes(models: Sequence[Served]) -> list[str]:
    """What a plan must say of its models: names that share instances, names that share a model only, and models that engines
    cannot load by name."""
    notes = [
        f"{' and '.join(served.names)} share the instances of one model ({served.model}): their calls are counted, planned for "
        f"and simulated as calls to one LLM, {served.llm}"
        for served in models
        if served.also
    ]
    by_model: dict[str, list[Served]] = {}
    for served in models:
        by_model.setdefault(served.model, []).append(served)
    for model, same in by_model.items():
        if len(same) > 1:
            every = ",".join(name for served in same for name in served.names)
            notes.append(
                f"{' and '.join(served.llm for served in same)} are one model ({model}), each on instances of its own (--share "
                f"{every} would serve them from the same ones)"
            )
    unknown = [
        f"{served.llm} ({served.model})" if served.model != served.llm else served.llm for served in models if not served.hub_id
    ]
    if unknown:
        notes.append(
            f"no name on Hugging Face is known for {', '.join(unknown)}: render and apply ask for one (--as NAME=OWNER/NAME)"
        )
    return notes


def _shares(unit_pct: int) -> tuple[int, ...]:
    """The shares that plans may use. Of units below 10 % only multiples of 10 are profiled, which the plan then keeps to."""
    return tuple(range(unit_pct, 101, unit_pct)) if 10 <= unit_pct <= 100 else SHARES


def workload_of(loads: Sequence[Load], *, runs: int, seed: int) -> Workload:
    """The loads as a workload of ``runs`` runs in all, everything finished before it ends."""
    return Workload(streams=tuple(load.stream for load in loads), seed=seed, runs=runs)
