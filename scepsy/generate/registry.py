"""Every workflow that can be generated, by name, and how a trace of it is made."""

import difflib
from collections.abc import Iterator, Mapping

from scepsy.errors import InputError
from scepsy.generate import agents, beam, debate, rag, sql
from scepsy.generate.builder import BLOCK_TOKENS, BlockIds, RunBuilder
from scepsy.generate.spec import WorkflowSpec
from scepsy.rng import stream
from scepsy.workload import Run, Trace, TraceSource

WORKFLOWS: Mapping[str, WorkflowSpec] = {
    spec.name: spec for family in (rag, beam, debate, sql, agents) for spec in family.WORKFLOWS
}


def find_workflow(name: str) -> WorkflowSpec:
    """The workflow called ``name``. Raises ``InputError`` naming what there is."""
    if name not in WORKFLOWS:
        close = difflib.get_close_matches(name, WORKFLOWS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"workflow is {name!r}: must be one of {', '.join(WORKFLOWS)} ({hint}see: scepsy trace list)")
    return WORKFLOWS[name]


def generate_runs(workflow: str, *, runs: int, seed: int = 0, llms: Mapping[str, str] | None = None) -> Iterator[Run]:
    """Yield ``runs`` runs of a workflow, one at a time.

    Every run has its own random stream, named by its number: the first 100 of 200 runs are the 100 runs that are generated
    when 100 are asked for, and other LLMs leave the lengths as they are. ``llms`` maps roles to LLM names.
    Raises ``InputError`` on an unknown workflow or role, or fewer than one run.
    """
    spec = find_workflow(workflow)
    if runs < 1:
        raise InputError(f"runs is {runs}: must be >= 1")
    names = _names(spec, llms or {})
    kinds = {role: item.kind for role, item in spec.roles.items()}
    blocks = BlockIds()
    for number in range(runs):
        builder = RunBuilder(str(number), stream(seed, "generate", workflow, number), names, kinds, blocks)
        spec.build(builder)
        yield builder.finish(f"{workflow}-{number}", workflow)


def trace_source(workflow: str, seed: int) -> TraceSource:
    """Where a generated trace comes from, for its header."""
    spec = find_workflow(workflow)
    return TraceSource(
        origin=f"generated:{workflow}", licence="Apache-2.0", seed=seed, assumptions=spec.assumptions, notes=spec.sources
    )


def generate(workflow: str, *, runs: int, seed: int = 0, llms: Mapping[str, str] | None = None) -> Trace:
    """A generated trace. Raises ``InputError`` like ``generate_runs``.

    >>> trace = generate("reflection", runs=2, seed=1)
    >>> [call.id for call in trace.runs[0].calls]
    ['draft', 'critic-0', 'critic-1', 'refine']
    """
    return Trace(
        source=trace_source(workflow, seed),
        runs=tuple(generate_runs(workflow, runs=runs, seed=seed, llms=llms)),
        prefix_block_tokens=BLOCK_TOKENS,
    )


def _names(spec: WorkflowSpec, llms: Mapping[str, str]) -> dict[str, str]:
    for role, llm in llms.items():
        if role not in spec.roles:
            raise InputError(f"role is {role!r}: must be a role of {spec.name} ({', '.join(spec.roles)})")
        if not llm:
            raise InputError(f"LLM of role {role!r} is empty: must be a name")
    return {role: llms.get(role, item.llm) for role, item in spec.roles.items()}
