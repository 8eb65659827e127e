"""Which text several sessions have in common, as the prefix ids of a trace tell."""

from collections.abc import Iterable

from scepsy.workload import Run


def shared_between_sessions(runs: Iterable[Run]) -> frozenset[int]:
    """Prefix ids that occur in more than one session: system prompts, tool lists.

    All others are one user's text. When a run is replayed several times, each time stands for another user, so only these
    ids may be found in a prefix cache again.
    """
    owner: dict[int, str] = {}
    shared: set[int] = set()
    for run in runs:
        session = run.session or run.id
        for call in run.calls:
            for item in call.prefix_hashes:
                if owner.setdefault(item, session) != session:
                    shared.add(item)
    return frozenset(shared)
