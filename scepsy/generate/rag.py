"""Retrieval-augmented generation with a reranking model or an LLM as the reranker."""

from collections.abc import Sequence

from scepsy.generate.builder import RunBuilder, Segment, instructions, integer, lognormal, lognormal_s
from scepsy.generate.spec import Role, WorkflowSpec

PASSAGES = 20
SEARCH_MEDIAN_S, SEARCH_SIGMA = 0.030, 0.5

_AYO = "structure, top 20, keep 2-5, 3 rewrites of at most 200 tokens, models: Ayo's published code"
_MONOT5 = "structure and pool sizes: pointwise LLM reranking in the manner of monoT5"
_COMMON = (
    "query 8-64 tokens, log-normal with median 20: assumed",
    "passages 100-200 tokens, uniform: assumed",
    "answer 128-256 tokens, uniform: assumed",
    f"vector search takes {SEARCH_MEDIAN_S * 1e3:.0f} ms (median; log-normal, sigma {SEARCH_SIGMA}): assumed",
)
_PAIRS = "the reranker sees each (query, passage) pair as a prompt of its own, all issued at once: assumed"


def _query(b: RunBuilder) -> Segment:
    return b.text("query", lognormal(b.rng, 20, 0.5, 8, 64))


def _passages(b: RunBuilder, count: int) -> list[Segment]:
    return [b.text(f"passage-{i}", integer(b.rng, 100, 200)) for i in range(count)]


def _rerank(b: RunBuilder, query: Segment, passages: list[Segment], after: Sequence[str], search_s: float) -> list[str]:
    names = []
    for i, passage in enumerate(passages):
        b.call(name := f"rerank-{i}", "reranker", (query, passage), after=after, gap_s=search_s)
        names.append(name)
    return names


def _answer(b: RunBuilder, query: Segment, passages: list[Segment], keep: int, after: list[str]) -> None:
    kept = sorted(b.rng.choice(len(passages), keep, replace=False).tolist())
    prompt = (instructions("rag/answer", 64), *(passages[i] for i in kept), query)
    b.call("answer", "generator", prompt, integer(b.rng, 128, 256), after=after)


def _rag_rerank(b: RunBuilder) -> None:
    query = _query(b)
    b.call("embed", "embedder", (query,))
    passages = _passages(b, PASSAGES)
    ranked = _rerank(b, query, passages, ["embed"], lognormal_s(b.rng, SEARCH_MEDIAN_S, SEARCH_SIGMA))
    _answer(b, query, passages, integer(b.rng, 2, 5), ranked)


def _rag_rewrite(b: RunBuilder) -> None:
    query = _query(b)
    embedded = []
    for i in range(3):
        prompt = (instructions("rag/rewrite", 96), query, b.text(f"angle-{i}", 8))
        rewritten = b.call(f"rewrite-{i}", "rewriter", prompt, lognormal(b.rng, 50, 0.6, 8, 200))
        b.call(f"embed-{i}", "embedder", (rewritten,), after=[f"rewrite-{i}"])
        embedded.append(f"embed-{i}")
    passages = _passages(b, PASSAGES)
    ranked = _rerank(b, query, passages, embedded, lognormal_s(b.rng, SEARCH_MEDIAN_S, SEARCH_SIGMA))
    _answer(b, query, passages, integer(b.rng, 2, 5), ranked)


def _rag_expand(b: RunBuilder) -> None:
    query = _query(b)
    lengths = [lognormal(b.rng, 50, 0.6, 8, 200) for _ in range(3)]
    b.call("expand", "rewriter", (instructions("rag/expand", 96), query), sum(lengths))
    passages = _passages(b, len(lengths) * PASSAGES)
    ranked = []
    for i, tokens in enumerate(lengths):
        b.call(f"embed-{i}", "embedder", (b.text(f"expanded-{i}", tokens),), after=["expand"])
        search_s = lognormal_s(b.rng, SEARCH_MEDIAN_S, SEARCH_SIGMA)
        for j in range(i * PASSAGES, (i + 1) * PASSAGES):
            prompt = (instructions("rag/relevance", 48), query, passages[j])
            b.call(name := f"rerank-{j}", "reranker", prompt, 1, after=[f"embed-{i}"], gap_s=search_s)
            ranked.append(name)
    _answer(b, query, passages, 5, ranked)


def _rag_llm_rerank(b: RunBuilder) -> None:
    query = _query(b)
    b.call("embed", "embedder", (query,))
    passages = _passages(b, int(b.rng.choice([20, 50, 100])))
    search_s = lognormal_s(b.rng, SEARCH_MEDIAN_S, SEARCH_SIGMA)
    ranked = []
    for i, passage in enumerate(passages):
        prompt = (instructions("rag/relevance", 48), query, passage)
        b.call(name := f"rerank-{i}", "reranker", prompt, 1, after=["embed"], gap_s=search_s)
        ranked.append(name)
    _answer(b, query, passages, 5, ranked)


_EMBEDDER = Role("bge-large-en-v1.5", "embed")

WORKFLOWS = (
    WorkflowSpec(
        name="rag-rerank",
        summary="embed the query, vector search top 20, rerank 20 pairs, keep 2-5, generate",
        roles={"embedder": _EMBEDDER, "reranker": Role("bge-reranker-large", "rerank"), "generator": Role("llama-2-7b")},
        build=_rag_rerank,
        sources=(_AYO,),
        assumptions=(*_COMMON, _PAIRS),
    ),
    WorkflowSpec(
        name="rag-rewrite",
        summary="rewrite into 3 queries in parallel, embed each, search, rerank 20 pairs, keep 2-5, generate",
        roles={
            "rewriter": Role("llama-2-7b"),
            "embedder": _EMBEDDER,
            "reranker": Role("bge-reranker-large", "rerank"),
            "generator": Role("llama-2-13b"),
        },
        build=_rag_rewrite,
        sources=(_AYO,),
        assumptions=(*_COMMON, _PAIRS, "rewrites have a median of 50 tokens (log-normal, sigma 0.6, at most 200): assumed"),
    ),
    WorkflowSpec(
        name="rag-expand",
        summary="one call writes 3 queries, each is embedded and searched, an LLM judges its top 20, keep 5, generate",
        roles={
            "rewriter": Role("llama-2-7b"),
            "embedder": _EMBEDDER,
            "reranker": Role("llama-3.2-3b"),
            "generator": Role("llama-2-13b"),
        },
        build=_rag_expand,
        sources=(_AYO, _MONOT5),
        assumptions=(
            *_COMMON,
            "one call writes all three queries, one after the other: assumed, as in query expansion",
            "queries have a median of 50 tokens (log-normal, sigma 0.6, at most 200): assumed",
            "each query finds 20 passages of its own, each judged by one LLM call of one token: assumed",
        ),
    ),
    WorkflowSpec(
        name="rag-llm-rerank",
        summary="search 20, 50 or 100 passages, one LLM reranker call of one token each, keep 5, generate",
        roles={"embedder": _EMBEDDER, "reranker": Role("llama-3.2-3b"), "generator": Role("llama-3.1-8b")},
        build=_rag_llm_rerank,
        sources=(_MONOT5,),
        assumptions=(*_COMMON, "20, 50 and 100 passages are equally likely: assumed"),
    ),
)
