"""Open models to stand in for LLMs that only their owners serve: a guess from the size class that a name suggests,
nothing more."""

import re
from collections.abc import Mapping, Sequence

from scepsy.llm import Llm
from scepsy.models.names import find, is_hosted, nearest
from scepsy.value import Value

CLASSES: tuple[tuple[str, str, str], ...] = (
    ("embedding model", r"embed", "bge-m3"),
    ("reranker", r"rerank", "bge-reranker-v2-m3"),
    ("small model", r"nano|mini|haiku|lite|small|flash|turbo|fast|8b", "qwen3-30b-a3b"),
    ("largest model of its maker", r"opus|ultra|(?:^|[/:-])o1(?:-pro)?$|gpt-5(?:\.\d)?(?:-pro)?$|gpt-4\.5", "minimax-m2.5"),
    ("large model", r"", "gpt-oss-120b"),
)
"""(size class, what names of it hold, the open model proposed), the first that matches."""


class Suggestion(Value, frozen=True, kw_only=True):
    """One proposal."""

    name: str
    model: str
    why: str


def suggest(names: Sequence[str], kinds: Mapping[str, str], built_in: Mapping[str, Llm]) -> list[Suggestion]:
    """An open model for each name that is not known. ``kinds``: what a name's calls are (generate, embed, rerank),
    where told."""
    found = []
    for name in names:
        if find(name, built_in) is not None:
            continue
        kind = {"embed": "embedding", "rerank": "reranker"}.get(kinds.get(name, ""), "")
        close = [known for known in nearest(name, built_in) if _alike(name, known)]
        if not is_hosted(name) and close and not kind:
            found.append(Suggestion(name=name, model=close[0], why="the known name most like it"))
            continue
        what, _, model = next(row for row in CLASSES if re.search(row[1], f"{kind} {name}", re.IGNORECASE))
        found.append(Suggestion(name=name, model=model, why=f"{what} by its name"))
    return found


def _alike(name: str, known: str) -> bool:
    """Whether two names share their family: the first word of letters and its number."""
    words = [re.findall(r"[a-z]+|\d+(?:\.\d+)?", text.rpartition("/")[2].lower()) for text in (name, known)]
    return len(set(words[0]) & set(words[1])) >= 2
