"""What dividing a GPU wins under the three laws."""

from experiments.checks.sharing import laws, one_gpu, pair
from scepsy.profile import catalogue


def test_prompts_win_most_without_a_budget_and_least_when_everything_is_conserved() -> None:
    profiles = catalogue.builtin_profiles(["llama-3.1-8b"], ["H100-80G"], degrees=(1,))
    won = {}
    for law, ours in laws(profiles).items():
        profile = ours.of("llama-3.1-8b", "H100-80G", 1)
        whole, two = (one_gpu(profile, share, n, ours, (512, 1), 64, 600).calls_per_s for share, n in ((100, 1), (50, 2)))
        won[law] = two / whole
        work_s = profile.step.prefill_s_per_token * 512 + profile.step.attention_s_per_token2 * 512 * 256
        if law != "unlimited":
            assert two <= 1.02 / work_s  # 2 %: calls of the warm-up end in the window
    assert won["unlimited"] > won["budget"] + 0.1 > won["conserved"] + 0.1


def test_the_published_pair_is_slowed_as_measured_within_ten_points() -> None:
    found = pair(400)["budget"]
    assert abs(found["TPOT"] - 19.5) < 10
    assert abs(found["TTFT"] - 1.4) < 10
    assert abs(found["throughput"] + 7.5) < 10
