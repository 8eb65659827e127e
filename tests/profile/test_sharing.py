"""Names that one LLM's instances serve together: which may, what becomes of their profiles, and what values refuse."""

import msgspec
import pytest

from executor.gateway.config import Endpoint
from scepsy.api.inputs import generate_trace, load_cluster, profiles_of
from scepsy.api.prepare import model_notes
from scepsy.errors import InputError
from scepsy.llm import Served
from scepsy.profile.model import ProfileSet
from scepsy.profile.served import served_by
from scepsy.profile.sharing import require_groups, sharing
from scepsy.workload import Trace

RAG = generate_trace("rag-rewrite", runs=3)
"""Embeds, reranks and generates."""


def kinds() -> dict[str, str]:
    return {call.llm: call.kind for run in RAG.runs for call in run.calls}


def of_kind(kind: str) -> str:
    return next(llm for llm, its in kinds().items() if its == kind)


def profiles(**models: str) -> ProfileSet:
    return profiles_of(models, load_cluster(1))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([["{generate}"]], r"--share is '.+': must be NAME,NAME with two or more names among "),
        ([["{generate}", "nobody"]], r"'nobody' is no LLM of the trace: must be names among "),
        ([["{generate}", "{generate}"]], r"is given twice: must be given once, with all that share in one --share"),
        ([["{generate}", "{embed}"]], r"generate text, those of .+ embed: one model cannot do both, so leave out "),
        ([["{rerank}", "{embed}"]], r"rerank, those of .+ embed: one model cannot do both"),
    ],
)
def test_names_that_cannot_share_are_refused_with_what_to_do(groups: list[list[str]], message: str) -> None:
    named = {kind: of_kind(kind) for kind in ("generate", "embed", "rerank")}
    with pytest.raises(InputError, match=message) as error:
        require_groups([[name.format(**named) for name in group] for group in groups], [RAG])
    assert "\n" not in str(error.value)


def test_a_name_in_two_groups_is_refused() -> None:
    trace = generate_trace("reflection", runs=1, llms={"writer": "a", "critic": "b"})
    with pytest.raises(InputError, match="'b' is given twice"):
        require_groups([["a", "b"], ["b", "a"]], [trace])
    require_groups([["a", "b"]], [trace])


def test_one_llm_answers_to_all_names_of_a_group() -> None:
    found = sharing(profiles(a="qwen3-8b", b="Qwen/Qwen3-8B", c="qwen3-4b"), [["b", "a"]])
    assert {p.llm.name for p in found.profiles} == {"b", "c"}
    assert found.other_names == {"a": "b"}
    assert [s.names for s in served_by(found, ["b", "c"])] == [("b", "a"), ("c",)]
    assert sharing(found, [["b", "a"]]) == found, "once more changes nothing"


def test_nothing_is_changed_where_nothing_shares() -> None:
    given = profiles(a="qwen3-8b", b="qwen3-8b")
    assert sharing(given, []) is given
    assert b"also" not in msgspec.json.encode(given)


def test_names_of_two_models_cannot_share() -> None:
    with pytest.raises(InputError, match=r"a is served by qwen3-8b, b by qwen3-4b: .* give --as 'b=qwen3-8b'"):
        sharing(profiles(a="qwen3-8b", b="qwen3-4b"), [["a", "b"]])


def test_a_name_without_profiles_of_its_own_may_share_those_of_another() -> None:
    assert sharing(profiles(a="qwen3-8b"), [["a", "b"]]).other_names == {"b": "a"}


def test_how_long_calls_are_does_not_make_two_models_of_one() -> None:
    made = profiles(a="qwen3-8b", b="qwen3-8b")
    longer = tuple(
        msgspec.structs.replace(p, llm=msgspec.structs.replace(p.llm, kv_context_tokens=100 if p.llm.name == "a" else 9000))
        for p in made.profiles
    )
    assert sharing(msgspec.structs.replace(made, profiles=longer), [["a", "b"]]).other_names == {"b": "a"}


def test_a_trace_is_renamed_and_is_itself_where_there_is_nothing_to_rename() -> None:
    trace: Trace = generate_trace("reflection", runs=2, llms={"writer": "a", "critic": "b"})
    merged = trace.renamed({"b": "a"})
    assert merged.llms == ("a",)
    assert [[c.id for c in run.calls] for run in merged.runs] == [[c.id for c in run.calls] for run in trace.runs]
    assert merged.renamed({"b": "a"}) is merged
    assert trace.renamed({}) is trace


def test_the_plan_says_who_shares_and_who_could() -> None:
    alone, both = (served_by(p, ["a"]) for p in (profiles(a="qwen3-8b"), sharing(profiles(a="qwen3-8b"), [["a", "b"]])))
    assert model_notes(alone) == []
    (note,) = model_notes(both)
    assert note.startswith("a and b share the instances of one model (qwen3-8b)")
    (could,) = model_notes([*both, Served(llm="c", model="qwen3-8b", hub_id="x/y")])[1:]
    assert "a and c are one model (qwen3-8b), each on instances of its own (--share a,b,c would" in could


@pytest.mark.parametrize("also", [("a",), ("",), ("b", "b")])
def test_other_names_are_names_each_once(also: tuple[str, ...]) -> None:
    for make in (
        lambda: Served(llm="a", model="m", also=also),
        lambda: Endpoint(name="a-0", llm="a", url="http://h:1", also=also),
        lambda: msgspec.structs.replace(profiles(a="qwen3-8b").llm("a"), also=also),
    ):
        with pytest.raises(ValueError, match=r"also is .*: must be names, each once and none 'a'"):
            make()


def test_a_name_is_one_llms_only() -> None:
    made = profiles(a="qwen3-8b", b="qwen3-8b")
    named = tuple(
        msgspec.structs.replace(p, llm=msgspec.structs.replace(p.llm, also=("b",) if p.llm.name == "a" else ()))
        for p in made.profiles
    )
    with pytest.raises(ValueError, match=r"also is 'b': must be a name of one LLM only"):
        msgspec.structs.replace(made, profiles=named)
    first, *rest = (p for p in made.profiles if p.llm.name == "a")
    half = (msgspec.structs.replace(first, llm=msgspec.structs.replace(first.llm, also=("c",))), *rest)
    with pytest.raises(ValueError, match=r"also of a is \(\): must be the same in all its profiles"):
        msgspec.structs.replace(made, profiles=half)
