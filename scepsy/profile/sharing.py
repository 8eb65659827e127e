"""Names of the traffic that the same instances serve: asked for with ``--share``, kept in the profiles and in the plan."""

from collections.abc import Iterable, Sequence

import msgspec

from scepsy.errors import InputError
from scepsy.llm import Llm
from scepsy.profile.model import Profile, ProfileSet
from scepsy.workload import Trace

WORK = {"generate": "generate text", "embed": "embed", "rerank": "rerank"}
"""What calls of a kind do, in words."""


def require_groups(groups: Sequence[Sequence[str]], traces: Iterable[Trace]) -> None:
    """Raise ``InputError`` unless each group has several names of the traces, each name once, whose calls are of one kind."""
    kinds = {call.llm: call.kind for trace in traces for run in trace.runs for call in run.calls}
    seen: set[str] = set()
    for group in groups:
        given = f"--share is {','.join(group)!r}"
        if len(group) < 2:
            raise InputError(f"{given}: must be NAME,NAME with two or more names among {', '.join(kinds)}")
        for name in group:
            if name not in kinds:
                raise InputError(f"{given}: {name!r} is no LLM of the trace: must be names among {', '.join(kinds)}")
            if name in seen:
                raise InputError(f"{given}: {name!r} is given twice: must be given once, with all that share in one --share")
            seen.add(name)
            if kinds[name] != kinds[group[0]]:
                raise InputError(
                    f"{given}: the calls of {group[0]} {WORK[kinds[group[0]]]}, those of {name} {WORK[kinds[name]]}: one model "
                    f"cannot do both, so leave out {name}"
                )


def sharing(profiles: ProfileSet, groups: Iterable[Sequence[str]]) -> ProfileSet:
    """The profiles with one LLM for each group of names: the first of them, which answers to the others too.

    Profiles of the others are left out. Raises ``InputError`` where they are another model's.
    """
    groups = tuple(groups)
    if not groups:
        return profiles
    llms = {profile.llm.name: profile.llm for profile in profiles.profiles}
    others = {name: group[0] for group in groups for name in group[1:]}
    for name, first in others.items():
        if name in llms and first in llms and _model(llms[name]) != _model(llms[first]):
            raise _two_models(llms[first], llms[name])
    also = {group[0]: tuple(sorted(group[1:])) for group in groups}
    kept = tuple(_answering(profile, also) for profile in profiles.profiles if profile.llm.name not in others)
    return msgspec.structs.replace(profiles, profiles=kept)


def _answering(profile: Profile, also: dict[str, tuple[str, ...]]) -> Profile:
    if profile.llm.name not in also:
        return profile
    return msgspec.structs.replace(profile, llm=msgspec.structs.replace(profile.llm, also=also[profile.llm.name]))


def _model(llm: Llm) -> Llm:
    """What is served, whatever it is asked for by and however long its calls are."""
    return msgspec.structs.replace(
        llm, name="-", also=(), model=llm.model or llm.name, kv_context_tokens=0, source="", notes=()
    )


def _two_models(first: Llm, other: Llm) -> InputError:
    served = first.model or first.name
    return InputError(
        f"--share is '{first.name},{other.name}': {first.name} is served by {served}, {other.name} by "
        f"{other.model or other.name}: names that share instances need one model, so give --as '{other.name}={served}' (or "
        f"leave the profiles of {other.name} out of the file of --profiles), or leave out --share"
    )
