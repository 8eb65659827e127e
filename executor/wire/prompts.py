"""Prompts of a given length that share prefixes as the traced ones did, without knowing what those said.

Token ids are drawn block by block: a block named by the trace (``Call.prefix_hashes``) gives the same ids wherever it occurs
in one run, or in one replay where several sessions share it; all other tokens are private to the run and call. Nothing is
shared between replays (``once`` differs): an engine keeps what it has seen, and the second replay of the same runs would
measure its prefix cache, not its work.
"""

from collections.abc import Container, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np

from scepsy.workload import Call

FIRST_ID, LAST_ID = 32, 126
"""Ids that every vocabulary has and none treats as special: printable ASCII in byte-level and BPE tokenizers."""

WORDS = (" cat", " dog", " sun", " car", " man", " day", " box", " sea", " map", " key", " hat", " cup", " bed", " arm")
"""Texts of equal, known cost for engines that take no token ids: each one token in most vocabularies (calibrated by usage)."""

UNIT = WORDS[0]


def token_ids(call: Call, block_tokens: int, salt: str, once: str = "", shared: Container[int] | None = None) -> list[int]:
    """``call.input_tokens`` token ids: equal for equal leading block hashes, else private to ``salt`` and the call.

    ``once``: replays with different values share nothing. ``shared``: block hashes that several sessions have. All other
    hashes are private to ``salt``, as they are in the simulator (``scepsy.prefixes``). With None every hash is shared: right
    where every run is replayed once.
    """
    parts = []
    left = call.input_tokens
    if block_tokens:
        for block in call.prefix_hashes:
            if left < block_tokens:
                break
            whose = "" if shared is None or block in shared else f"{salt}:"
            parts.append(_ids(f"block:{once}:{whose}{block}", block_tokens))
            left -= block_tokens
    parts.append(_ids(f"own:{once}:{salt}:{call.id}", left))
    return np.concatenate(parts).tolist()  # type: ignore[no-any-return]


def _ids(name: str, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return _draws(name).integers(FIRST_ID, LAST_ID + 1, count)


def _draws(name: str) -> np.random.Generator:
    seed = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")
    return np.random.Generator(np.random.PCG64(seed))


def text_of(tokens: int, tokens_per_unit: float, name: str = "") -> str:
    """Words that cost about ``tokens`` tokens, given what one costs; other ones for another ``name``.

    >>> len(text_of(10, 4.0))
    10
    """
    units = int(tokens / tokens_per_unit)
    rest = round(tokens - units * tokens_per_unit)
    return "".join(WORDS[index] for index in _draws(f"text:{name}").integers(len(WORDS), size=units)) + "a" * rest


def request_of(
    call: Call,
    *,
    block_tokens: int,
    salt: str,
    tokens_per_unit: float,
    context_limit: int,
    once: str = "",
    shared: Container[int] | None = None,
) -> tuple[str, Mapping[str, Any]]:
    """The endpoint (under /v1) and body that repeat a traced call: same kind, same lengths.

    A reranking call of many documents is longer than any context: it becomes as many documents as needed.
    """
    if call.kind == "generate":
        return "completions", {
            "model": call.llm,
            "prompt": token_ids(call, block_tokens, salt, once, shared),
            "max_tokens": call.output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    longest = max(2, context_limit - 8)
    if call.kind == "embed":
        ids = token_ids(call, block_tokens, salt, once, shared)
        return "embeddings", {"model": call.llm, "input": [ids[at : at + longest] for at in range(0, len(ids), longest)]}
    query = 1
    documents: list[str] = []
    left = max(1, call.input_tokens)
    while left > 0:
        size = min(left - query, longest - query) if left > query else 1
        documents.append(text_of(max(1, size), tokens_per_unit, f"{once}:{salt}:{call.id}:{len(documents)}"))
        left -= size + query
    return "rerank", {"model": call.llm, "query": "a", "documents": documents}
