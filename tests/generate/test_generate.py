"""Generated traces against the published numbers they claim.

Means are checked to within four standard errors of the published value (or of the ends of its range): a correct generator
fails such a check once in 16,000 times, and the seeds are fixed, so it fails never or always.
"""

import gzip
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from scepsy.errors import InputError
from scepsy.files.trace import load_trace
from scepsy.generate import WORKFLOWS, generate, generate_runs
from scepsy.generate.builder import BLOCK_TOKENS, BlockIds, Segment
from scepsy.workload import Call, Run, Trace

TRACES = Path(__file__).parents[2] / "traces"


@pytest.fixture(scope="module", params=list(WORKFLOWS))
def sample(request: pytest.FixtureRequest) -> Trace:
    return generate(request.param, runs=20, seed=7)


def check_mean(values, low: float, high: float | None = None) -> None:
    values = np.asarray(values, dtype=float)
    margin = 4 * values.std() / np.sqrt(len(values))
    assert low - margin <= values.mean() <= (low if high is None else high) + margin


def calls_of(trace: Trace, prefix: str) -> list[Call]:
    return [call for run in trace for call in run.calls if call.id.startswith(prefix)]


# every workflow


def test_more_runs_leave_the_first_ones_as_they_are(sample):
    workflow = sample.workflows[0]
    assert list(generate_runs(workflow, runs=25, seed=7))[:20] == list(sample.runs)


def test_another_seed_is_another_trace(sample):
    assert generate(sample.workflows[0], runs=20, seed=8).runs != sample.runs


def test_other_llms_leave_lengths_and_shape_as_they_are(sample):
    spec = WORKFLOWS[sample.workflows[0]]
    other = generate(spec.name, runs=20, seed=7, llms={role: f"other-{role}" for role in spec.roles})

    def shape(trace: Trace) -> list[list[tuple[object, ...]]]:
        return [
            [(c.id, c.parents, c.input_tokens, c.output_tokens, c.gap_s, c.prefix_hashes) for c in run.calls] for run in trace
        ]

    assert shape(other) == shape(sample)
    assert set(other.llms) == {f"other-{role}" for role in spec.roles}


def test_every_role_is_played_and_every_number_has_an_origin(sample):
    spec = WORKFLOWS[sample.workflows[0]]
    assert set(sample.llms) == {role.llm for role in spec.roles.values()}
    assert spec.sources
    assert sample.source.notes == spec.sources
    assert sample.source.assumptions == spec.assumptions
    assert sample.source.origin == f"generated:{spec.name}"
    assert all(
        "assumed" in text or "fitted" in text or "redrawn" in text or "measured" in text or "kept" in text
        for text in spec.assumptions
    )


def test_prefixes_fit_their_prompts(sample):
    for run in sample:
        for call in run.calls:
            assert len(call.prefix_hashes) == call.input_tokens // BLOCK_TOKENS


def test_same_in_another_process():
    script = (
        "import hashlib, msgspec\n"
        "from scepsy.generate import generate\n"
        "print(hashlib.sha256(msgspec.json.encode(generate('debate', runs=5, seed=3))).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("0", "1")
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workflow": "rag-rernk", "runs": 3}, "did you mean rag-rerank"),
        ({"workflow": "chat", "runs": 0}, "runs is 0: must be >= 1"),
        ({"workflow": "chat", "runs": 3, "llms": {"judge": "x"}}, "role is 'judge': must be a role of chat (agent)"),
        ({"workflow": "chat", "runs": 3, "llms": {"agent": ""}}, "LLM of role 'agent' is empty"),
    ],
)
def test_bad_requests_are_refused(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        generate(**arguments)


# prefix blocks


def test_equal_ids_exactly_where_prefixes_are_equal():
    blocks = BlockIds()
    system, a, b = Segment("system", 100, shared=True), Segment("a", 100), Segment("b", 100)
    first = blocks.of((system, a))
    assert first == (0, 1, 2)  # 200 tokens: three whole blocks
    assert blocks.of((system, a)) == first
    assert blocks.of((system, b)) == (0, 3, 4)  # the second block holds 36 tokens of the system prompt and 28 of b
    assert blocks.of((system, a, b))[:3] == first
    blocks.forget_run()
    assert blocks.of((system, a))[0] == 0  # the system prompt outlives the run
    assert blocks.of((system, a))[1] > 4


def test_beams_share_all_but_the_newest_step():
    run = generate("beam-search", runs=1, seed=1).runs[0]
    by_round: dict[str, list[Call]] = {}
    for call in run.calls:
        if call.id.startswith("step"):
            by_round.setdefault(call.id.split("-")[1], []).append(call)
    rounds = list(by_round.values())
    assert all(call.prefix_hashes == calls[0].prefix_hashes for calls in rounds for call in calls)
    for before, after in pairwise(rounds):
        kept = before[0].prefix_hashes
        assert after[0].prefix_hashes[: len(kept)] == kept


# published numbers


def test_beam_search_matches_the_openr_logs():
    trace = generate("beam-search", runs=4000, seed=11)
    rounds = np.array([len({call.id.split("-")[1] for call in run.calls}) for run in trace])
    check_mean(rounds, 6.3)
    assert 0.53 <= rounds.std() / rounds.mean() <= 0.61
    assert 12 <= np.percentile(rounds, 95) <= 14
    assert rounds.max() <= 29
    assert rounds.min() >= 1
    steps = np.array([call.output_tokens for call in calls_of(trace, "step")])
    assert steps.mean() == pytest.approx(47, rel=0.02)
    assert np.median(steps) == pytest.approx(38, abs=1)
    assert np.percentile(steps, 95) == pytest.approx(110, rel=0.03)
    check_mean([sum(call.output_tokens for call in run.calls) for run in trace], 970, 985)
    check_mean([run.calls[0].input_tokens for run in trace], 400)
    # one PRM call per candidate, a single forward over the prompt and all steps
    scores = calls_of(trace, "score")
    assert len(scores) == len(steps)
    assert all(call.kind == "rerank" for call in scores)


@pytest.mark.data
def test_beam_search_matches_the_recorded_rounds(scepsy_data):
    import json

    recorded = [json.loads(line)["rounds"] for line in (scepsy_data / "normalized" / "openr.workflows.jsonl").open()]
    trace = generate("beam-search", runs=2000, seed=5)
    rounds = [len({call.id.split("-")[1] for call in run.calls}) for run in trace]
    assert np.mean(rounds) == pytest.approx(np.mean(recorded), abs=4 * np.std(recorded) / np.sqrt(len(recorded)))
    for q in (25, 50, 75, 95):
        assert abs(np.percentile(rounds, q) - np.percentile(recorded, q)) <= 1


def test_beam_search_as_the_paper_describes_it():
    trace = generate("beam-search-paper", runs=150, seed=2)
    calls = np.array([sum(call.id.startswith("step") for call in run.calls) for run in trace])
    assert calls.min() >= 24
    assert calls.max() <= 844
    assert all(calls % 4 == 0)
    # redrawing outside 6-211 takes more from the right tail: the median stays near 40 expansions
    assert 120 <= np.median(calls) <= 200
    deepest = max(call.input_tokens for run in trace for call in run.calls)
    assert deepest < 4096  # fits the smallest context of the models it is meant for


def test_rag_reranks_twenty_passages_and_keeps_two_to_five():
    trace = generate("rag-rerank", runs=300, seed=3)
    assert {len(run.calls) for run in trace} == {22}
    for run in trace:
        embed, *pairs, answer = run.calls
        assert (embed.kind, answer.kind) == ("embed", "generate")
        assert all(call.kind == "rerank" and call.parents == ("embed",) and call.gap_s > 0 for call in pairs)
        assert set(answer.parents) == {call.id for call in pairs}
        assert max(call.input_tokens for call in pairs) <= 512
    answers = calls_of(trace, "answer")
    check_mean([call.output_tokens for call in answers], 192)
    assert min(call.output_tokens for call in answers) >= 128
    assert max(call.output_tokens for call in answers) <= 256
    check_mean([call.input_tokens for call in answers], 64 + 3.5 * 150 + 20, 64 + 3.5 * 150 + 26)


def test_rag_rewrites_into_three_queries_of_at_most_200_tokens():
    trace = generate("rag-rewrite", runs=200, seed=3)
    rewrites = calls_of(trace, "rewrite")
    assert len(rewrites) == 600
    assert max(call.output_tokens for call in rewrites) <= 200
    assert all(call.parents == () for call in rewrites)


def test_rag_expands_into_three_queries_by_one_call():
    trace = generate("rag-expand", runs=100, seed=3)
    for run in trace:
        by_id = {call.id: call for call in run.calls}
        embeds = [by_id[f"embed-{i}"] for i in range(3)]
        assert sum(call.input_tokens for call in embeds) == by_id["expand"].output_tokens
        assert all(call.parents == ("expand",) for call in embeds)
        found = [by_id[f"rerank-{j}"].parents for j in range(60)]
        assert found == [(f"embed-{j // 20}",) for j in range(60)]
        assert set(by_id["answer"].parents) == {f"rerank-{j}" for j in range(60)}


def test_llm_rerankers_score_each_passage_with_one_token():
    trace = generate("rag-llm-rerank", runs=300, seed=3)
    counts = [sum(call.id.startswith("rerank") for call in run.calls) for run in trace]
    assert set(counts) == {20, 50, 100}
    check_mean(counts, (20 + 50 + 100) / 3)
    assert {call.output_tokens for call in calls_of(trace, "rerank")} == {1}
    assert {call.kind for call in calls_of(trace, "rerank")} == {"generate"}


@pytest.mark.parametrize(
    ("workflow", "calls"), [("debate", 6), ("map-reduce", 15), ("map-reduce-7", 8), ("reflection", 4), ("trading-desk", 88)]
)
def test_agents_make_as_many_calls_as_published_of_at_most_512_tokens(workflow, calls):
    trace = generate(workflow, runs=50, seed=4)
    assert {len(run.calls) for run in trace} == {calls}
    assert max(call.output_tokens for run in trace for call in run.calls) <= 512


def test_debaters_read_every_answer_of_the_round_before():
    run = generate("debate", runs=1, seed=4).runs[0]
    assert [call.parents for call in run.calls] == [()] * 3 + [("agent-0-round-0", "agent-1-round-0", "agent-2-round-0")] * 3
    heard = sum(call.output_tokens for call in run.calls[:3])
    for first, second in zip(run.calls[:3], run.calls[3:], strict=True):
        assert second.input_tokens == first.input_tokens + heard


def test_text_to_sql_matches_the_published_stages():
    trace = generate("text-to-sql", runs=1500, seed=6)
    per_run = np.array([len(run.calls) for run in trace])
    check_mean(per_run, 16, 21)
    assert per_run.min() >= 10
    assert per_run.max() <= 28
    # stage: calls per run (range), mean input (range), mean output (range)
    stages = {
        "retriever": ((4, 4), (306, 306), (7, 7)),
        "keywords": ((0.8, 0.8), (675, 675), (48, 48)),
        "candidate": ((2, 2), (10_000, 12_000), (590, 740)),
        "revision": ((2.85, 2.85), (6_000, 8_000), (82, 188)),
        "tester": ((3, 3), (275, 275), (5, 5)),
        "test-generator": ((1, 1), (1_100, 1_100), (100, 100)),
        "evaluation": ((4.4, 5.4), (900, 1_300), (30, 30)),
    }
    for stage, (calls, inputs, outputs) in stages.items():
        stage_calls = calls_of(trace, stage)
        check_mean([sum(call.id.startswith(stage) for call in run.calls) for run in trace], *calls)
        assert inputs[0] * 0.98 <= np.mean([call.input_tokens for call in stage_calls]) <= inputs[1] * 1.02
        assert outputs[0] * 0.95 - 0.5 <= np.mean([call.output_tokens for call in stage_calls]) <= outputs[1] * 1.05 + 0.5
    assert max(sum(call.id.startswith("revision") for call in run.calls) for run in trace) <= 10


@pytest.mark.parametrize(
    ("workflow", "calls", "inputs", "outputs"),
    [("chat", 6.7, 256, 277), ("tool-agent", 10.8, 735, 34), ("tree-search", 159.7, 467, 73)],
)
def test_one_llm_agents_match_their_published_means(workflow, calls, inputs, outputs):
    trace = generate(workflow, runs=100 if workflow == "tree-search" else 1500, seed=9)
    check_mean([len(run.calls) for run in trace], calls)
    assert np.mean([call.input_tokens for run in trace for call in run.calls]) == pytest.approx(inputs, rel=0.03)
    assert np.mean([call.output_tokens for run in trace for call in run.calls]) == pytest.approx(outputs, rel=0.03)


# committed traces


COMMANDS = re.findall(
    r"^    scepsy (trace generate (\S+) .*-o traces/(\S+))$", (TRACES / "README.md").read_text(), re.MULTILINE
)


def test_every_workflow_and_every_file_is_in_the_readme():
    assert {workflow for _, workflow, _ in COMMANDS} == set(WORKFLOWS)
    assert {name for _, _, name in COMMANDS} == {path.name for path in TRACES.glob("*.jsonl*")}
    assert all(path.stat().st_size < 300_000 for path in TRACES.glob("*.jsonl*"))


@pytest.mark.parametrize(("arguments", "name"), [(arguments, name) for arguments, _, name in COMMANDS])
def test_committed_traces_are_what_their_command_makes(tmp_path, arguments, name):
    from typer.testing import CliRunner

    from scepsy.cli import app

    result = CliRunner().invoke(app, [*arguments.split()[:-1], str(tmp_path / name)])
    assert result.exit_code == 0, result.output
    # zlib's compressed bytes may differ between its versions; the text may not
    assert gzip.decompress((tmp_path / name).read_bytes()) == gzip.decompress((TRACES / name).read_bytes())
    first: Run = load_trace(TRACES / name).runs[0]
    assert first.arrival_s is None
